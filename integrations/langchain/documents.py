"""LangChain documents <-> situate's documents and chunks, in one place."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from uuid import UUID

import numpy as np
from langchain_core.documents import Document as LangChainDocument

from situate.chunkers.spans import base_context
from situate.errors import InputError
from situate.integrations._shared.marking import place_metadata, read_highlight, read_where
from situate.integrations._shared.origin import (
    CONTEXT_KEY,
    DEGRADED_KEY,
    HIGHLIGHT_KEY,
    MATCHED_KEY,
    ORIGIN_KEY,
    WHERE_KEY,
    ChunkOrigin,
    digest,
)
from situate.integrations._shared.pages import completed, file_groups, file_parts, joined
from situate.integrations._shared.splitting import read
from situate.outside import load_json
from situate.retrievers.marks import Highlight
from situate.retrievers.types import Hit
from situate.retrievers.where import Where
from situate.types import PAGE, PAGE_METADATA, PAGE_SPAN, PAGE_STARTS, PAGES, Chunk, Context, Document, stable_id

if TYPE_CHECKING:
    from situate.retrievers.index.index import Index

START_INDEX = "start_index"
#: The metadata key under which LangChain's rerankers write their score.
RELEVANCE_SCORE = "relevance_score"

#: `Context` fields that prompts and models read.
SHOWN = ("title", "headings", "sentence")
#: The form of ``page_content`` of a found passage.
Content: TypeAlias = Literal["text", "situated"]

#: Metadata keys that are added to a found passage.
_ADDED = (RELEVANCE_SCORE, DEGRADED_KEY, CONTEXT_KEY, WHERE_KEY, HIGHLIGHT_KEY, MATCHED_KEY)

#: Fields that an origin always writes, and those that it writes only if they are set.
_ALWAYS = ("document_id", "document_hash", "index", "chunks", "start", "end")
_FIELDS = (*_ALWAYS, "before", "after", "own", "pages")


def origin_text(origin: ChunkOrigin) -> str:
    """The origin as JSON, without empty fields."""
    values = {**{name: getattr(origin, name) for name in _FIELDS}, "context": origin.context.to_dict()}
    kept = {name: value for name, value in values.items() if value or name in _ALWAYS}
    return json.dumps(kept, sort_keys=True, ensure_ascii=True)


def read_origin(metadata: Mapping[str, Any]) -> ChunkOrigin | None:
    """The origin in a chunk's metadata; None where it has none.

    Raises:
        InputError: There is one that cannot be read.
    """
    text = metadata.get(ORIGIN_KEY)
    if text is None:
        return None
    try:
        values = load_json(text, ORIGIN_KEY)
        if not {*_ALWAYS} <= values.keys():
            raise ValueError("incomplete")
        return ChunkOrigin(**{**values, "context": Context.from_dict(values.get("context") or {})})
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"metadata[{ORIGIN_KEY!r}] is {str(text)[:80]!r}, which SituateTextSplitter did not write: rename your "
            "own key, or remove it"
        ) from error


_PAGE_KEYS = (PAGE_STARTS, PAGE_METADATA, PAGE, PAGES, PAGE_SPAN)

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
    return Document(id or document_id(document), document.page_content, _own(document.metadata))


def to_whole_document(document: LangChainDocument, id: str | None = None) -> Document:
    """`to_document` before splitting: HTML source, as loaders return it, is read as Markdown."""
    given = to_document(document, id)
    text, metadata = read(given.text, given.metadata, given.metadata.get("source") or given.metadata.get("file_path"))
    return given if text == given.text else Document(given.id, text, metadata)


def whole_documents(
    documents: Sequence[LangChainDocument], ids: Sequence[str | None], *, join_pages: bool
) -> list[tuple[Document, list[int]]]:
    """Documents before splitting, each with the places of those that it was made of.

    The pages or elements of one file are one document; a page with an id of its own stays a document of its own, so
    that it can be replaced and deleted by that id.

    Args:
        documents: Left as they are.
        ids: Their ids, before those that they carry.
        join_pages: False: each is a document of its own.
    """
    whole = [to_whole_document(document, id) for document, id in zip(documents, ids, strict=True)]
    if not join_pages:
        return [(document, [place]) for place, document in enumerate(whole)]
    named = [bool(id or document.id) for document, id in zip(documents, ids, strict=True)]
    free = file_parts([None if has_id else document for document, has_id in zip(whole, named, strict=True)])
    made: list[tuple[Document, list[int]]] = []
    for group in file_groups(free):
        alone = free[group[0]] is None
        made.append((whole[group[0]] if alone else joined([whole[n] for n in group]), group))
    return made


def with_stored_pages(documents: Sequence[Document], index: Index) -> list[Document]:
    """The documents; a file of which some pages come has those besides that the index holds."""
    result: list[Document] = []
    for document in documents:
        stored = index.get_chunks([document.id]) if PAGE_METADATA in document.metadata else []
        result.append(completed(document, stored, assemble(stored).text) if stored else document)
    return result


def join_pages(documents: Sequence[LangChainDocument]) -> list[LangChainDocument]:
    """The documents, with the pages or elements of one file as one document, whose id is the file's path.

    For LangChain's ``index()``, which gives every document an id of its own: it then keeps its records by files, and a
    file of which a page has changed is read anew as a whole.

    Args:
        documents: As a loader returned them; left as they are.
    """
    whole = whole_documents(documents, [None] * len(documents), join_pages=True)
    return [
        from_document(document) if document.id != document_id(documents[group[0]]) else documents[group[0]]
        for document, group in whole
    ]


def from_document(document: Document) -> LangChainDocument:
    """The inverse of `to_document`."""
    return LangChainDocument(
        id=document.id, page_content=document.text, metadata=copy.deepcopy(dict(document.metadata))
    )


# -- chunks ---------------------------------------------------------------------------------------------------------


def with_origins(document: Document, chunks: Sequence[Chunk]) -> list[Chunk]:
    """The chunks with origins in their metadata."""
    version = digest(document.text)
    result: list[Chunk] = []
    covered = 0
    for place, chunk in enumerate(chunks):
        last = place == len(chunks) - 1
        before = document.text[covered : chunk.start]
        covered = max(covered, chunk.end)
        origin = ChunkOrigin(
            document_id=document.id,
            document_hash=version,
            index=place,
            chunks=len(chunks),
            start=chunk.start,
            end=chunk.end,
            before=before,
            after=document.text[chunk.end :] if last else "",
            own=_own_start_index(document.metadata),
            pages=_page_keys(document.metadata) if not place and document.page_starts else {},
            context=chunk.context,
        )
        metadata = {**copy.deepcopy(dict(chunk.metadata)), START_INDEX: chunk.start, ORIGIN_KEY: origin_text(origin)}
        result.append(replace(chunk, metadata=metadata))
    return result


def from_chunk(chunk: Chunk) -> LangChainDocument:
    """A chunk as a LangChain document.

    Its metadata is the stored one, with the origin's context updated (a situator may have added to it).
    """
    metadata = copy.deepcopy(dict(chunk.metadata))
    origin = read_origin(metadata)
    if origin is not None:
        metadata[ORIGIN_KEY] = origin_text(replace(origin, context=chunk.context))
    return LangChainDocument(id=chunk.id, page_content=chunk.text, metadata=metadata)


def to_chunk(document: LangChainDocument, id: str | None = None) -> Chunk:
    """A LangChain document as a chunk: of the document that its origin names, else of itself.

    Raises:
        InputError: The text is longer than the span of its origin.
    """
    origin = read_origin(document.metadata)
    if origin is None:
        whole = to_document(document, id)
        return Chunk(whole.id, whole.id, 0, whole.text, 0, len(whole.text), base_context(whole), whole.metadata)
    if len(document.page_content) < origin.end - origin.start:
        # Another splitter cut the chunk further (`ParentDocumentRetriever`): a passage of its own in the same context.
        metadata = {key: value for key, value in _own(document.metadata).items() if key != ORIGIN_KEY}
        own = LangChainDocument(id=document.id, page_content=document.page_content, metadata=metadata)
        piece = to_chunk(own, id)
        return replace(piece, context=origin.context)
    if origin.end - origin.start != len(document.page_content):
        raise InputError(
            f"chunk {origin.index} of document {origin.document_id!r} has {len(document.page_content)} characters, but "
            f"{origin.end - origin.start} were cut there: change texts before splitting them, or remove "
            f"metadata[{ORIGIN_KEY!r}] to store this one as a document of its own"
        )
    return Chunk(
        id=id or document_id(document),
        document_id=origin.document_id,
        index=origin.index,
        text=document.page_content,
        start=origin.start,
        end=origin.end,
        context=origin.context,
        metadata=_own(document.metadata),
    )


def _own(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a document's metadata without the keys that a search adds."""
    if CONTEXT_KEY in metadata and ORIGIN_KEY not in metadata:
        raise InputError(f"metadata[{CONTEXT_KEY!r}] is where a found passage shows its context: rename your own key")
    added = {*_ADDED} - {RELEVANCE_SCORE}
    return {key: copy.deepcopy(value) for key, value in metadata.items() if key not in added}


def from_situated(chunk: Chunk) -> LangChainDocument:
    """`from_chunk`, with an origin also where the chunk had none, so that its context is not lost."""
    document = from_chunk(chunk)
    if ORIGIN_KEY not in document.metadata:
        whole = chunk.id == chunk.document_id
        origin = ChunkOrigin(
            document_id=chunk.document_id,
            document_hash=digest(chunk.text) if whole else "",
            index=chunk.index,
            chunks=1 if whole else 0,
            start=chunk.start,
            end=chunk.end,
            own=_own_start_index(document.metadata),
            context=chunk.context,
        )
        document.metadata |= {START_INDEX: chunk.start, ORIGIN_KEY: origin_text(origin)}
    return document


class RetrievedDocument(LangChainDocument):
    """A passage that a query found.

    Equal to any document with the same id, text and stored metadata, whatever its score and its query's failed steps:
    so `MultiQueryRetriever` and others that gather passages of several queries take each one once.
    """

    @classmethod
    def lc_id(cls) -> list[str]:
        """Serialised as LangChain's own document."""
        return LangChainDocument.lc_id()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LangChainDocument):
            return NotImplemented
        return _compared(self) == _compared(other)

    __hash__ = None  # type: ignore[assignment]  # as LangChain's documents


def _compared(document: LangChainDocument) -> tuple[Any, ...]:
    metadata = {key: value for key, value in document.metadata.items() if key not in _ADDED}
    return document.id, document.page_content, metadata


def from_found(hit: Hit, content: Content = "text") -> LangChainDocument:
    """A chunk that a store found, with its context under ``document_context``, for prompts, and its place.

    Args:
        hit: The chunk. One that was stored as a document of its own, without an origin, is returned as it is.
        content: "situated" also writes its context in front of ``page_content``; ``start_index``, the origin and
            ``situate_where`` still give the span of the passage alone.
    """
    found = from_chunk(hit.chunk)
    return _shown(found, hit, content) if ORIGIN_KEY in found.metadata else found


def from_result(hit: Hit, content: Content = "text", degraded: Mapping[str, str] | None = None) -> LangChainDocument:
    """A chunk that a retriever found: `from_found`, always with an origin, and with its score as ``relevance_score``.

    Args:
        hit: The chunk.
        content: As in `from_found`.
        degraded: The optional steps of the query that failed, with the reasons; noted as ``situate_degraded``.
    """
    found = _shown(from_situated(hit.chunk), hit, content)
    found.metadata |= {RELEVANCE_SCORE: float(hit.score), **({DEGRADED_KEY: dict(degraded)} if degraded else {})}
    return found


def _shown(found: LangChainDocument, hit: Hit, content: Content) -> RetrievedDocument:
    text = situated_text(found) if content == "situated" else found.page_content
    metadata = {
        CONTEXT_KEY: chunk_context(found).render(SHOWN),
        **found.metadata,
        **place_metadata(hit, len(text) - len(found.page_content)),
    }
    return RetrievedDocument(id=found.id, page_content=text, metadata=metadata)


def passage_where(document: LangChainDocument) -> Where | None:
    """Where a found passage stands: document, title, headings, pages, character span; None of other documents."""
    return read_where(document.metadata)


def passage_highlight(document: LangChainDocument) -> Highlight | None:
    """The spans of ``page_content`` that match the query best, with their forms for terminals, HTML and Markdown.

    None where nothing has marked any: see `SituateHighlighter`, and ``highlight=True`` of the retrievers.
    """
    return read_highlight(document.metadata, document.page_content)


def chunk_context(document: LangChainDocument) -> Context:
    """A chunk's context (title, headings, ...), from its origin or else its own metadata."""
    origin = read_origin(document.metadata)
    return origin.context if origin is not None else base_context(to_document(document))


def situated_text(document: LangChainDocument, fields: Sequence[str] = SHOWN) -> str:
    """The chunk's text after its context, for a prompt or for another library's embedding model.

    Args:
        document: A chunk.
        fields: `Context` fields to write.
    """
    context = chunk_context(document).render(fields)
    return f"{context}\n\n{document.page_content}" if context else document.page_content


def version_of(chunk: Chunk) -> str:
    """Which version of its document a chunk belongs to."""
    origin = read_origin(chunk.metadata)
    return origin.document_hash if origin is not None else digest(chunk.text)


# -- back from chunks to their document -----------------------------------------------------------------------------


def assemble(chunks: Iterable[Chunk]) -> Document:
    """The document that chunks with origins were cut from, as far as the origins tell.

    Where chunks are missing the text is blank, so that all spans are right. The metadata is the first chunk's without
    situate's keys; where the document's first chunk is missing, so are its page starts.

    Args:
        chunks: Chunks of one version of one document, each with its origin.
    """
    ordered = sorted(chunks, key=lambda chunk: (chunk.start, chunk.end))
    pieces: list[tuple[int, str]] = []
    for chunk in ordered:
        if (origin := read_origin(chunk.metadata)) is not None:
            pieces += [(chunk.start - len(origin.before), origin.before), (chunk.end, origin.after)]
        pieces.append((chunk.start, chunk.text))
    length = max((start + len(piece) for start, piece in pieces), default=0)
    text = [" "] * length
    for start, piece in pieces:
        text[start : start + len(piece)] = piece
    first = ordered[0]
    metadata = dict(first.metadata)
    if (origin := read_origin(metadata)) is not None:
        del metadata[ORIGIN_KEY]
        metadata.pop(START_INDEX, None)
        if origin.own:
            metadata[START_INDEX] = origin.own[0]
        if PAGE_SPAN in metadata:
            known = origin.pages.get(PAGE_METADATA)
            of_page = known[metadata[PAGE] - 1] if known else {}
            own = {key: value for key, value in metadata.items() if key not in _PAGE_KEYS and key not in of_page}
            metadata = own | dict(origin.pages)
    return Document(first.document_id, "".join(text), metadata)


def _page_keys(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {key: metadata[key] for key in _PAGE_KEYS if key in metadata}


def _own_start_index(metadata: Mapping[str, Any]) -> list[Any]:
    return [metadata[START_INDEX]] if START_INDEX in metadata else []


# -- which documents a call is about ---------------------------------------------------------------------------------

#: A document with its chunks.
Item: TypeAlias = tuple[Document, list[Chunk]]


@dataclass(frozen=True)
class Additions:
    """The documents of one call of ``add``.

    Attributes:
        ids: The ids that the caller's documents are stored under, in order.
        files: Files that were joined from their pages, or some of these, and are still to be cut.
        whole: Other documents that are still to be cut.
        cut: Documents all of whose chunks are here.
        partial: Documents some of whose chunks are here.
    """

    ids: list[str]
    files: list[Document]
    whole: list[Document]
    cut: list[Item]
    partial: list[DocumentParts]


def additions(
    documents: Iterable[LangChainDocument],
    ids: Sequence[str | None] | None,
    *,
    splits: bool,
    join_pages: bool = True,
) -> Additions:
    """The documents of a call.

    Args:
        documents: The caller's; left as they are.
        ids: Their ids, before those that they carry.
        splits: Whether documents without an origin are cut by the store.
        join_pages: Whether those that are pages or elements of one file are one document.

    Raises:
        InputError: There are not as many ids as documents, two different documents have the same id, or a chunk was
            changed after splitting.
    """
    documents = _listed(documents)
    ids = None if ids is None else text_ids(ids)
    if ids is not None and len(ids) != len(documents):
        raise InputError(f"{len(ids)} ids for {len(documents)} documents: give one for each, None where there is none")
    given = ids if ids is not None else [None] * len(documents)
    names = [id or document_id(document) for id, document in zip(given, documents, strict=True)]
    uncut: list[int] = []
    chunks: list[Chunk] = []
    named: dict[str, LangChainDocument] = {}
    for place, (name, document) in enumerate(zip(names, documents, strict=True)):
        other = named.setdefault(name, document)
        if ORIGIN_KEY not in document.metadata and (
            other.page_content != document.page_content or other.metadata != document.metadata
        ):
            raise InputError(
                f"two different documents of one call have the id {name!r}, and only one of them could be stored: give "
                "each its own id, or add the one that counts"
            )
        if splits and ORIGIN_KEY not in document.metadata:
            uncut.append(place)
        else:
            chunks.append(to_chunk(document, name))
    made = whole_documents([documents[n] for n in uncut], [given[n] for n in uncut], join_pages=join_pages)
    for whole, places in made:
        for n in places:
            names[uncut[n]] = whole.id
    together = _by_document(chunks)
    return Additions(
        ids=names,
        files=[document for document, _ in made if PAGE_METADATA in document.metadata],
        whole=[document for document, _ in made if PAGE_METADATA not in document.metadata],
        cut=[parts.item() for parts in together if parts.complete],
        partial=[parts for parts in together if not parts.complete],
    )


def _listed(documents: Any) -> list[LangChainDocument]:
    if isinstance(documents, LangChainDocument):
        raise InputError("documents is one Document: give a list of them")
    given = list(documents)
    for document in given:
        if not isinstance(document, LangChainDocument):
            raise InputError(f"{document!r:.40} is a {type(document).__name__}, and no Document of LangChain")
    return given


def text_ids(ids: Iterable[Any], *, all_known: bool = False) -> list[Any]:
    """Ids as text: numbers and UUIDs are written out, None stays.

    Args:
        ids: The ids.
        all_known: Whether None is refused, too.

    Raises:
        InputError: One is none of these, or all of it is a single text.
    """
    if isinstance(ids, str):
        raise InputError(f"ids={ids!r} is one text: give a list of ids, [{ids!r}]")
    ids = list(ids)
    for id in ids:
        if (id is None and all_known) or not isinstance(id, str | int | np.integer | UUID | None):
            raise InputError(f"the id {id!r} is a {type(id).__name__}: give text, a number or a UUID")
    return [None if id is None else str(id) for id in ids]


def from_texts(texts: Iterable[str], metadatas: Iterable[dict[str, Any]] | None) -> list[LangChainDocument]:
    """Texts as documents.

    Raises:
        InputError: There are not as many metadatas as texts, or ``texts`` is a single one.
    """
    if isinstance(texts, str):
        raise InputError(f"texts is one text ({texts!r:.40}): give a list of texts")
    texts = list(texts)  # a generator can be read once
    metadatas = None if metadatas is None else list(metadatas)
    if metadatas and len(metadatas) != len(texts):
        raise InputError(f"{len(metadatas)} metadatas for {len(texts)} texts: give one for each, or none")
    return [
        LangChainDocument(page_content=text, metadata=metadata or {})
        for text, metadata in zip(texts, metadatas or [{} for _ in texts], strict=True)
    ]


def _by_document(chunks: Sequence[Chunk]) -> list[DocumentParts]:
    """The chunks of each document; of two versions of a document in one call the later one counts.

    Args:
        chunks: In the caller's order. Of two chunks at the same place the later one counts.
    """
    documents: dict[str, DocumentParts] = {}
    for chunk in chunks:
        parts = documents.get(chunk.document_id)
        if parts is None or parts.version != version_of(chunk):
            parts = documents[chunk.document_id] = DocumentParts(chunk.document_id, version_of(chunk))
        parts.add(chunk)
    return list(documents.values())


class DocumentParts:
    """Chunks of one version of one document.

    Args:
        document_id: The document.
        version: The version, by `version_of`.
    """

    def __init__(self, document_id: str, version: str) -> None:
        self.document_id = document_id
        self.version = version
        self._chunks: dict[tuple[int, int], Chunk] = {}
        self._expected = 1

    @property
    def complete(self) -> bool:
        """Whether all chunks of the document are here."""
        return len(self._chunks) >= self._expected

    def add(self, chunk: Chunk) -> None:
        """Add a chunk, in place of one with the same span."""
        origin = read_origin(chunk.metadata)
        self._expected = max(self._expected, origin.chunks if origin is not None else 1)
        self._chunks[chunk.start, chunk.end] = chunk

    def join(self, stored: Iterable[Chunk]) -> None:
        """Add stored chunks of the same version where the span has none yet."""
        for chunk in stored:
            if version_of(chunk) == self.version:
                self._chunks.setdefault((chunk.start, chunk.end), chunk)

    def item(self) -> Item:
        """The document, as far as its chunks tell, with the chunks in the order of the text."""
        chunks = [self._chunks[span] for span in sorted(self._chunks)]
        return assemble(chunks), chunks
