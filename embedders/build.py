"""The encoder that runs an embedder's model."""

from __future__ import annotations

from situate.embedders.models.families import Family
from situate.embedders.models.folder import ModelFolder
from situate.embedders.models.prompts import PromptedFamily
from situate.embedders.models.resolve import ResolvedModel
from situate.embedders.models.settings import EmbedderSettings
from situate.embedders.types import SpanEncoder
from situate.errors import ConventionError, InputError, UnsafeModelError


def build_encoder(settings: EmbedderSettings, family: Family, resolved: ResolvedModel | None) -> SpanEncoder:
    """The given encoder, else one that runs the model by its conventions. Loads no weights.

    Args:
        settings: The embedder's.
        family: The conventions that hold.
        resolved: The model's files; None where another encoder stands for them.

    Raises:
        ModelError: The model cannot be run so, or not without its repository's own code.
        InputError: Several devices are given for a model that runs on one.
    """
    if settings.encoder is not None or resolved is None:
        assert settings.encoder is not None  # nothing else leaves the files out
        return settings.encoder
    _check_runnable(settings, family, resolved)
    return _library_encoder(settings, family) if family.library else _own_encoder(settings, family, resolved)


def _check_runnable(settings: EmbedderSettings, family: Family, resolved: ResolvedModel) -> None:
    """Refuse a model whose vectors would be wrong without a warning."""
    model = settings.model
    if family.corpus:
        raise ConventionError(
            f"model {model!r} (family {family.name!r}) cannot be run from its name alone: {family.library}. Pass "
            f"encoder=LibraryEncoder({model!r}, corpus=passages, trust_remote_code=True) with passages of the "
            "corpus that will be searched, if you have read the repository's code and trust its author; or serve "
            "it, and pass an encoder that asks the server"
        )
    remote = "AutoModel" in resolved.config.get("auto_map", {}) or bool(family.library)
    if family.remote_code and remote and not settings.trust_remote_code:
        why = f" ({family.library})" if family.library else ""
        raise UnsafeModelError(
            f"model {model!r} (family {family.name!r}) gives right vectors only through its repository's own "
            f"code{why}: pass trust_remote_code=True if you have read it and trust its author; or serve it, and "
            "pass encoder= with a SpanEncoder that asks the server (situate.embedders.OpenAIEncoder, say)"
        )


def _own_encoder(settings: EmbedderSettings, family: Family, resolved: ResolvedModel) -> SpanEncoder:
    from situate.embedders.local.loaded import shared_encoder

    max_tokens = settings.max_tokens
    if max_tokens is None and family.max_tokens is not None and settings.extension is None:
        max_tokens = min(family.max_tokens, ModelFolder.read(resolved.path).position_limit)
    return shared_encoder(
        (str(resolved.path), resolved.digest),
        model=settings.model,
        pooling=family.pooling,
        normalize=family.normalize,
        pool_prefix=family.pool_instruction,
        end_token=family.end_token,
        leading=family.leading.replace("{task}", family.task),
        position_stride=family.position_stride,
        layers=settings.layers,
        mean_layers=settings.mean_layers,
        device=settings.device,
        dtype=settings.dtype,
        adapters=settings.adapters,
        extension=settings.extension,
        bidirectional=settings.bidirectional,
        prepend=family.prepend if isinstance(family, PromptedFamily) else None,
        routing_weight=settings.routing_weight,
        weights=settings.weights,
        token_heads=settings.token_heads,
        on_overflow=settings.on_overflow,
        max_tokens=max_tokens,
        revision=settings.revision,
        trust_remote_code=settings.trust_remote_code,
        allow_pickle=settings.allow_pickle,
    )


def _library_encoder(settings: EmbedderSettings, family: Family) -> SpanEncoder:
    from situate.embedders.library.encoder import LibraryEncoder

    if settings.changes:
        raise ConventionError(
            f"model {settings.model!r} is run by sentence-transformers, to which "
            f"{', '.join(settings.changes)} cannot be passed: leave them out"
        )
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
