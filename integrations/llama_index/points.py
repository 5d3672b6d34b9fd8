"""A LlamaIndex node as a Qdrant point, and a vector store query as a Qdrant query."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from llama_index.core.schema import BaseNode, MetadataMode, RelatedNodeInfo
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode

from situate.errors import InputError
from situate.integrations._shared.origin import ORIGIN_KEY
from situate.retrievers.index.payload import stored_metadata, stored_text
from situate.retrievers.types import check_k
from situate.types import stable_id
from situate.vectors import check_finite, one_vector

if TYPE_CHECKING:
    from qdrant_client import models

    from situate.retrievers.index.lexical import LexicalEncoder, SparseVector

#: Candidates that hybrid search and MMR take from each side, at least.
_CANDIDATES = 100
#: The constant of reciprocal rank fusion (Cormack et al. 2009).
_RRF_K = 60
#: The payload key that LlamaIndex keeps the document's id under for Qdrant.
DOC_ID = "doc_id"


def point_id(node_id: str) -> str:
    """The point's id: the node's own where that is a UUID, else a uuid5 of it."""
    try:
        if str(UUID(node_id)) == node_id:
            return node_id
    except ValueError:
        pass
    return stable_id("node", node_id)


def with_ids(node_ids: Sequence[str]) -> models.Filter:
    """The points of these nodes."""
    from qdrant_client import models

    return models.Filter(must=[models.HasIdCondition(has_id=[point_id(node_id) for node_id in node_ids])])


def in_documents(doc_ids: Sequence[str]) -> models.Filter:
    """The points of these documents' nodes."""
    from qdrant_client import models

    return models.Filter(must=[models.FieldCondition(key=DOC_ID, match=models.MatchAny(any=list(doc_ids)))])


def sparse_vector(vector: SparseVector) -> models.SparseVector:
    """The vector as Qdrant takes it."""
    from qdrant_client import models

    return models.SparseVector(indices=vector.indices.tolist(), values=vector.values.tolist())


def storable(node: BaseNode) -> BaseNode:
    """A copy whose texts and metadata, its relations' included, any store can hold.

    Raises:
        InputError: As for `stored_metadata`.
    """

    def related(info: RelatedNodeInfo) -> RelatedNodeInfo:
        return info.model_copy(update={"metadata": stored_metadata(info.node_id, info.metadata)})

    copy = node.model_copy(
        update={
            "metadata": stored_metadata(node.node_id, node.metadata),
            "relationships": {
                kind: [related(each) for each in info] if isinstance(info, list) else related(info)
                for kind, info in node.relationships.items()
            },
        }
    )
    text = node.get_content(metadata_mode=MetadataMode.NONE)
    if (stored := stored_text(text)) != text:
        copy.set_content(stored)
    return copy


def lowered(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Lower-case copies of texts and lists of texts: Qdrant has no substring match that ignores case."""
    copies: dict[str, Any] = {}
    for key, value in metadata.items():
        if isinstance(value, str) and key != ORIGIN_KEY:
            copies[key] = value.lower()
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            copies[key] = [item.lower() for item in value]
    return copies


def dimension(nodes: Sequence[BaseNode]) -> int:
    """The length of all the nodes' embeddings.

    Raises:
        InputError: A node has none, or one of another length.
        NonFiniteVectorError: An embedding holds NaN or infinity.
    """
    for node in nodes:
        if node.embedding is None:
            raise InputError(f"node {node.node_id!r} has no embedding: embed the nodes before they are stored")
        if len(node.embedding) != len(nodes[0].embedding or ()):
            raise InputError(
                f"node {node.node_id!r} has an embedding of {len(node.embedding)} dimensions, "
                f"node {nodes[0].node_id!r} one of {len(nodes[0].embedding or ())}: they come from different models"
            )
        check_finite(node.embedding, f"nothing of this call was stored: the embedding of node {node.node_id!r} holds")
    return len(nodes[0].get_embedding())


class QueryWriter:
    """Writes queries for a collection with a dense and, perhaps, a BM25 vector per point.

    Args:
        dense: Name of the dense vector.
        sparse: Name of the BM25 vector.
        lexical: Makes BM25 queries; None where the collection has no BM25 vectors.
        languages: The readings of the collection's documents, where it keeps them.
    """

    def __init__(
        self, dense: str, sparse: str, lexical: LexicalEncoder | None, languages: Collection[str] = ()
    ) -> None:
        self._dense_name = dense
        self._sparse_name = sparse
        self._lexical = lexical
        self._languages = languages

    def write(
        self,
        query: VectorStoreQuery,
        where: models.Filter | None,
        search_params: models.SearchParams | None,
        mmr_threshold: float | None,
    ) -> dict[str, Any] | None:
        """The arguments of `QdrantClient.query_points`; None where the query has no terms to search with.

        Raises:
            InputError: The mode is not supported, or an argument that it needs is missing.
            NonFiniteVectorError: The query's embedding holds NaN or infinity.
        """
        common: dict[str, Any] = {"query_filter": where, "search_params": search_params}
        limit = query.similarity_top_k
        for name in ("similarity_top_k", "sparse_top_k", "hybrid_top_k"):
            if (given := getattr(query, name)) or name == "similarity_top_k":  # 0 of the others: as many as of this
                check_k(given, name)
        match query.mode:
            case VectorStoreQueryMode.DEFAULT:
                return {**common, **self._dense(query), "limit": limit}
            case VectorStoreQueryMode.SPARSE | VectorStoreQueryMode.TEXT_SEARCH:
                terms = self._terms(query)
                return terms and {**common, **terms, "limit": query.sparse_top_k or limit}
            case VectorStoreQueryMode.MMR:
                return {**common, **self._mmr(query, mmr_threshold), "limit": limit}
            case VectorStoreQueryMode.HYBRID:
                return self._hybrid(query, common)
        raise InputError(
            f"query mode {query.mode.value!r} is not supported: use 'default', 'sparse', 'text_search', 'hybrid' or "
            f"'mmr'"
        )

    def _hybrid(self, query: VectorStoreQuery, common: dict[str, Any]) -> dict[str, Any] | None:
        from qdrant_client import models

        alpha = query.alpha
        if alpha is not None and not 0 <= alpha <= 1:
            raise InputError(f"alpha={alpha}: from 0 (BM25 alone) to 1 (dense alone)")
        limit = query.hybrid_top_k or query.similarity_top_k
        terms = self._terms(query)
        if alpha == 0:
            return terms and {**common, **terms, "limit": limit}
        dense = self._dense(query)
        if alpha == 1 or terms is None:
            return {**common, **dense, "limit": limit}
        wide = max(_CANDIDATES, limit, query.similarity_top_k)
        where = common["query_filter"]
        # A fused query filters its candidates, so each side has the filter.
        sides = [
            models.Prefetch(**dense, limit=wide, filter=where, params=common["search_params"]),
            models.Prefetch(**terms, limit=query.sparse_top_k or wide, filter=where),
        ]
        fusion: models.FusionQuery | models.RrfQuery = models.FusionQuery(fusion=models.Fusion.DBSF)
        if alpha is not None:
            fusion = models.RrfQuery(rrf=models.Rrf(k=_RRF_K, weights=[alpha, 1.0 - alpha]))
        return {"prefetch": sides, "query": fusion, "limit": limit}

    def _mmr(self, query: VectorStoreQuery, given: float | None) -> dict[str, Any]:
        from qdrant_client import models

        threshold = next(value for value in (given, query.mmr_threshold, 0.5) if value is not None)
        if not 0 <= threshold <= 1:
            raise InputError(f"mmr_threshold={threshold}: from 0 (diversity alone) to 1 (relevance alone)")
        dense = self._dense(query)
        mmr = models.Mmr(diversity=1.0 - threshold, candidates_limit=max(_CANDIDATES, query.similarity_top_k))
        return {**dense, "query": models.NearestQuery(nearest=dense["query"], mmr=mmr)}

    def _dense(self, query: VectorStoreQuery) -> dict[str, Any]:
        embedding = query.query_embedding
        if embedding is None:
            raise InputError(f"query mode {query.mode.value!r} needs query_embedding")
        one_vector(embedding, "the query's embedding")
        return {"query": [float(value) for value in embedding], "using": self._dense_name}

    def _terms(self, query: VectorStoreQuery) -> dict[str, Any] | None:
        """The BM25 side; None where the query holds only stop words."""
        if self._lexical is None:
            raise InputError(f"query mode {query.mode.value!r} needs BM25 vectors, and this store has lexical=None")
        if not query.query_str:
            raise InputError(f"query mode {query.mode.value!r} needs query_str")
        terms = self._lexical.encode_query(query.query_str, languages=self._languages)
        return {"query": sparse_vector(terms), "using": self._sparse_name} if len(terms.indices) else None
