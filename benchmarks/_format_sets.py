"""Judged sets of code, HTML, Markdown and dialogue whose judgements follow from the data itself."""

from __future__ import annotations

import ast
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import unescape
from pathlib import Path

from examples.asking import Question, load_questions
from situate.chunkers import Document, read_documents
from situate.chunkers.headings import HeadingPath, markdown_headings
from situate.chunkers.readers.html import html_to_markdown
from situate.chunkers.spans import trimmed
from situate.retrievers.evaluation import EvaluationSet, Judgement

Span = tuple[int, int]
Function = ast.FunctionDef | ast.AsyncFunctionDef

# --- code -------------------------------------------------------------------------------------------------------------


def standard_library(smallest: int = 4_000, largest: int = 30_000) -> list[Path]:
    """The public top-level modules of the running Python's standard library between two sizes in bytes, by name."""
    folder = Path(sysconfig.get_path("stdlib"))
    public = (path for path in sorted(folder.glob("*.py")) if not path.name.startswith("_"))
    return [path for path in public if smallest <= path.stat().st_size <= largest]


def code_set(name: str, sources: dict[str, str]) -> EvaluationSet:
    """Functions, queried by the first paragraphs of their docstrings, which are removed from the code.

    The protocol and its filters are CodeSearchNet's (Husain et al. 2019): a question has at least three words, a
    function at least three lines without its docstring; no tests, no dunder methods; a paragraph that several functions
    begin with is a question for none of them. A paragraph that is the function's signature is no question, either.

    Args:
        name: The set's name in tables.
        sources: Document id -> Python source.
    """
    asked = {document_id: _asked(source) for document_id, source in sources.items()}
    often = Counter(question for found in asked.values() for question in found.values())
    documents, queries, judgements = [], {}, []
    for document_id, source in sources.items():
        kept = {number: question for number, question in asked[document_id].items() if often[question] == 1}
        text = _without_docstrings(source, set(kept))
        documents.append(Document(document_id, text))
        starts = _line_starts(text)
        # The same functions in the same order: only docstrings are gone.
        for number, function in enumerate(_functions(ast.parse(text))):
            if number in kept:
                query_id = f"{document_id}:{number}"
                queries[query_id] = kept[number]
                judgements.append(Judgement(query_id, document_id, spans=(_span(text, starts, function),)))
    return EvaluationSet(name, documents, queries, judgements)


def _functions(tree: ast.Module) -> list[Function]:
    return [node for node in ast.walk(tree) if isinstance(node, Function)]


def _asked(source: str) -> dict[int, str]:
    """Number of a function -> the question that asks for it."""
    found = {}
    lines = source.split("\n")
    for number, function in enumerate(_functions(ast.parse(source))):
        words = " ".join((ast.get_docstring(function) or "").split("\n\n")[0].split())
        if (
            len(re.findall(r"[^\W\d_]{2,}", words)) < 3
            or words.startswith(f"{function.name}(")
            or "test" in function.name.lower()
            or re.fullmatch("__.*__", function.name)
        ):
            continue
        first, last = _docstring_lines(function)
        alone = not lines[first - 1][: function.body[0].col_offset].strip() and lines[last - 1].rstrip()[-1:] in "\"'"
        rest = (function.end_lineno or 0) - function.lineno + 1 - (last - first + 1)
        if alone and len(function.body) > 1 and rest >= 3:
            found[number] = words
    return found


def _docstring_lines(function: Function) -> tuple[int, int]:
    docstring = function.body[0]
    return docstring.lineno, docstring.end_lineno or docstring.lineno


def _without_docstrings(source: str, numbers: set[int]) -> str:
    lines = source.split("\n")
    for number, function in enumerate(_functions(ast.parse(source))):
        if number in numbers:
            first, last = _docstring_lines(function)
            # A mark that no source holds, so that line numbers stay right until all of them are out.
            lines[first - 1 : last] = ["\0"] * (last - first + 1)
    return "\n".join(line for line in lines if line != "\0")


def _line_starts(text: str) -> list[int]:
    return [0, *(match.end() for match in re.finditer("\n", text))]


def _span(text: str, starts: Sequence[int], function: Function) -> Span:
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    end = starts[function.end_lineno] if (function.end_lineno or 0) < len(starts) else len(text)
    return trimmed(text, starts[first - 1], end)


# --- HTML -------------------------------------------------------------------------------------------------------------

#: Markup and what it hides; the words of a page stand between the matches. Sphinx writes well-formed pages.
_MARKUP = re.compile(r"<!--.*?-->|<(script|style|head)\b.*?</\1\s*>|<[^>]*>", re.S)
#: A section without sections in it: what FAQ pages have for each question.
_ENTRY = re.compile(
    r'<section id="(?P<slug>[^"]+)">\s*(?:<span id="[^"]*"></span>)*(?P<heading><(?P<tag>h[1-6])>.*?</(?P=tag)>)'
    r"(?P<answer>(?:(?!<section).)*?)</section>",
    re.S,
)
#: The text that replaces a question's heading: a page keeps its structure and loses the words.
HEADING = "Question"
#: Words; shorter answers only point to another one.
_SHORTEST = 12
_BEGIN, _END = "\ue000", "\ue001"


def words_of(source: str) -> list[Span]:
    """The spans of an HTML source that a reader sees: no tags, comments, scripts, styles or head."""
    ends = [0, *(match.end() for match in _MARKUP.finditer(source))]
    starts = [*(match.start() for match in _MARKUP.finditer(source)), len(source)]
    return [span for span in zip(ends, starts, strict=True) if source[slice(*span)].strip()]


def plain(source: str) -> str:
    """The words of a piece of HTML on one line."""
    return " ".join(unescape(_MARKUP.sub("", source)).split())


def html_set(name: str, pages: dict[str, str]) -> tuple[EvaluationSet, EvaluationSet]:
    """The questions that FAQ pages have as headings, and the sections below as their answers.

    The words of a question's heading are removed from all pages: the heading itself becomes "Question", entries of
    tables of contents are removed, a link that quotes it becomes "Question", too, and so do ids and addresses that were
    made of it.

    Args:
        name: The set's name in tables.
        pages: Document id -> HTML source, as Sphinx writes it; those under ``faq/`` give the questions.

    Returns:
        The set over the HTML, whose judgements are the spans of the answers' words, and the same questions over the
        Markdown that `read_documents` would make of the pages.
    """
    entries = {
        (document_id, match["slug"]): plain(match["heading"]).rstrip("¶ ")
        for document_id, source in pages.items()
        if document_id.startswith("faq/")
        for match in _ENTRY.finditer(source)
        if "?" in plain(match["heading"]) and len(plain(match["answer"]).split()) >= _SHORTEST
    }
    often = Counter(entries.values())
    entries = {key: question for key, question in entries.items() if often[question] == 1}
    numbers = {key: number for number, key in enumerate(entries)}
    queries = {f"{document_id}#{slug}": question for (document_id, slug), question in entries.items()}
    sources, texts, in_html, in_text = [], [], [], []
    for document_id, source in pages.items():
        marked = _without_headings(document_id, source, entries, numbers)
        found: dict[int, Span] = {}
        html = _unmarked(marked, found)
        spans = words_of(html)
        markdown, title = html_to_markdown(marked)
        found_in_text: dict[int, Span] = {}
        text = _unmarked(markdown, found_in_text)
        metadata = {"title": title} if title else {}
        sources.append(Document(document_id, html, metadata))
        texts.append(Document(document_id, text, metadata))
        for key, number in numbers.items():
            if key[0] == document_id:
                start, end = found[number]
                answer = tuple((max(a, start), min(b, end)) for a, b in spans if a < end and b > start)
                query_id = "#".join(key)
                in_html.append(Judgement(query_id, document_id, spans=answer))
                in_text.append(Judgement(query_id, document_id, spans=(trimmed(text, *found_in_text[number]),)))
    return EvaluationSet(name, sources, queries, in_html), EvaluationSet(name, texts, queries, in_text)


def _without_headings(
    page: str, source: str, entries: dict[tuple[str, str], str], numbers: dict[tuple[str, str], int]
) -> str:
    """The page without the words of questions' headings, with marks around the answers."""

    def entry(match: re.Match[str]) -> str:
        number = numbers.get((page, match["slug"]))
        if number is None:
            return match[0]
        heading = f"<{match['tag']}>{HEADING}</{match['tag']}>"
        before = match[0][: match.start("heading") - match.start()]
        return f"{before}{heading}{_BEGIN}{number} {match['answer']}{_END}</section>"

    source = _ENTRY.sub(entry, source)
    asked = set(entries.values())
    listed = re.compile(r"<li>(?:<p>)?(<a [^>]*>(?:(?!</?a\b).)*</a>)(?:</p>)?\s*</li>", re.S)
    source = listed.sub(lambda match: "" if plain(match[1]) in asked else match[0], source)
    link = re.compile(r"(<a [^>]*>)((?:(?!</?a\b).)*)</a>", re.S)
    source = link.sub(lambda match: f"{match[1]}{HEADING}</a>" if plain(match[2]) in asked else match[0], source)
    for (_, slug), number in numbers.items():
        source = re.sub(rf'(?<=["#]){re.escape(slug)}(?=")', f"entry-{number}", source)
    return source


def _unmarked(text: str, found: dict[int, Span]) -> str:
    """The text without its marks; ``found`` gets the place of each marked part."""
    pieces: list[str] = []
    size = 0
    opened: tuple[int, int] | None = None
    for piece in re.split(f"({_BEGIN}[0-9]+ ?|{_END})", text):
        if piece.startswith(_BEGIN):
            opened = int(piece[1:]), size
        elif piece == _END and opened is not None:
            found[opened[0]] = (opened[1], size)
        else:
            pieces.append(piece)
            size += len(piece)
    return "".join(pieces)


# --- Markdown ---------------------------------------------------------------------------------------------------------


def markdown_set(folder: Path, questions: Path) -> EvaluationSet:
    """The examples' handbook: its questions, and the sections that answer them, without their own headings."""
    documents = list(read_documents(folder))
    asked = [question for question in load_questions(questions) if question.document]
    judgements = [
        Judgement(str(number), document.id, spans=_answering(document, question))
        for number, question in enumerate(asked)
        for document in documents
        if document.id == question.document
    ]
    queries = {str(number): question.text for number, question in enumerate(asked)}
    return EvaluationSet("handbook", documents, queries, judgements)


def _answering(document: Document, question: Question) -> tuple[Span, ...]:
    text = document.text
    headings = markdown_headings(text)
    path = HeadingPath(headings)
    ends = [*(heading.start for heading in headings[1:]), len(text)]
    return tuple(
        trimmed(text, heading.end, end)
        for heading, end in zip(headings, ends, strict=True)
        if " > ".join(path.at(heading.start)).endswith(question.heading) and text[heading.end : end].strip()
    )


# --- dialogue ---------------------------------------------------------------------------------------------------------

_MESSAGE = re.compile(
    r"""'content': (?P<quote>['"])(?P<content>(?:\\.|(?!(?P=quote)).)*)(?:(?P=quote), 'role': '(?P<role>\w+)'|\Z)""",
    re.S,
)
_ESCAPE = re.compile(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|.)", re.S)


def dialogue_set(data: EvaluationSet, document_id: str = "chatlogs") -> EvaluationSet:
    """A document of written-down chats as a transcript ("user: ..."), with its questions and judged excerpts.

    Each excerpt becomes a judgement of its own.

    Args:
        data: The set that holds it.
        document_id: A document that consists of Python lists of ``{'content': ..., 'role': ...}``.
    """
    source = next(document.text for document in data.documents if document.id == document_id)
    text, place = transcript(source)
    judgements = [
        replace(judgement, spans=(part,))
        for judgement in data.judgements
        if judgement.document_id == document_id
        for start, end in judgement.spans or ()
        for part in _parts(place[start:end])
    ]
    asked = {judgement.query_id for judgement in judgements}
    queries = {query_id: question for query_id, question in data.queries.items() if query_id in asked}
    return EvaluationSet(document_id, [Document(document_id, text)], queries, judgements)


def transcript(source: str) -> tuple[str, list[int]]:
    """The chats as "role: message" lines, and the place in them of each character of the source (-1: none)."""
    place = [-1] * len(source)
    pieces: list[str] = []
    size = 0

    def add(piece: str) -> None:
        nonlocal size
        pieces.append(piece)
        size += len(piece)

    ended = 0
    role = "user"
    for match in _MESSAGE.finditer(source):
        if "]" in source[ended : match.start()]:
            add("\n")  # the next chat
        # The last message of a text that was cut off has no role left: turns alternate.
        role = match["role"] or ("assistant" if role == "user" else "user")
        add(f"{role}: ")
        at = match.start("content")
        while at < match.end("content"):
            escape = _ESCAPE.match(source, at)
            place[at] = size
            add(source[at] if escape is None else ast.literal_eval(f"'{escape[0]}'"))
            at = at + 1 if escape is None else escape.end()
        add("\n")
        ended = match.end()
    return "".join(pieces), place


def _parts(places: Sequence[int]) -> Iterator[Span]:
    """Runs of places that follow each other."""
    start = end = -1
    for at in places:
        if at < 0:
            continue
        if at != end:
            if start >= 0:
                yield start, end
            start = at
        end = at + 1
    if start >= 0:
        yield start, end
