"""A `SemanticCache` by the parameters that both frameworks' caches share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from situate.integrations._shared.component import Meaning, translated
from situate.integrations._shared.settings import ClientOrOpener, StoreOptions

if TYPE_CHECKING:
    from situate.retrievers.cache import QueryEmbedder, SemanticCache
    from situate.retrievers.cache_codecs import Codec

T = TypeVar("T")

#: Arguments of `SemanticCache` that both caches pass on.
_SETTINGS = ("max_error", "ttl", "nearest", "policy", "seed")


class CacheParameters:
    """The names of a cache's parameters, for errors and for users of other libraries."""

    also_known_as: ClassVar[Mapping[str, Meaning]] = StoreOptions.also_known_as
    known_otherwise: ClassVar[Mapping[str, str]] = {
        **StoreOptions.known_otherwise,
        "similarity_threshold": "each entry learns its own; max_error bounds the share of wrong answers",
        "score_threshold": "each entry learns its own; max_error bounds the share of wrong answers",
    }


def semantic_cache(
    embedder: QueryEmbedder, codec: Codec[T], client: ClientOrOpener, options: Mapping[str, Any], owner: str
) -> SemanticCache[T]:
    """The cache.

    Args:
        embedder: Embeds questions.
        codec: The kind of answers.
        client: A client, or a function that opens one; None: opened by the fields of `StoreOptions` in ``options``.
        options: Fields of `StoreOptions`, and of `SemanticCache` ``max_error``, ``ttl``, ``nearest``, ``policy``,
            ``seed``.
        owner: The class that was given them, for the message.

    Raises:
        UnknownArgumentError: There is no such parameter.
        InputError: An argument is outside its range.
    """
    from situate.retrievers.cache import SemanticCache

    named = type(owner, (CacheParameters,), {})
    given = translated(named, {*StoreOptions.model_fields, *_SETTINGS}, options)
    settings = {name: given.pop(name) for name in _SETTINGS if name in given}
    store = StoreOptions(**{"collection_name": "situate_cache", **given})
    return SemanticCache(
        client if client is not None else store._opens(),
        embedder,
        codec,
        collection=store.collection_name,
        **settings,
    )
