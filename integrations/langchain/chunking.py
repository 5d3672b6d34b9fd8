"""situate's chunkers for LangChain's splitters, and the other way round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

from langchain_text_splitters import TextSplitter

from situate.chunkers.spans import chunks_from_spans, recover_spans
from situate.integrations.langchain.documents import stamped
from situate.types import Chunk, Chunker, Document


@dataclass(frozen=True)
class LangChainChunker:
    """Any LangChain text splitter as a `Chunker`, with exact spans.

    LangChain finds a piece's place by searching for it, which is silently wrong where a text repeats itself; here all
    pieces are placed together.

    Attributes:
        splitter: Cuts texts; it may strip and rewrite white space, but must not change words.
    """

    splitter: TextSplitter

    def fingerprint(self) -> Mapping[str, Any]:
        """The splitter's class and its settings, as far as they are plain values."""
        settings = {k: v for k, v in vars(self.splitter).items() if isinstance(v, str | int | float | list | None)}
        return {"chunker": "LangChainChunker", "splitter": _name(self.splitter), **settings}

    def split(self, document: Document) -> list[Chunk]:
        """The document's chunks in order.

        Raises:
            SpanError: The splitter returned a piece that does not stand in the text.
        """
        pieces = [piece for piece in self.splitter.split_text(document.text) if piece.strip()]
        return chunks_from_spans(document, recover_spans(document.text, pieces))


@dataclass(frozen=True)
class StampingChunker:
    """A chunker whose chunks say in their metadata where they come from.

    Attributes:
        chunker: Cuts the documents.
    """

    chunker: Chunker

    def fingerprint(self) -> Mapping[str, Any]:
        """What the chunker underneath says of itself."""
        return {"chunker": "StampingChunker", "of": describe(self.chunker)}

    def split(self, document: Document) -> list[Chunk]:
        """The document's chunks in order, stamped."""
        return stamped(document, self.chunker.split(document))


def describe(chunker: Chunker) -> Any:
    """What a chunker does, as JSON values that are the same in every process."""
    if callable(fingerprint := getattr(chunker, "fingerprint", None)):
        return fingerprint()
    return repr(chunker) if is_dataclass(chunker) else _name(chunker)


def as_chunker(splitter: TextSplitter | Chunker) -> Chunker:
    """A splitter of either kind as a chunker."""
    from situate.integrations.langchain.splitter import SituateTextSplitter

    if isinstance(splitter, SituateTextSplitter):
        return splitter.chunker
    return LangChainChunker(splitter) if isinstance(splitter, TextSplitter) else splitter


def _name(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"
