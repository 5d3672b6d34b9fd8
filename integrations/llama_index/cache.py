"""`CachedQueryEngine`: a query engine's responses by the meaning of the query."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.response.schema import RESPONSE_TYPE, Response
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.prompts.mixin import PromptMixinType
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.storage.docstore.utils import doc_to_json, json_to_doc

from situate.errors import InputError
from situate.integrations._shared.caching import semantic_cache
from situate.integrations._shared.settings import ClientOrOpener
from situate.integrations.llama_index.embedding import SituateEmbedding, default_embedding
from situate.integrations.llama_index.nodes import RetrievedNode
from situate.retrievers.cache import Fetched, SemanticCache
from situate.retrievers.cache_codecs import Codec, same_text

#: The metadata key of a response that came out of the cache: the cosine to the question that it was computed for.
CACHE_KEY = "situate_cache_similarity"


class CachedQueryEngine(BaseQueryEngine):
    """A query engine whose responses are used again for queries that mean the same.

    Each entry learns how near a query must be, so that at most a share of ``max_error`` of the hits is wrong; see
    `situate.retrievers.cache.SemanticCache`. A response out of the cache has its text, source nodes and metadata, and
    the cosine under ``situate_cache_similarity``. Call ``semantic.invalidate([document_id])`` when a document changes:
    responses rest on the documents of their source nodes. A streaming response is passed on and not stored.

    Args:
        query_engine: Computes responses.
        embed_model: Embeds queries; None: ``Settings.embed_model`` where that is a `SituateEmbedding`.
        tenant: Responses of one tenant are never seen by another.
        client: A Qdrant client, or a function that opens one; None: opened by ``options``, in memory by default.
        same: Whether two responses mean the same; None: they differ in white space and case only. A model that samples
            needs another one (`situate.retrievers.cache_codecs.alike`).
        callback_manager: LlamaIndex's.
        options: The fields of `StoreOptions` (``path``, ``collection_name``, ...), and of `SemanticCache`
            ``max_error``, ``ttl``, ``nearest``, ``policy``, ``seed``.

    Attributes:
        semantic: The cache underneath, with ``invalidate``, ``clear``, ``purge`` and ``count``.

    Raises:
        UnknownArgumentError: There is no such option.
        InputError: An argument is outside its range.
    """

    def __init__(
        self,
        query_engine: BaseQueryEngine,
        embed_model: SituateEmbedding | None = None,
        *,
        tenant: str = "",
        client: ClientOrOpener = None,
        same: Callable[[str, str], bool] | None = None,
        callback_manager: CallbackManager | None = None,
        **options: Any,
    ) -> None:
        super().__init__(callback_manager)
        if not isinstance(tenant, str):
            raise InputError(f"tenant={tenant!r:.40} is a {type(tenant).__name__}: a tenant is named by a text")
        self.query_engine = query_engine
        self.tenant = tenant
        model = embed_model if embed_model is not None else default_embedding()
        codec = Codec(_encode, _decode, _Same(same_text if same is None else same), _documents)
        self.semantic: SemanticCache[Any] = semantic_cache(model.embedder, codec, client, options, type(self).__name__)

    def _get_prompt_modules(self) -> PromptMixinType:
        return {"query_engine": self.query_engine}

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        work = partial(self.query_engine.query, query_bundle)
        return _marked(self.semantic.fetch(query_bundle.query_str, work, tenant=self.tenant))

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        work = partial(self.query_engine.aquery, query_bundle)
        return _marked(await self.semantic.afetch(query_bundle.query_str, work, tenant=self.tenant))


class _Same:
    """Whether two responses mean the same: pickles where the comparison of texts does."""

    def __init__(self, texts: Callable[[str, str], bool]) -> None:
        if not callable(texts):
            raise InputError(f"same={texts!r:.40} cannot be called: give a function of two texts, or None")
        self.texts = texts

    def __call__(self, a: Response, b: Response) -> bool:
        return self.texts(str(a), str(b))


def _marked(found: Fetched[Any]) -> RESPONSE_TYPE:
    response: RESPONSE_TYPE = found.value
    if found.hit:
        response.metadata = {**(response.metadata or {}), CACHE_KEY: found.similarity}
    return response


def _encode(response: RESPONSE_TYPE) -> Any:
    if not isinstance(response, Response):
        raise InputError(f"a {type(response).__name__} is not cached: only whole responses are")
    return {
        "text": response.response,
        "metadata": response.metadata,
        "nodes": [
            {
                "node": doc_to_json(found.node),
                "score": found.score,
                **({"relevance": found.relevance} if isinstance(found, RetrievedNode) else {}),
            }
            for found in response.source_nodes
        ],
    }


def _decode(value: Any) -> Response:
    nodes = [
        RetrievedNode(node=json_to_doc(each["node"]), score=each["score"], relevance=each.get("relevance"))
        for each in value["nodes"]
    ]
    return Response(response=value["text"], source_nodes=list[NodeWithScore](nodes), metadata=value["metadata"])


def _documents(response: RESPONSE_TYPE) -> Sequence[str]:
    return sorted({found.node.ref_doc_id or found.node.node_id for found in response.source_nodes})
