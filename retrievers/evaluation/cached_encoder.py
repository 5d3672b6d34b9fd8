"""Embeddings kept while several configurations are compared, and from one comparison to the next."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from situate.batches import in_batches
from situate.embedders.types import Encoded, SpanEncoder, SpanText, pools_spans
from situate.errors import InputError
from situate.parameters import checked_parameters
from situate.retrievers.evaluation.encoding_store import EncodingStore, rounded

if TYPE_CHECKING:
    from situate.embedders.embedder import Embedder

#: Texts encoded before they are written to the store: a stopped run loses at most so many.
_BATCH = 1024


@checked_parameters
class CachedEncoder:
    """A `SpanEncoder` that encodes each text once, however many configurations ask for it.

    Without a store, all encoded texts stay in memory while the object lives: it is meant for a comparison, not for
    a service. With one, it is kept on disk, and the next comparison reads it from there.

    Args:
        encoder: The encoder.
        store: Where encoded texts are kept across runs; a path opens an `EncodingStore` there. None: in memory.
        fingerprint: What distinguishes this encoder's vectors from another's, as JSON values. A store needs it.

    Raises:
        InputError: There is a store and no fingerprint.
    """

    def __init__(
        self,
        encoder: SpanEncoder,
        store: EncodingStore | str | Path | None = None,
        fingerprint: Mapping[str, Any] | None = None,
    ) -> None:
        if store is not None and not fingerprint:
            raise InputError("a store needs fingerprint=...: without it the vectors of two models would be mixed up")
        self.encoder = encoder
        self.store = store if isinstance(store, EncodingStore) or store is None else EncodingStore(store)
        self.fingerprint = dict(fingerprint or {})
        self._known: dict[tuple[SpanText, bool], Encoded] = {}

    @classmethod
    def of(cls, embedder: Embedder, store: EncodingStore | str | Path | None = None) -> CachedEncoder:
        """The embedder's own encoder with a cache in front; its key holds model, weights, number format and version."""
        from importlib.metadata import version

        versions = {name: version(name) for name in ("situate", "transformers")}
        dtype = getattr(embedder.encoder, "dtype", None)
        return cls(embedder.encoder, store, {**embedder.fingerprint, "dtype": dtype, "versions": versions})

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.encoder.dimension

    @property
    def pools_spans(self) -> bool:
        """As the encoder beneath."""
        return pools_spans(self.encoder)

    def encode(self, inputs: Sequence[SpanText], *, token_vectors: bool = False) -> list[Encoded]:
        """As the encoder beneath."""
        different = list(dict.fromkeys(inputs))
        if self.store is not None:
            stored = self._from_store(self.store, different, token_vectors)
            return [stored[text] for text in inputs]
        missing = [text for text in different if (text, token_vectors) not in self._known]
        for text, encoded in self._encoded(missing, token_vectors):
            self._known[text, token_vectors] = encoded
        return [self._known[text, token_vectors] for text in inputs]

    async def aencode(self, inputs: Sequence[SpanText], *, token_vectors: bool = False) -> list[Encoded]:
        """`encode` without blocking the event loop."""
        return await asyncio.to_thread(self.encode, inputs, token_vectors=token_vectors)

    def _from_store(
        self, store: EncodingStore, texts: Sequence[SpanText], token_vectors: bool
    ) -> dict[SpanText, Encoded]:
        keys = {text: store.key(self.fingerprint, text, token_vectors) for text in texts}
        known = store.get(list(keys.values()))
        if not token_vectors:
            # A text that was encoded with token vectors has its other vectors, too.
            more = {store.key(self.fingerprint, text, True): key for text, key in keys.items() if key not in known}
            found = store.get(list(more))
            known.update((more[key], Encoded(one.vectors, None, one.lost_tokens)) for key, one in found.items())
        missing = [text for text in texts if keys[text] not in known]
        for some in in_batches(missing, _BATCH):
            fresh = {keys[text]: rounded(one) for text, one in self._encoded(some, token_vectors)}
            store.put(fresh)
            known.update(fresh)
        return {text: known[key] for text, key in keys.items()}

    def _encoded(self, texts: Sequence[SpanText], token_vectors: bool) -> Iterator[tuple[SpanText, Encoded]]:
        if texts:
            yield from zip(texts, self.encoder.encode(texts, token_vectors=token_vectors), strict=True)
