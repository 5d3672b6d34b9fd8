"""situate's chunkers as a LangChain text splitter, and LangChain's splitters as chunkers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING, Any, Self

from langchain_core.documents import Document as LangChainDocument
from langchain_text_splitters import TextSplitter

from situate.chunkers.spans import chunks_from_spans, recover_spans
from situate.errors import InputError
from situate.integrations._shared.component import refuse_unknown
from situate.integrations._shared.pages import cut_document
from situate.integrations._shared.splitting import under_headings
from situate.integrations.langchain.documents import from_chunk, whole_documents, with_origins
from situate.parameters import checked_parameters
from situate.types import Chunk, Chunker, Document

if TYPE_CHECKING:
    from situate.integrations.langchain.embeddings import SituateEmbeddings


@checked_parameters
class SituateTextSplitter(TextSplitter):
    """Cuts documents into chunks with their origin in the metadata.

    Each chunk has a stable ``id``, ``start_index`` and the key ``situate`` in its metadata: the document's id and
    hash, the span, title and headings. With it, `SituateVectorStore` puts chunks back into their document.

    Args:
        embeddings: Sizes are counted in this model's tokens. Its tokenizer is loaded at first use, not its weights.
        chunk_size: The most tokens that a chunk holds.
        chunk_overlap: The most tokens that two neighbouring chunks share.
        chunker: Any situate chunker, in place of Markdown by structure and other text recursively; it has its own
            sizes.
        join_pages: Whether documents that are pages or elements of one file, as `PyPDFLoader` and others return them
            (without ids of their own), are cut as one document. Chunks lie within pages, but for the rest of a sentence
            that runs over.

    Raises:
        InputError: Neither or both of ``embeddings`` and ``chunker`` were given, or the sizes are out of range.
    """

    def __init__(
        self,
        embeddings: SituateEmbeddings | None = None,
        *,
        chunk_size: int = 200,
        chunk_overlap: int = 0,
        chunker: Chunker | None = None,
        join_pages: bool = True,
    ) -> None:
        if (embeddings is None) == (chunker is None):
            raise InputError(
                "give a SituateTextSplitter either embeddings=..., in whose tokens chunk_size counts, or chunker=..., "
                "a situate chunker with sizes of its own"
            )
        if chunk_size < 1 or not 0 <= chunk_overlap < chunk_size:
            raise InputError(
                f"chunk_size={chunk_size} and chunk_overlap={chunk_overlap}: needs 0 <= chunk_overlap < chunk_size"
            )
        super().__init__(chunk_size=chunk_size, chunk_overlap=chunk_overlap, add_start_index=True)
        self._embeddings = embeddings
        self._chunker = chunker
        self.join_pages = join_pages

    @property
    def chunker(self) -> Chunker:
        """The chunker that cuts."""
        if self._chunker is None:
            from situate.chunkers import AutoChunker

            assert self._embeddings is not None
            self._chunker = AutoChunker.for_model(self._embeddings.embedder, self._chunk_size, self._chunk_overlap)
        return self._chunker

    def __getstate__(self) -> dict[str, Any]:
        # The default chunker holds a tokenizer, which a worker loads from the embeddings.
        return {**self.__dict__, "_chunker": None if self._embeddings is not None else self._chunker}

    @classmethod
    def from_chunker(cls, chunker: Chunker) -> Self:
        """Around any situate chunker."""
        return cls(chunker=chunker)

    @classmethod
    def from_huggingface_tokenizer(cls, tokenizer: Any, **kwargs: Any) -> Self:
        """Sizes in the tokens of a fast tokenizer of transformers.

        Args:
            tokenizer: A ``PreTrainedTokenizerFast``: it has a ``backend_tokenizer``.
            kwargs: ``chunk_size``, ``chunk_overlap``.

        Raises:
            InputError: The tokenizer is a slow one.
        """
        from situate.chunkers import AutoChunker

        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise InputError(f"{type(tokenizer).__name__} is a slow tokenizer: load it with use_fast=True")
        size, overlap = kwargs.pop("chunk_size", 200), kwargs.pop("chunk_overlap", 0)
        refuse_unknown("from_huggingface_tokenizer", kwargs)
        return cls(chunker=AutoChunker(size=size, overlap=overlap, tokenizer=backend))

    @classmethod
    def from_tiktoken_encoder(cls, *args: Any, **kwargs: Any) -> Self:
        """Refused: sizes count the embedding model's tokens, which are never tiktoken's.

        Raises:
            InputError: Always.
        """
        raise InputError("SituateTextSplitter counts in the embedding model's tokens: SituateTextSplitter(embeddings)")

    def split_text(self, text: str) -> list[str]:
        """The texts of the chunks; [] for a text that is empty or only white space."""
        return [chunk.page_content for chunk in self.split_documents([LangChainDocument(page_content=text)])]

    def create_documents(
        self, texts: list[str], metadatas: list[dict[Any, Any]] | None = None
    ) -> list[LangChainDocument]:
        """The chunks of texts, each text being a document of its own.

        Raises:
            InputError: There are not as many metadatas as texts.
        """
        if metadatas is not None and len(metadatas) != len(texts):
            raise InputError(f"{len(metadatas)} metadatas for {len(texts)} texts: give one for each, or none")
        given = metadatas if metadatas is not None else [{} for _ in texts]
        return self.split_documents(
            LangChainDocument(page_content=text, metadata=metadata) for text, metadata in zip(texts, given, strict=True)
        )

    def split_documents(self, documents: Iterable[LangChainDocument]) -> list[LangChainDocument]:
        """The chunks of the documents, in order. The documents are left as they are."""
        documents = list(documents)
        chunks: list[LangChainDocument] = []
        for document, _ in whole_documents(documents, [None] * len(documents), join_pages=self.join_pages):
            cut = with_origins(document, cut_document(document, self.chunker))
            chunks += [from_chunk(chunk) for chunk in cut]
        return chunks

    async def atransform_documents(
        self, documents: Sequence[LangChainDocument], **kwargs: Any
    ) -> Sequence[LangChainDocument]:
        """`transform_documents` without blocking the event loop."""
        refuse_unknown("atransform_documents", kwargs)
        return await asyncio.to_thread(self.split_documents, list(documents))


@dataclass(frozen=True)
class LangChainChunker:
    """Any LangChain text splitter as a `Chunker`, with exact spans and the document's headings.

    LangChain finds a piece's place by searching for it, which is silently wrong where a text repeats itself; here all
    pieces are placed together.

    Attributes:
        splitter: Cuts texts; it may strip and rewrite white space, but must not change words.
    """

    splitter: TextSplitter

    def fingerprint(self) -> Mapping[str, Any]:
        """The splitter's class and its settings, as far as they are plain values."""
        settings = {k: v for k, v in vars(self.splitter).items() if isinstance(v, str | int | float | list | None)}
        return {"chunker": "LangChainChunker", "splitter": _name(self.splitter), "headings": True, **settings}

    def split(self, document: Document) -> list[Chunk]:
        """The document's chunks in order.

        Raises:
            SpanError: The splitter returned a piece that does not stand in the text.
        """
        pieces = [piece for piece in self.splitter.split_text(document.text) if piece.strip()]
        return under_headings(document, chunks_from_spans(document, recover_spans(document.text, pieces)))


@dataclass(frozen=True)
class OriginChunker:
    """A chunker whose chunks have their origin in the metadata.

    Attributes:
        chunker: Cuts the documents.
    """

    chunker: Chunker

    def fingerprint(self) -> Mapping[str, Any]:
        """The fingerprint of the chunker underneath."""
        # The class's first name: another one would make every stored document look changed.
        return {"chunker": "StampingChunker", "of": describe(self.chunker)}

    def split(self, document: Document) -> list[Chunk]:
        """The document's chunks in order, each with its origin."""
        return with_origins(document, cut_document(document, self.chunker))


def describe(chunker: Chunker) -> Any:
    """A chunker's settings, as JSON values that are the same in every process."""
    if callable(fingerprint := getattr(chunker, "fingerprint", None)):
        return fingerprint()
    return repr(chunker) if is_dataclass(chunker) else _name(chunker)


def as_chunker(splitter: TextSplitter | Chunker) -> Chunker:
    """A splitter of either kind as a chunker."""
    if isinstance(splitter, SituateTextSplitter):
        return splitter.chunker
    return LangChainChunker(splitter) if isinstance(splitter, TextSplitter) else splitter


def _name(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"
