"""Scores spread along links between documents (ATLANTIC, Munikoti et al. 2023, trains a model on such links)."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from situate.errors import InputError
from situate.parameters import checked_parameters
from situate.retrievers.pipeline.steps import note
from situate.retrievers.rerank.ranking import distinct, reranked
from situate.retrievers.search.fusion import stretched
from situate.retrievers.types import Hit

#: Targets of Markdown's and HTML's links; bounded, so that no text takes more than linear time.
_LINK = re.compile(
    r"\]\(\s*<?((?:[^\s()<>]|\([^\s()<>]{0,99}\)){1,500})|href\s*=\s*[\"']?([^\s\"'<>]{1,500})", re.IGNORECASE
)
#: How a target begins that is no path.
_SCHEME = re.compile(r"[a-zA-Z][\w+.-]*:")
#: Where metadata says what a document is called elsewhere.
_NAMES = ("url", "source", "path", "file_path")


@checked_parameters
class LinkReranker:
    """Raises hits whose documents link to, or are linked from, the documents of better hits. No model is asked.

    A hit's score, stretched to [0, 1] over the hits, is raised by ``share`` of what is missing to the mean of the best
    scores of the linked documents among the hits, where that is higher; no hit falls. Documents that no hit belongs to
    are not brought in.

    Links are the values under ``key`` in the metadata, and the targets of Markdown and HTML links in the hits' texts. A
    target means a document by its id, by its path (``context.path``), or by ``url``, ``source``, ``path`` or
    ``file_path`` in its metadata; a relative one counts from the linking document's own place. Anchors do not count.

    Args:
        share: Share of the distance to the linked documents' scores, in [0, 1].
        key: The metadata key that holds a target, or a list of them; None for the texts' links alone.
        text: Whether links in the texts count.
        top: Only the first so many hits take part; None for all.
        name: The step's name, under which the score is noted.

    Raises:
        InputError: ``share`` is not in [0, 1], ``top`` is less than 1, or neither metadata nor texts are read.
    """

    def __init__(
        self,
        share: float = 0.3,
        *,
        key: str | None = "links",
        text: bool = True,
        top: int | None = None,
        name: str = "links",
    ) -> None:
        if not 0 <= share <= 1:
            raise InputError(f"share={share} must lie between 0 and 1")
        if top is not None and top < 1:
            raise InputError(f"top={top} must be 1 or more, or None for all hits")
        if not key and not text:
            raise InputError(f"key={key!r} and text=False leave no links: name a metadata key, or read the texts")
        self.share = share
        self.key = key
        self.text = text
        self.top = top
        self.name = name

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """New hits, best first. The query is not read: the hits' scores stand for it."""
        found = distinct(hits)
        part = found[: self.top]
        if not part:
            return found
        own = stretched([hit.score for hit in part])
        best: dict[str, float] = {}
        for hit, score in zip(part, own, strict=True):
            best[hit.chunk.document_id] = max(score, best.get(hit.chunk.document_id, 0.0))
        linked = self.linked(part)
        note(links=sum(map(len, linked.values())) // 2)
        scores = []
        for hit, score in zip(part, own, strict=True):
            others = linked.get(hit.chunk.document_id)
            mean = sum(best[name] for name in others) / len(others) if others else 0.0
            scores.append(score + self.share * max(0.0, mean - score))
        return reranked(self.name, part, scores) + found[len(part) :]

    async def arerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """`rerank`, which does not block."""
        return self.rerank(query, hits)

    def linked(self, hits: Sequence[Hit]) -> Mapping[str, Collection[str]]:
        """Document id -> the ids of the other documents that it links to or is linked from, in order."""
        known: dict[str, str] = {}
        for hit in hits:
            for name in _names(hit):
                known.setdefault(name, hit.chunk.document_id)
        pairs: dict[str, dict[str, None]] = {}
        for hit in hits:
            own = hit.chunk.document_id
            for target in self._targets(hit):
                other = next((known[name] for name in _meant(target, hit) if name in known), None)
                if other is not None and other != own:
                    pairs.setdefault(own, {})[other] = None
                    pairs.setdefault(other, {})[own] = None
        return pairs

    def _targets(self, hit: Hit) -> Iterable[str]:
        given: Any = hit.chunk.metadata.get(self.key) if self.key else None
        if isinstance(given, str):
            yield given
        elif isinstance(given, list | tuple):
            yield from (target for target in given if isinstance(target, str))
        if self.text:
            yield from (match[1] or match[2] for match in _LINK.finditer(hit.chunk.text))


def _names(hit: Hit) -> list[str]:
    """What a hit's document is called, in the form that links are compared in."""
    metadata = hit.chunk.metadata
    named = [hit.chunk.document_id, hit.chunk.context.path, *(metadata.get(key) for key in _NAMES)]
    return [_plain(name) for name in named if isinstance(name, str) and name.strip()]


def _meant(target: str, hit: Hit) -> Iterable[str]:
    """The names that a target may stand for: as it is, then from the place of each of the document's names."""
    yield _plain(target)
    if not _SCHEME.match(target):
        path = target.partition("#")[0]
        for name in _names(hit):
            yield _plain(posixpath.join(posixpath.dirname(name), unquote(path)))


def _plain(name: str) -> str:
    """A name or a target without its anchor, and without ``.`` and ``..`` where it is a path."""
    bare = unquote(name.partition("#")[0]).strip().replace("\\", "/")
    scheme, separator, rest = bare.partition("://")
    path = posixpath.normpath(rest if separator else bare) if bare else ""
    return f"{scheme.lower()}://{path}" if separator else path
