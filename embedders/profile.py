"""The facts of an embedder's model before anything is loaded: files, conventions, lengths, fingerprint."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from situate.embedders.models.adapters import Adapter
from situate.embedders.models.conventions import conventions
from situate.embedders.models.families import Family
from situate.embedders.models.folder import ModelFolder
from situate.embedders.models.query_map import QueryMap
from situate.embedders.models.registry import family_of
from situate.embedders.models.resolve import LoadOptions, ResolvedModel, resolve_model
from situate.embedders.models.settings import EmbedderSettings
from situate.embedders.types import SpanEncoder, overflow_of
from situate.errors import ConventionError, InputError, ModelNotFoundError
from situate.threads import renew_after_fork

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class ModelProfile:
    """A model, looked up piece by piece: naming it costs nothing, its conventions cost reading a few small files.

    Args:
        settings: The embedder's.
    """

    def __init__(self, settings: EmbedderSettings) -> None:
        self.settings = settings
        self._resolved: ResolvedModel | None = None
        self._family: Family | None = None
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """A new lock, which a signal handler may take again: a second look-up gives the same."""
        self.lock = threading.RLock()

    @property
    def resolved(self) -> ResolvedModel | None:
        """The model's files; None where another encoder stands for them."""
        if self.settings.encoder is not None:
            return None
        with self.lock:
            if self._resolved is None:
                self._resolved = resolve_model(self.settings.model, self.settings.load_options)
            return self._resolved

    @property
    def family(self) -> Family:
        """The conventions that hold, merged."""
        with self.lock:
            if self._family is None:
                self._family = conventions(self.settings, self.resolved)
            return self._family

    @property
    def record(self) -> Family:
        """The registry's record under the user's settings, for a model whose files are not here.

        Raises:
            ModelNotFoundError: The registry has none.
        """
        known = self.settings.family is not None or family_of(self.settings.model) is not None
        return conventions(self.settings, None) if known else self.family  # which raises

    def tokenizer(self, encoder: SpanEncoder) -> Tokenizer:
        """The model's tokenizer, from its encoder or its files."""
        try:
            own: Tokenizer | None = getattr(encoder, "tokenizer", None)
        except InputError as error:  # the model's is written in plain Python
            raise ConventionError(str(error)) from error
        if own is None:
            from situate.embedders.text.tokenizer import TextTokenizer

            try:
                found = resolve_model(self.settings.model, LoadOptions(self.settings.revision))
                own = TextTokenizer.load(ModelFolder.read(found.path).path).backend
            except ModelNotFoundError as error:
                raise ModelNotFoundError(
                    f"{self.settings.model!r} is served elsewhere and its tokenizer is not here: size chunks in "
                    "characters (a chunker without a tokenizer), or name a model folder that has the same tokenizer"
                ) from error
            if own is None:
                raise ConventionError(
                    f"model {self.settings.model!r} has a tokenizer in plain Python only: convert it to a "
                    "tokenizer.json, or size chunks in characters (a chunker without a tokenizer)"
                )
        return own

    def max_tokens(self, encoder: SpanEncoder) -> int:
        """Tokens that a text is cut to."""
        return self._length(self.settings.max_tokens, getattr(encoder, "max_tokens", None), self.family.max_tokens)

    def trained_tokens(self, encoder: SpanEncoder) -> int:
        """Tokens that the model was trained to read at once."""
        if getattr(encoder, "extension", None) is not None:
            return self._length(getattr(encoder, "trained_tokens", None))
        read = (self.settings.max_tokens, getattr(encoder, "max_tokens", None), self.family.max_tokens)
        trained = self._length(self.family.trained_tokens, getattr(encoder, "trained_tokens", None), *read)
        # At most the tokens that are read: a tokenizer without a limit does not tell the trained length.
        most = next((length for length in read if length is not None), trained)
        return min(trained, most, getattr(encoder, "position_limit", trained))

    def fingerprint(self, encoder: SpanEncoder) -> dict[str, Any]:
        """The part of the fingerprint that the model decides, as JSON values."""
        settings, family, resolved = self.settings, self.family, self.resolved
        # Only where they are set, so that indexes made before these fields existed stay readable.
        more: dict[str, Any] = self._changed()
        if family.similarity != "cosine":
            more["similarity"] = family.similarity
        if settings.dtype == "int8" or getattr(settings.encoder, "dtype", None) == "int8":
            more["dtype"] = "int8"
        if family.end_token:
            more["end_token"] = True
        if family.document_options:
            more["document_options"] = dict(family.document_options)
        if isinstance(own := getattr(settings.encoder, "fingerprint", None), Mapping):
            more["encoder"] = dict(own)
        return {
            **more,
            "model": settings.model if resolved is None else resolved.id,
            "revision": settings.revision,
            "weights": None if resolved is None else resolved.digest,
            "document_instruction": family.document,
            "document_suffix": family.document_suffix,
            "pooling": family.pooling,
            "pool_instruction": family.pool_instruction,
            "normalize": family.normalize,
            "dimensions": encoder.dimension if settings.dimensions is None else settings.dimensions,
            "max_tokens": settings.max_tokens,
            "on_overflow": "window" if self._windows else "cut",
        }

    @property
    def _windows(self) -> bool:
        """Whether documents that are too long are read in windows."""
        chosen, family = self.settings.on_overflow, self.family
        if chosen == "auto" and (self.settings.encoder is not None or family.library):
            return False  # that encoder decides, or sentence-transformers
        return overflow_of(chosen, family.pooling, "document") == "window"

    def query_adapter(self) -> str | None:
        """The digest of the adapter that queries are embedded with, where it is another than the documents'."""
        if self.query_map is not None:
            return self.query_map.digest
        documents, queries = (self.settings.adapter_for(role) for role in ("document", "query"))
        return None if queries == documents else self._digest(queries)

    @cached_property
    def query_map(self) -> QueryMap | None:
        """The linear map of query vectors, if there is one."""
        path = self.settings.query_map
        return None if path is None else QueryMap.load(path)

    def _changed(self) -> dict[str, Any]:
        """The settings that change how the model runs."""
        settings = self.settings
        changed: dict[str, Any] = {}
        if settings.task is not None and "{task}" in self.family.leading:
            changed["leading"] = self.family.leading.replace("{task}", settings.task)
        if settings.prompts is not None:
            changed["prompts"] = settings.prompts.fingerprint()
        if settings.layers is not None:
            changed["layers"] = settings.layers
        if settings.mean_layers is not None:
            changed["mean_layers"] = list(settings.mean_layers)
        if settings.adapter is not None:
            changed["adapter"] = self._digest(settings.adapter)
        if settings.extension is not None:
            changed["extension"] = dataclasses.asdict(settings.extension)
        if settings.bidirectional:
            changed["bidirectional"] = True
        if settings.routing_weight:
            changed["routing_weight"] = settings.routing_weight
        if settings.weights is not None:
            changed["weight_bits"] = int(settings.weights.removeprefix("int"))
        if settings.token_heads:
            changed["token_heads"] = True
        return changed

    def _digest(self, adapter: str | None) -> str | None:
        if adapter is None:
            return None
        return Adapter.found(adapter, dict(self.settings.adapters)[adapter], self.settings.load_options).digest

    def _length(self, *candidates: int | None) -> int:
        for value in candidates:
            if value is not None:
                return value
        raise ConventionError(
            f"how many tokens model {self.settings.model!r} reads is not known: give max_tokens=, or family= with a "
            "record of it"
        )
