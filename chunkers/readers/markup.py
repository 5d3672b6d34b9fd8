"""HTML source as tags and text with their places, in one pass of linear time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from html import unescape

#: A tag as the HTML standard reads it: a quote opens a value only behind "=". Nothing in it is tried twice.
_TAG = re.compile(
    r"""<(/?)([a-zA-Z][^\s/>]*+)((?:[\s/]++|[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:"[^"]*+"|'[^']*+'|[^\s>"'][^\s>]*+))?+)*+)>"""
)
_TAG_START = re.compile("</?[a-zA-Z]")
_DECLARATION_START = re.compile("<[!?/]")
_DATA = "<![CDATA["
#: Ends of a CDATA section, a comment and a declaration, by how they begin.
_ENDS = {"]]>": re.compile(r"\]\]>"), "--": re.compile("-->|(?<!<!)--!>"), ">": re.compile(">")}
_ATTRIBUTE = re.compile(r"""([^\s/>=][^\s/>=]*+)(?:\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s>"'][^\s>]*+)))?+""")
#: Character references with more digits than any character has.
_LONG_REFERENCE = re.compile(r"&#(?:[xX][0-9a-fA-F]{8,}+|[0-9]{9,}+);?")
#: Elements whose content is text up to their end tag, whatever it looks like.
_RAW = frozenset({"script", "style", "title", "textarea", "xmp", "iframe", "noembed", "noframes"})
#: Those of them that a browser reads to the end of the page where the end tag is missing, and shows nothing of.
UNSEEN = frozenset({"script", "style"})
#: Elements without content.
VOID = frozenset(
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"]
)
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
#: What may stand in a head. Its end tag may be left out; then it ends before anything else.
_IN_HEAD = frozenset(["title", "meta", "link", "base", "script", "style", "noscript", "template"])
_ENDS_PARAGRAPH = frozenset(
    [
        *("address", "article", "aside", "blockquote", "details", "div", "dl", "fieldset", "figcaption", "figure"),
        *(
            "footer",
            "form",
            "header",
            "hr",
            "main",
            "menu",
            "nav",
            "ol",
            "p",
            "pre",
            "section",
            "table",
            "ul",
            *HEADINGS,
        ),
    ]
)
_CELLS = frozenset(["td", "th"])
_ROW_GROUPS = frozenset(["thead", "tbody", "tfoot"])


@dataclass(slots=True)
class Text:
    """``source[start:end]`` between two tags.

    Attributes:
        start: First character.
        end: One past the last.
        literal: Whether it stands in a CDATA section, in which nothing is a character reference.
    """

    start: int
    end: int
    literal: bool = False

    def words(self, source: str) -> str:
        """The text with its character references replaced."""
        written = source[self.start : self.end]
        return written if self.literal else unescaped(written)


@dataclass
class Tag:
    """A start tag, or an end tag that ends an element.

    Attributes:
        name: In lower case.
        start: First character of the tag.
        end: One past its last.
        source: The attributes as they are written.
        closing: Whether it is an end tag.
        last: Of a start tag: the number of the part before which its element ends, by its end tag, that of an element
            around it, or a tag that ends it; None where nothing does.
        closed: Of a start tag: whether its element has an end tag of its own.
    """

    name: str
    start: int
    end: int
    source: str = ""
    closing: bool = False
    last: int | None = None
    closed: bool = False

    @property
    def empty(self) -> bool:
        """Whether the tag is written as that of an element without content: ``<br/>``."""
        return self.source.endswith("/")

    @cached_property
    def attributes(self) -> dict[str, str]:
        """Values by name in lower case; the first of equal names counts."""
        found: dict[str, str] = {}
        for name, double, single, bare in _ATTRIBUTE.findall(self.source):
            found.setdefault(name.lower(), unescaped(double or single or bare))
        return found

    @property
    def hidden(self) -> bool:
        """Whether a browser shows nothing of the element: ``hidden``, ``display:none``, ``visibility``."""
        if not self.source:
            return False
        style = "".join(self.attributes.get("style", "").lower().split())
        hidden = self.attributes.get("hidden")
        return (
            (hidden is not None and hidden.lower() != "until-found")
            or "display:none" in style
            or "visibility:hidden" in style
            or "visibility:collapse" in style
        )


def unescaped(text: str) -> str:
    """The text with its character references replaced."""
    return unescape(_LONG_REFERENCE.sub("\ufffd", text)) if "&" in text else text


def parts(source: str, *, xml: bool = False) -> list[Text | Tag]:
    """The tags and texts of HTML source, in order; comments, declarations, scripts and styles are left out.

    A tag that never ends is text, and so is all that follows it.

    Args:
        source: The source.
        xml: Whether it is XHTML: a tag that ends in ``/>`` is a whole element, and CDATA sections are text. In HTML, a
            browser reads the one as a start tag and the other as a comment.
    """
    found: list[Text | Tag] = []
    elements = _Elements(found, xml)
    for part in _read(source, xml):
        if isinstance(part, Text):
            if part.start < part.end:
                elements.text(source, part)
                found.append(part)
        elif part.closing:
            elements.close(part)
        else:
            elements.open(part)
    return found


class _Elements:
    """The elements that are open, and where each of them ends."""

    def __init__(self, found: list[Text | Tag], xml: bool) -> None:
        self._found = found
        self._xml = xml
        self._open: list[Tag] = []
        self._names: Counter[str] = Counter()

    def text(self, source: str, part: Text) -> None:
        """Text ends a head, whose end tag may be left out."""
        if self._open and self._open[-1].name == "head" and not source[part.start : part.end].isspace():
            self._end()

    def open(self, tag: Tag) -> None:
        name = tag.name
        while self._open and _ended_by(self._open[-1].name, name):
            self._end()
        if name in VOID or (self._xml and tag.empty):
            tag.last = len(self._found) + 1
        else:
            self._open.append(tag)
            self._names[name] += 1
        self._found.append(tag)

    def close(self, tag: Tag) -> None:
        name = tag.name
        if name in HEADINGS and not self._names[name]:
            # Any heading's end tag ends the heading that is open.
            name = next((other for other in HEADINGS if self._names[other]), name)
        if self._names[name]:
            while self._open[-1].name != name:
                self._end()
            self._open[-1].closed = True
            self._end()
        self._found.append(tag)

    def _end(self) -> None:
        ended = self._open.pop()
        ended.last = len(self._found)
        self._names[ended.name] -= 1


def _ended_by(name: str, tag: str) -> bool:
    """Whether a start tag ends the element that is open, whose end tag may be left out."""
    match name:
        case "p":
            return tag in _ENDS_PARAGRAPH
        case "h1" | "h2" | "h3" | "h4" | "h5" | "h6":
            return tag in HEADINGS
        case "li" | "option":
            return tag == name
        case "dt" | "dd":
            return tag in ("dt", "dd")
        case "td" | "th":
            return tag in _CELLS or tag == "tr" or tag in _ROW_GROUPS
        case "tr":
            return tag == "tr" or tag in _ROW_GROUPS
        case "thead" | "tbody" | "tfoot":
            return tag in _ROW_GROUPS
        case "head":
            return tag not in _IN_HEAD
    return False


def _read(source: str, xml: bool) -> Iterator[Text | Tag]:
    """Texts (empty ones included) and tags as they are written."""
    at = begin = 0
    # Marks that do not occur any more: searching for each again would take quadratic time.
    missing: set[str] = set()
    while (at := source.find("<", at)) != -1:
        if _TAG_START.match(source, at):
            match = _TAG.match(source, at)
            if match is None:
                break
            yield Text(begin, at)
            begin = at = match.end()
            name = match[2].lower()
            tag = Tag(name, match.start(), match.end(), match[3], closing=match[1] == "/")
            yield tag
            if name not in _RAW or tag.closing or name in missing or (xml and tag.empty):
                continue
            end = re.compile(f"</{name}(?=[\\s/>])", re.IGNORECASE).search(source, at)
            if end is not None:
                if name not in UNSEEN:
                    yield Text(at, end.start())
                begin = at = end.start()
            elif name in UNSEEN:
                return
            else:
                missing.add(name)
        elif _DECLARATION_START.match(source, at):
            data = xml and source.startswith(_DATA, at)
            mark = "]]>" if data else "--" if source.startswith("<!--", at) else ">"
            stop = None if mark in missing else _ENDS[mark].search(source, at + 2)
            if stop is None:
                missing.add(mark)
                at += 1
            else:
                yield Text(begin, at)
                if data:
                    yield Text(at + len(_DATA), stop.start(), literal=True)
                begin = at = stop.end()
        else:
            at += 1
    yield Text(begin, len(source))
