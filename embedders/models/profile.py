"""What an embedder knows of its model: its settings, files, conventions and encoder, each looked up when needed."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from situate.embedders.local.encoder import Encoder
from situate.embedders.models.adapters import Adapter
from situate.embedders.models.conventions import check_dimensions, conventions
from situate.embedders.models.families import Family
from situate.embedders.models.registry import family_of
from situate.embedders.models.resolve import ResolvedModel, resolve_model
from situate.embedders.models.settings import EmbedderSettings
from situate.embedders.types import SpanEncoder
from situate.errors import ConventionError, InputError, ModelNotFoundError, UnsafeModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class ModelProfile:
    """A model, looked up piece by piece: naming it costs nothing, its conventions cost reading a few small files.

    Args:
        settings: The embedder's.
    """

    def __init__(self, settings: EmbedderSettings) -> None:
        self.settings = settings
        self._lock = threading.RLock()
        self._resolved: ResolvedModel | None = None
        self._family: Family | None = None
        self._encoder: SpanEncoder | None = None

    @property
    def ready(self) -> bool:
        """Whether everything has been looked up already, so that asking costs nothing."""
        return self._encoder is not None and self._family is not None

    @property
    def resolved(self) -> ResolvedModel | None:
        """The model's files; None where another encoder stands for them."""
        if self.settings.encoder is not None:
            return None
        with self._lock:
            if self._resolved is None:
                self._resolved = resolve_model(self.settings.model, self.settings.load_options)
            return self._resolved

    @property
    def family(self) -> Family:
        """The conventions that hold, merged."""
        with self._lock:
            if self._family is None:
                self._family = self._merged(self.resolved)
            return self._family

    @property
    def record(self) -> Family:
        """The registry's record with the user's words, for a model whose files are not here.

        Raises:
            ModelNotFoundError: The registry has none.
        """
        known = self.settings.family is not None or family_of(self.settings.model) is not None
        return self._merged(None) if known else self.family  # which raises

    @property
    def encoder(self) -> SpanEncoder:
        """What turns texts into vectors. Loads no weights."""
        with self._lock:
            if self._encoder is None:
                given = self.settings.encoder
                encoder = given if given is not None else self._own_encoder()
                check_dimensions(self.settings.dimensions, encoder.dimension, self.family)
                self._encoder = encoder
            return self._encoder

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, from its encoder or its files."""
        own = getattr(self.encoder, "tokenizer", None)
        if own is None:
            try:
                own = Encoder(self.settings.model, revision=self.settings.revision).tokenizer
            except ModelNotFoundError as error:
                raise ModelNotFoundError(
                    f"{self.settings.model!r} is served elsewhere and its tokenizer is not here: size chunks in "
                    "characters (a chunker without a tokenizer), or name a model folder that has the same tokenizer"
                ) from error
        tokenizer: Tokenizer = own
        return tokenizer

    @property
    def max_tokens(self) -> int:
        """Tokens that a text is cut to."""
        return self._length(self.settings.max_tokens, getattr(self.encoder, "max_tokens", None), self.family.max_tokens)

    @property
    def trained_tokens(self) -> int:
        """Tokens that the model was trained to read at once."""
        encoder = self.encoder
        if isinstance(encoder, Encoder) and encoder.extension is not None:
            return encoder.trained_tokens
        read = (self.settings.max_tokens, getattr(encoder, "max_tokens", None), self.family.max_tokens)
        trained = self._length(self.family.trained_tokens, getattr(encoder, "trained_tokens", None), *read)
        # No more than is read: a folder whose tokenizer sets no limit says nothing of the training.
        most = next((length for length in read if length is not None), trained)
        return min(trained, most, getattr(encoder, "position_limit", trained))

    def fingerprint(self) -> dict[str, Any]:
        """What of the model decides a document's vector, as JSON values."""
        settings, family, resolved = self.settings, self.family, self.resolved
        # Only where they say something, so that indexes made before these were known stay readable.
        more: dict[str, Any] = self._changed()
        if family.similarity != "cosine":
            more["similarity"] = family.similarity
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
            "dimensions": self.encoder.dimension if settings.dimensions is None else settings.dimensions,
            "max_tokens": settings.max_tokens,
            "on_overflow": "window" if settings.on_overflow == "window" else "cut",
        }

    def query_adapter(self) -> str | None:
        """The digest of the adapter that queries are embedded with, where it is another than the documents'."""
        documents, queries = (self.settings.adapter_for(role) for role in ("document", "query"))
        return None if queries == documents else self._digest(queries)

    def _changed(self) -> dict[str, Any]:
        """What of the model is not run as its folder says."""
        settings = self.settings
        changed: dict[str, Any] = {}
        if settings.layers is not None:
            changed["layers"] = settings.layers
        if settings.adapter is not None:
            changed["adapter"] = self._digest(settings.adapter)
        if settings.extension is not None:
            changed["extension"] = dataclasses.asdict(settings.extension)
        return changed

    def _digest(self, adapter: str | None) -> str | None:
        if adapter is None:
            return None
        source = dict(self.settings.adapters)[adapter]
        return Adapter.found(adapter, source, self.settings.load_options).digest

    def _merged(self, resolved: ResolvedModel | None) -> Family:
        settings = self.settings
        return conventions(
            settings.model,
            resolved,
            family=settings.family,
            query_instruction=settings.query_instruction,
            document_instruction=settings.document_instruction,
            task=settings.task,
            pooling=settings.pooling,
            trust_remote_code=settings.trust_remote_code,
        )

    def _own_encoder(self) -> SpanEncoder:
        from situate.embedders.local.shared import shared_encoder
        from situate.embedders.models.folder import ModelFolder

        resolved = self.resolved
        assert resolved is not None  # only another encoder leaves it out
        self._check_loadable(resolved)
        settings = self.settings
        if self.family.library:
            if settings.changes:
                raise ConventionError(
                    f"model {settings.model!r} is run by sentence-transformers, which {', '.join(settings.changes)} "
                    "cannot be asked of here: leave them out"
                )
            return self._library_encoder()
        max_tokens = settings.max_tokens
        if max_tokens is None and self.family.max_tokens is not None and settings.extension is None:
            max_tokens = min(self.family.max_tokens, ModelFolder.read(resolved.path).position_limit)
        return shared_encoder(
            (str(resolved.path), resolved.digest),
            model=settings.model,
            pooling=self.family.pooling,
            normalize=self.family.normalize,
            pool_prefix=self.family.pool_instruction,
            end_token=self.family.end_token,
            layers=settings.layers,
            device=settings.device,
            dtype=settings.dtype,
            adapters=settings.adapters,
            extension=settings.extension,
            on_overflow=settings.on_overflow,
            max_tokens=max_tokens,
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
            allow_pickle=settings.allow_pickle,
        )

    def _check_loadable(self, resolved: ResolvedModel) -> None:
        """Refuse a model whose vectors would come out wrong without a word."""
        family, model = self.family, self.settings.model
        if family.corpus:
            raise ConventionError(
                f"model {model!r} (family {family.name!r}) cannot be run from its name alone: {family.library}. Pass "
                f"encoder=LibraryEncoder({model!r}, corpus=passages, trust_remote_code=True) with passages of the "
                "corpus that will be searched, if you have read the repository's code and trust its author; or serve "
                "it, and pass an encoder that asks the server"
            )
        remote = "AutoModel" in resolved.config.get("auto_map", {}) or bool(family.library)
        if family.remote_code and remote and not self.settings.trust_remote_code:
            why = f" ({family.library})" if family.library else ""
            raise UnsafeModelError(
                f"model {model!r} (family {family.name!r}) gives right vectors only through its repository's own "
                f"code{why}: pass trust_remote_code=True if you have read it and trust its author; or serve it, and "
                "pass encoder= with a SpanEncoder that asks the server (situate.embedders.OpenAIEncoder, say)"
            )

    def _library_encoder(self) -> SpanEncoder:
        from situate.embedders.library.encoder import LibraryEncoder

        settings, family = self.settings, self.family
        if not isinstance(settings.device, str):
            raise InputError(
                f"model {settings.model!r} is run by sentence-transformers on one device: name one of {settings.device}"
            )
        return LibraryEncoder(
            settings.model,
            query_options=dict(family.query_options),
            document_options=dict(family.document_options),
            normalize=family.normalize,
            max_tokens=settings.max_tokens,
            device=settings.device,
            dtype=settings.dtype,
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
            allow_pickle=settings.allow_pickle,
        )

    def _length(self, *candidates: int | None) -> int:
        for value in candidates:
            if value is not None:
                return value
        raise ConventionError(
            f"how many tokens model {self.settings.model!r} reads is not known: give max_tokens=, or family= with a "
            "record of it"
        )
