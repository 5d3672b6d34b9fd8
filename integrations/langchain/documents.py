"""LangChain documents <-> situate's documents and chunks, in one place."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from langchain_core.documents import Document as LangChainDocument

from situate.chunkers.spans import base_context
from situate.errors import InputError
from situate.outside import load_json
from situate.types import Chunk, Context, Document, stable_id

#: The one metadata key that situate adds to a chunk, beside LangChain's own ``start_index``. Its value is text (JSON),
#: because several vector stores take only flat metadata.
STAMP_KEY = "situate"
START_INDEX = "start_index"
#: Where rerankers of LangChain write their score.
RELEVANCE_SCORE = "relevance_score"

#: What a stamp writes even where it is empty or 0.
_ALWAYS = ("document_id", "document_hash", "index", "chunks", "start", "end")


@dataclass(frozen=True)
class Stamp:
    """Where a chunk comes from, as its metadata says it.

    All chunks of a document together hold its whole text: what lies between two of them is kept with the second one.
    A changed document changes the stamps, and so LangChain's hashes, of all its chunks, because all their late
    vectors are stale.

    Attributes:
        document_id: The document's id.
        document_hash: SHA-256 (hex) of the document's text.
        index: The chunk's place among the document's chunks, from 0.
        chunks: How many chunks the document has.
        start: First character in the document's text.
        end: One past the last character.
        before: The document's text between the chunks before and this one (usually white space).
        after: What follows the last chunk.
        own: The document's own ``start_index`` in a list, where its metadata had one.
        context: What situates the chunk.
    """

    document_id: str
    document_hash: str
    index: int
    chunks: int
    start: int
    end: int
    before: str = ""
    after: str = ""
    own: Sequence[Any] = ()
    context: Context = field(default_factory=Context)

    def to_text(self) -> str:
        """The stamp as JSON, without what is empty."""
        values = {**self.__dict__, "context": self.context.to_dict()}
        kept = {name: value for name, value in values.items() if value or name in _ALWAYS}
        return json.dumps(kept, sort_keys=True, ensure_ascii=True)

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Stamp | None:
        """The stamp in a chunk's metadata; None where it has none.

        Raises:
            InputError: There is one that cannot be read.
        """
        text = metadata.get(STAMP_KEY)
        if text is None:
            return None
        try:
            values = load_json(text, STAMP_KEY)
            return cls(**{**values, "context": Context.from_dict(values.get("context") or {})})
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"metadata[{STAMP_KEY!r}] is {str(text)[:80]!r}, which SituateTextSplitter did not write: rename your "
                "own key, or remove it"
            ) from error


# -- documents ------------------------------------------------------------------------------------------------------


def document_id(document: LangChainDocument) -> str:
    """The document's own id; one made of its text and metadata where it has none, so that adding twice adds once."""
    if document.id:
        return str(document.id)
    metadata = json.dumps(document.metadata, sort_keys=True, default=repr)
    return stable_id("langchain", document.page_content, metadata)


def to_document(document: LangChainDocument, id: str | None = None) -> Document:
    """A LangChain document as situate's.

    Args:
        document: Left as it is.
        id: Its id; None: `document_id`.
    """
    return Document(id or document_id(document), document.page_content, copy.deepcopy(document.metadata))


def from_document(document: Document) -> LangChainDocument:
    """The inverse of `to_document`."""
    return LangChainDocument(
        id=document.id, page_content=document.text, metadata=copy.deepcopy(dict(document.metadata))
    )


# -- chunks ---------------------------------------------------------------------------------------------------------


def stamped(document: Document, chunks: Sequence[Chunk]) -> list[Chunk]:
    """The chunks with stamps in their metadata."""
    digest = _digest(document.text)
    result: list[Chunk] = []
    covered = 0
    for place, chunk in enumerate(chunks):
        last = place == len(chunks) - 1
        before = document.text[covered : chunk.start]
        covered = max(covered, chunk.end)
        stamp = Stamp(
            document_id=document.id,
            document_hash=digest,
            index=place,
            chunks=len(chunks),
            start=chunk.start,
            end=chunk.end,
            before=before,
            after=document.text[chunk.end :] if last else "",
            own=_own_start_index(document.metadata),
            context=chunk.context,
        )
        metadata = {**copy.deepcopy(dict(chunk.metadata)), START_INDEX: chunk.start, STAMP_KEY: stamp.to_text()}
        result.append(replace(chunk, metadata=metadata))
    return result


def whole_chunk(document: Document) -> Chunk:
    """The document as its own only chunk, under its own id."""
    return replace(
        Chunk.of(document, 0, 0, len(document.text), base_context(document)),
        id=document.id,
        metadata=dict(document.metadata),
    )


def from_chunk(chunk: Chunk) -> LangChainDocument:
    """A chunk as a LangChain document.

    Its metadata is what was stored, with the stamp's context brought up to date (a situator may have added to it).
    """
    metadata = copy.deepcopy(dict(chunk.metadata))
    stamp = Stamp.of(metadata)
    if stamp is not None:
        metadata[STAMP_KEY] = replace(stamp, context=chunk.context).to_text()
    return LangChainDocument(id=chunk.id, page_content=chunk.text, metadata=metadata)


def to_chunk(document: LangChainDocument, id: str | None = None) -> Chunk:
    """A LangChain document as a chunk: of the document that its stamp names, else of itself.

    Raises:
        InputError: The text is not what was cut there.
    """
    stamp = Stamp.of(document.metadata)
    if stamp is None:
        whole = to_document(document, id)
        return Chunk(whole.id, whole.id, 0, whole.text, 0, len(whole.text), base_context(whole), whole.metadata)
    if stamp.end - stamp.start != len(document.page_content):
        raise InputError(
            f"chunk {stamp.index} of document {stamp.document_id!r} has {len(document.page_content)} characters, but "
            f"{stamp.end - stamp.start} were cut there: change texts before splitting them, or remove "
            f"metadata[{STAMP_KEY!r}] to store this one as a document of its own"
        )
    return Chunk(
        id=id or document_id(document),
        document_id=stamp.document_id,
        index=stamp.index,
        text=document.page_content,
        start=stamp.start,
        end=stamp.end,
        context=stamp.context,
        metadata=copy.deepcopy(document.metadata),
    )


def from_situated(chunk: Chunk) -> LangChainDocument:
    """`from_chunk`, with a stamp also where the chunk had none, so that its context is not lost."""
    document = from_chunk(chunk)
    if STAMP_KEY not in document.metadata:
        whole = chunk.id == chunk.document_id
        stamp = Stamp(
            document_id=chunk.document_id,
            document_hash=_digest(chunk.text) if whole else "",
            index=chunk.index,
            chunks=1 if whole else 0,
            start=chunk.start,
            end=chunk.end,
            own=_own_start_index(document.metadata),
            context=chunk.context,
        )
        document.metadata |= {START_INDEX: chunk.start, STAMP_KEY: stamp.to_text()}
    return document


def from_result(chunk: Chunk, score: float) -> LangChainDocument:
    """A chunk that was found, stamped, with its score as ``relevance_score``."""
    found = from_situated(chunk)
    found.metadata[RELEVANCE_SCORE] = score
    return found


def chunk_context(document: LangChainDocument) -> Context:
    """What situates a chunk (title, headings, ...), as its stamp or else its own metadata says it."""
    stamp = Stamp.of(document.metadata)
    return stamp.context if stamp is not None else base_context(to_document(document))


def situated_text(document: LangChainDocument, fields: Sequence[str] = ("title", "headings", "sentence")) -> str:
    """The chunk's text after what situates it: for a prompt, or for an embedding model that knows nothing of situate.

    Args:
        document: A chunk.
        fields: `Context` fields to write.
    """
    context = chunk_context(document).render(fields)
    return f"{context}\n\n{document.page_content}" if context else document.page_content


def version_of(chunk: Chunk) -> str:
    """Which version of its document a chunk belongs to."""
    stamp = Stamp.of(chunk.metadata)
    return stamp.document_hash if stamp is not None else _digest(chunk.text)


# -- back from chunks to their document -----------------------------------------------------------------------------


def assemble(chunks: Iterable[Chunk]) -> Document:
    """The document that stamped chunks were cut from, as far as they know it.

    Where chunks are missing the text is blank, so that all spans are right. The metadata is the first chunk's without
    what situate added.

    Args:
        chunks: Chunks of one version of one document, each with its stamp.
    """
    ordered = sorted(chunks, key=lambda chunk: (chunk.start, chunk.end))
    pieces: list[tuple[int, str]] = []
    for chunk in ordered:
        if (stamp := Stamp.of(chunk.metadata)) is not None:
            pieces += [(chunk.start - len(stamp.before), stamp.before), (chunk.end, stamp.after)]
        pieces.append((chunk.start, chunk.text))
    length = max((start + len(piece) for start, piece in pieces), default=0)
    text = [" "] * length
    for start, piece in pieces:
        text[start : start + len(piece)] = piece
    first = ordered[0]
    metadata = dict(first.metadata)
    if (stamp := Stamp.of(metadata)) is not None:
        del metadata[STAMP_KEY]
        metadata.pop(START_INDEX, None)
        if stamp.own:
            metadata[START_INDEX] = stamp.own[0]
    return Document(first.document_id, "".join(text), metadata)


def _own_start_index(metadata: Mapping[str, Any]) -> list[Any]:
    return [metadata[START_INDEX]] if START_INDEX in metadata else []


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
