"""`SituateVectorStore`: LlamaIndex nodes in Qdrant, embedded or on a server."""

from __future__ import annotations

import asyncio
import copy
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.schema import BaseNode, MetadataMode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryResult,
)
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

from situate.batches import in_batches
from situate.embedders.fingerprints import differences
from situate.errors import IncompatibleIndexError, InputError, StorageError
from situate.integrations._shared.component import Meaning, PicklesAsConfig, refuse_unknown
from situate.integrations._shared.settings import StoreOptions
from situate.integrations.llama_index.filters import RESERVED, all_of, to_qdrant_filter
from situate.integrations.llama_index.points import (
    DOC_ID,
    QueryWriter,
    dimension,
    in_documents,
    lowered,
    point_id,
    sparse_vector,
    storable,
    with_ids,
)
from situate.lifecycle import Openable
from situate.retrievers.config import LexicalScheme
from situate.retrievers.index.collection import Collection
from situate.retrievers.index.languages import ENGLISH
from situate.retrievers.index.lexical import LexicalEncoder
from situate.retrievers.search.gateway import gateway
from situate.retrievers.storage.connect import MEMORY
from situate.types import Chunk

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

    from situate.embedders.embedder import Embedder

#: The payload key of situate's own values, and the metadata key of the collection for the encoder's fingerprint.
_OURS = "_situate"
#: The metadata key of a collection that keeps the languages of its documents.
_KEEPS_LANGUAGES = "_situate_languages"
_LOWERED = f"{_OURS}.lowered."
_HIDDEN = f"{_OURS}.metadata."
#: Points in one upsert, and in one page of a scroll.
_PAGE = 256


class SituateVectorStore(Openable, StoreOptions, PicklesAsConfig, BasePydanticVectorStore):
    """A LlamaIndex vector store on Qdrant: in this process by default, on any server with ``client=``.

    Payloads are LlamaIndex's own (`node_to_metadata_dict`), so other Qdrant stores can read them, and this store can
    read theirs. Node ids may be any text: where one is no UUID the point gets a uuid5 of it, and the payload keeps the
    id. One store serves synchronous and asynchronous callers; asynchronous calls run in a thread, so the event loop
    goes on.

    Query modes: DEFAULT (dense), SPARSE and TEXT_SEARCH (BM25 over the text that the embedding model would read of a
    node), HYBRID (one Qdrant query over both; reciprocal rank fusion, weighted by ``alpha`` where the query sets one, 1
    for dense alone) and MMR (Qdrant's own; ``mmr_threshold`` 1 for relevance alone). Others are refused.

    Args:
        client: Any (synchronous) Qdrant client; None opens an embedded store at ``path``. Close a client of your own
            yourself; a store on one cannot be pickled.
        embedder: The encoder of the vectors: the store records its fingerprint and refuses another one.
        settings: The attributes.

    Attributes:
        collection_name: The collection; made when the first nodes are added. The other fields of `StoreOptions`
            (``path``, ``api_key``, ...) name the place of the store.
        dense_vector_name: The named vector that holds embeddings.
        sparse_vector_name: The named vector that holds BM25 terms.
        lexical: How BM25 vectors are made; None for a store without them. Each document is read in its own language,
            which a new collection keeps for the queries; one that was made without is read as English.
        metadata_keys: Metadata keys that filters use often; each gets a payload index.
        similarity: How a new collection compares vectors, "cosine" or "dot"; None for that of ``embedder``'s model,
            cosine without an embedder.
    """

    also_known_as: ClassVar[Mapping[str, Meaning]] = {
        **StoreOptions.also_known_as,
        "enable_hybrid": lambda value: {} if value else {"lexical": None},
        "batch_size": lambda value: {},  # points are written in pages of their own
    }

    stores_text: bool = True
    is_embedding_query: bool = True
    collection_name: str = Field(default="llama_index", min_length=1, description="The Qdrant collection.")
    dense_vector_name: str = Field(default="dense", description="Named vector of embeddings.")
    sparse_vector_name: str = Field(default="bm25", description="Named vector of BM25 terms.")
    lexical: LexicalScheme | None = Field(
        default=LexicalScheme(context=(), neighbours=0.0),
        description="How BM25 vectors are made; language= names one language, or several, in place of detecting them.",
    )
    metadata_keys: list[str] = Field(default_factory=list, description="Metadata keys with a payload index.")

    similarity: Literal["cosine", "dot"] | None = Field(default=None, description="How vectors are compared.")

    _client: Any = PrivateAttr(default=None)
    _given: bool = PrivateAttr(default=False)
    _closed: bool = PrivateAttr(default=False)
    _embedder: Any = PrivateAttr(default=None)
    _ready: bool = PrivateAttr(default=False)
    _encoder: Any = PrivateAttr(default=None)
    _languages: Any = PrivateAttr(default=None)
    _lock: Any = PrivateAttr(default_factory=threading.RLock)

    def __init__(self, client: QdrantClient | None = None, embedder: Embedder | None = None, **settings: Any) -> None:
        if isinstance(client, str):  # LlamaIndex's own store takes the collection's name first
            raise InputError(f"client={client!r} is not a Qdrant client: pass collection_name={client!r}")
        super().__init__(**settings)
        self._client = client
        self._given = client is not None
        self._embedder = embedder

    def __getstate__(self) -> dict[Any, Any]:
        if self._given or self.path == MEMORY:
            raise InputError(
                "a vector store on a client or in memory cannot be pickled: give it path=..., and it pickles as that"
            )
        return super().__getstate__()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Another object on the same store, which the original closes."""
        settings = {name: getattr(self, name) for name in type(self).model_fields}
        client = self.client if self.path == MEMORY else self._client
        return type(self)(client=client, embedder=self._embedder, **copy.deepcopy(settings, memo))

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex serialises the class by."""
        return "SituateVectorStore"

    # -- handles ------------------------------------------------------------------------------------------------

    @property
    def client(self) -> QdrantClient:
        """The Qdrant client."""
        with self._lock:
            if self._closed:
                raise StorageError(
                    f"this vector store on {self.path!r} is closed: make a new one with the same settings"
                )
            if self._client is None:
                self._client = self._opens()()
            client: QdrantClient = self._client
            return client

    def open(self) -> Self:
        """Open the store and check its collection now, so that a service fails at its start and not in use.

        Raises:
            StoreLockedError: Another process has the embedded store open.
            ServerError: No server answered.
            IncompatibleIndexError: The collection was made for other vectors.
        """
        self._exists()
        return self

    def close(self) -> None:
        """Close the store that this object opened. A client given by the caller stays open."""
        with self._lock:
            if self._client is not None and not self._given:
                self._client.close()
            self._client = None
            self._closed = True
            self._ready = False

    def _exists(self) -> bool:
        """Whether the collection exists; an existing one is checked the first time."""
        with self._lock:
            if not self._ready and self.client.collection_exists(self.collection_name):
                self._check()
                self._ready = True
            return self._ready

    def _check(self) -> None:
        info = self.client.get_collection(self.collection_name)
        vectors = info.config.params.vectors
        sparse = info.config.params.sparse_vectors or {}
        if not isinstance(vectors, Mapping) or self.dense_vector_name not in vectors:
            names = sorted(vectors) if isinstance(vectors, Mapping) else ["(one without a name)"]
            raise IncompatibleIndexError(
                f"collection {self.collection_name!r} has the vectors {names}, none named {self.dense_vector_name!r}: "
                "set dense_vector_name, or use another collection"
            )
        if self.lexical is not None and self.sparse_vector_name not in sparse:
            raise IncompatibleIndexError(
                f"collection {self.collection_name!r} has no sparse vector named {self.sparse_vector_name!r}: "
                "set sparse_vector_name, or lexical=None for dense search alone"
            )
        self._reads(bool((info.config.metadata or {}).get(_KEEPS_LANGUAGES)))
        before = (info.config.metadata or {}).get(_OURS)
        # The store makes no vectors: its embedder's scheme is that of the parser that does, and stays what it is.
        treated = {name: value for name, value in (before or {}).items() if name != "scheme"}
        now = None if self._embedder is None else _fingerprint(self._embedder.agreeing_with(treated))
        if now is not None and before is not None and before != now:
            raise IncompatibleIndexError(
                f"collection {self.collection_name!r} was built with another encoder, {differences(before, now)}: "
                "vectors of different encoders cannot be compared. Use the encoder that it was built with, or another "
                "collection"
            )

    def _create(self, dimension: int) -> None:
        from qdrant_client import models

        with self._lock:
            if self._exists():
                return
            sparse = models.SparseVectorParams(modifier=models.Modifier.IDF)
            similarity = self.similarity or ("cosine" if self._embedder is None else self._embedder.similarity)
            distance = models.Distance.DOT if similarity == "dot" else models.Distance.COSINE
            metadata: dict[str, Any] = {} if self._embedder is None else {_OURS: _fingerprint(self._embedder)}
            if self.lexical is not None and self.lexical.language == "auto":
                metadata[_KEEPS_LANGUAGES] = True
            try:
                self.client.create_collection(
                    self.collection_name,
                    vectors_config={self.dense_vector_name: models.VectorParams(size=dimension, distance=distance)},
                    sparse_vectors_config={self.sparse_vector_name: sparse} if self.lexical is not None else None,
                    metadata=metadata or None,
                )
                self._reads(_KEEPS_LANGUAGES in metadata)
            except Exception:
                # Another process may have made it at the same moment; each transport has an error of its own for that.
                if not self._exists():
                    raise
            for key in (DOC_ID, *self.metadata_keys):
                self.client.create_payload_index(self.collection_name, key, models.PayloadSchemaType.KEYWORD)
            self._ready = True

    def _reads(self, keeps_languages: bool) -> None:
        """Note whether the collection keeps its documents' languages; without them, "auto" reads English."""
        self._languages = self._encoder = None
        if (scheme := self.lexical) is None:
            return
        if scheme.language == "auto" and keeps_languages:
            self._languages = Collection(gateway(self.client, self.collection_name))
        elif scheme.language == "auto":
            scheme = replace(scheme, language=ENGLISH)
        self._encoder = LexicalEncoder(scheme)

    def _terms(self, nodes: Sequence[BaseNode]) -> list[models.SparseVector]:
        """The BM25 vectors of nodes, those of a document read in its language, which the collection keeps."""
        chunks = [
            Chunk(id="", document_id=node.ref_doc_id or node.node_id, index=0, text=text, start=0, end=len(text))
            for node in nodes
            for text in [node.get_content(metadata_mode=MetadataMode.EMBED)]
        ]
        encoder: LexicalEncoder = self._encoder
        languages: dict[str, str] = {}
        if self._languages is not None:
            documents: dict[str, list[Chunk]] = {}
            for chunk in chunks:
                documents.setdefault(chunk.document_id, []).append(chunk)
            languages = {name: encoder.language_of(own) for name, own in documents.items()}
            self._languages.add_languages(languages.values())
        return [sparse_vector(encoder.encode_chunks([chunk], languages.get(chunk.document_id))[0]) for chunk in chunks]

    # -- nodes in -----------------------------------------------------------------------------------------------

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Store nodes with their embeddings; a node whose id is there already is replaced.

        Returns:
            The nodes' ids.

        Raises:
            InputError: A node has no embedding, or one of another length than the others; two different ones have the
                same id.
            NonFiniteVectorError: An embedding holds NaN or infinity. Nothing of the call is stored.
        """
        refuse_unknown("add", kwargs)
        nodes = list(nodes)
        if not nodes:
            return []
        named: dict[str, BaseNode] = {}
        for node in nodes:
            other = named.setdefault(node.node_id, node)
            if other is not node and other.hash != node.hash:
                raise InputError(
                    f"two different nodes of one call have the id {node.node_id!r}, and only one of them could be "
                    "stored: give each its own id"
                )
        size = dimension(nodes)
        self._create(size)
        self._fits(size)
        for batch in in_batches(nodes, _PAGE):
            self.client.upsert(self.collection_name, self._points(batch), wait=True)
        return [node.node_id for node in nodes]

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """`add` without blocking the event loop."""
        return await asyncio.to_thread(partial(self.add, nodes, **kwargs))

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete the nodes of a document."""
        refuse_unknown("delete", delete_kwargs)
        if self._exists():
            self.client.delete(self.collection_name, in_documents([ref_doc_id]), wait=True)

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """`delete` without blocking the event loop."""
        await asyncio.to_thread(partial(self.delete, ref_doc_id, **delete_kwargs))

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Delete the nodes that have one of the ids and pass the filters.

        Raises:
            InputError: Neither ids nor filters are given (`clear` deletes everything).
        """
        refuse_unknown("delete_nodes", delete_kwargs)
        where = self._where(node_ids=node_ids, filters=filters)
        if where is None:
            raise InputError("delete_nodes needs node_ids or filters; clear() deletes everything")
        if self._exists():
            self.client.delete(self.collection_name, where, wait=True)

    async def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """`delete_nodes` without blocking the event loop."""
        await asyncio.to_thread(partial(self.delete_nodes, node_ids, filters, **delete_kwargs))

    def clear(self) -> None:
        """Delete the collection."""
        with self._lock:
            if self.client.collection_exists(self.collection_name):
                self.client.delete_collection(self.collection_name)
            self._ready = False
            self._languages = self._encoder = None

    async def aclear(self) -> None:
        """`clear` without blocking the event loop."""
        await asyncio.to_thread(self.clear)

    def _fits(self, dimension: int) -> None:
        vectors = self.client.get_collection(self.collection_name).config.params.vectors
        assert isinstance(vectors, Mapping)
        if vectors[self.dense_vector_name].size != dimension:
            raise IncompatibleIndexError(
                f"the nodes' embeddings have {dimension} dimensions, collection {self.collection_name!r} holds "
                f"{vectors[self.dense_vector_name].size}: use the model that it was built with, or another collection"
            )

    def _points(self, nodes: Sequence[BaseNode]) -> list[models.PointStruct]:
        from qdrant_client import models

        nodes = [storable(node) for node in nodes]
        terms = [] if self.lexical is None else self._terms(nodes)
        points: list[models.PointStruct] = []
        for place, node in enumerate(nodes):
            payload = node_to_metadata_dict(node, remove_text=False)
            payload[_OURS] = {"lowered": lowered(node.metadata)}
            if hidden := {key: value for key, value in node.metadata.items() if key in RESERVED}:
                payload[_OURS]["metadata"] = hidden  # LlamaIndex's own values replace these
            vectors: dict[str, Any] = {self.dense_vector_name: node.get_embedding()}
            if terms:
                vectors[self.sparse_vector_name] = terms[place]
            points.append(models.PointStruct(id=point_id(node.node_id), vector=vectors, payload=payload))
        return points

    # -- nodes out ----------------------------------------------------------------------------------------------

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """The stored nodes with their embeddings; in the order of ``node_ids`` where given."""
        if not self._exists():
            return []
        nodes: dict[str, BaseNode] = {}
        offset: Any = None
        while True:
            records, offset = self.client.scroll(
                self.collection_name,
                self._where(node_ids=node_ids, filters=filters),
                limit=_PAGE,
                offset=offset,
                with_payload=True,
                with_vectors=[self.dense_vector_name],
            )
            for record in records:
                node = metadata_dict_to_node(record.payload or {})
                if isinstance(record.vector, dict):
                    node.embedding = record.vector.get(self.dense_vector_name)  # type: ignore[assignment]
                nodes[node.node_id] = node
            if offset is None:
                break
        if node_ids is None:
            return list(nodes.values())
        return [nodes[node_id] for node_id in dict.fromkeys(node_ids) if node_id in nodes]

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """`get_nodes` without blocking the event loop."""
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The best nodes for a query, best first.

        Args:
            query: The query.
            kwargs: ``qdrant_filters`` (a Qdrant filter, further to the query's own), ``search_params`` (Qdrant's),
                ``mmr_threshold``.

        Raises:
            InputError: The mode is not one of those listed above, or an argument that it needs is missing.
        """
        exists = self._exists()
        # `VectorStoreIndex` embeds no empty query; a search for one finds nothing.
        empty = query.query_embedding is None and query.query_str is not None and not query.query_str.strip()
        request = None if empty else self._request(query, **kwargs)
        if request is None or not exists:
            return VectorStoreQueryResult(nodes=[], similarities=[], ids=[])
        points = self.client.query_points(self.collection_name, with_payload=True, **request).points
        nodes = [metadata_dict_to_node(point.payload or {}) for point in points]
        return VectorStoreQueryResult(
            nodes=nodes, similarities=[float(point.score) for point in points], ids=[node.node_id for node in nodes]
        )

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """`query` without blocking the event loop."""
        return await asyncio.to_thread(partial(self.query, query, **kwargs))

    def _where(
        self,
        *,
        node_ids: Sequence[str] | None = None,
        doc_ids: Sequence[str] | None = None,
        filters: MetadataFilters | None = None,
        further: models.Filter | None = None,
    ) -> models.Filter | None:
        return all_of(
            None if node_ids is None else with_ids(node_ids),
            None if doc_ids is None else in_documents(doc_ids),
            to_qdrant_filter(filters, lowered=_LOWERED, own=_HIDDEN),
            further,
        )

    def _request(
        self,
        query: VectorStoreQuery,
        *,
        qdrant_filters: models.Filter | None = None,
        search_params: models.SearchParams | None = None,
        mmr_threshold: float | None = None,
        **others: Any,
    ) -> dict[str, Any] | None:
        """The arguments of one Qdrant query; None where nothing can be found."""
        refuse_unknown("query", others, ("qdrant_filters", "search_params", "mmr_threshold"))
        # `VectorStoreIndex.as_retriever` passes the empty list for "all nodes".
        where = self._where(
            node_ids=query.node_ids or None, doc_ids=query.doc_ids, filters=query.filters, further=qdrant_filters
        )
        languages = () if self._languages is None else self._languages.languages()
        lexical = None if self.lexical is None else self._encoder or LexicalEncoder(self.lexical)
        writer = QueryWriter(self.dense_vector_name, self.sparse_vector_name, lexical, languages)
        return writer.write(query, where, search_params, mmr_threshold)


def _fingerprint(embedder: Embedder) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(embedder.fingerprint, default=str))
    return values
