"""Errors for unknown keyword arguments that name the parameter that was probably meant."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Collection, Iterable
from typing import Any, TypeVar

from situate.errors import UnknownArgumentError

C = TypeVar("C", bound=type)

#: Other libraries' names of parameters, and the names that they have here.
_ELSEWHERE: dict[str, tuple[str, ...]] = {
    "api_base": ("base_url", "url"),
    "api_key": ("key",),
    "azure_endpoint": ("base_url",),
    "base_url": ("url",),
    "batch_size": ("batch_tokens",),
    "cache_size": ("memory",),
    "chunk_overlap": ("overlap",),
    "chunk_size": ("size", "max_tokens"),
    "collection_name": ("collection",),
    "cross_encoder": ("model",),
    "document_prefix": ("document_instruction",),
    "document_prompt": ("document_instruction",),
    "embed_model": ("embedder", "model"),
    "embedding": ("embedder",),
    "embedding_function": ("embedder",),
    "embeddings": ("embedder",),
    "default_headers": ("headers",),
    "devices": ("device",),
    "embedding_dimension": ("dimensions",),
    "filters": ("filter",),
    "hyde_prompt": ("template",),
    "include_original": ("query_weight",),
    "key": ("api_key",),
    "lambda_mult": ("balance",),
    "llm": ("generator",),
    "lora": ("adapters",),
    "location": ("path",),
    "max_length": ("max_tokens",),
    "max_retries": ("retries",),
    "max_seq_length": ("max_tokens",),
    "messages": ("history",),
    "model": ("embedder", "generator", "scorer"),
    "model_id": ("model",),
    "model_name": ("model", "embedder"),
    "model_name_or_path": ("model",),
    "model_path": ("model",),
    "n": ("drafts", "queries"),
    "normalize_embeddings": ("normalize", "family"),
    "num_layers": ("layers",),
    "node_parser": ("chunker",),
    "node_postprocessors": ("rerankers",),
    "num_hypothetical": ("drafts",),
    "num_queries": ("queries",),
    "output_dimensionality": ("dimensions",),
    "passage_prefix": ("document_instruction",),
    "passage_prompt": ("document_instruction",),
    "pooling_method": ("pooling",),
    "pooling_mode": ("pooling",),
    "postprocessors": ("rerankers",),
    "prompt": ("template", "instruction"),
    "openai_api_base": ("base_url",),
    "openai_api_key": ("api_key",),
    "query_expander": ("expander",),
    "query_instruction_for_retrieval": ("query_instruction",),
    "query_prefix": ("query_instruction",),
    "query_prompt": ("query_instruction",),
    "raise_on_error": ("on_error",),
    "request_timeout": ("timeout",),
    "reranker": ("rerankers",),
    "score_threshold": ("threshold",),
    "similarity_cutoff": ("threshold",),
    "similarity_threshold": ("nearest", "threshold"),
    "similarity_top_k": ("k",),
    "splitter": ("chunker",),
    "text_instruction": ("document_instruction",),
    "text_splitter": ("chunker",),
    "timeout": ("policy",),
    "top_k": ("k", "top", "keep"),
    "top_n": ("top", "keep", "k"),
    "torch_dtype": ("dtype",),
    "truncate_dim": ("dimensions",),
    "ttl_seconds": ("ttl",),
    "use_fp16": ("dtype",),
    "url": ("base_url",),
    "window_size": ("window",),
}


def right_name(name: str, known: Collection[str]) -> str | None:
    """The known parameter that ``name`` means: another library's name for it, or a near spelling."""
    for meant in _ELSEWHERE.get(name, ()):
        if meant in known:
            return meant
    near = difflib.get_close_matches(name, known, 1, 0.75)
    return near[0] if near else None


def unknown_parameters(owner: str, names: Iterable[str], known: Collection[str]) -> UnknownArgumentError:
    """The error for keyword arguments that ``owner`` does not take; the message names the likely ones, or all."""
    named = []
    for name in sorted(names):
        meant = right_name(name, known)
        named.append(f"{name}=" if meant is None else f"{name}= (here it is {meant}=)")
    return UnknownArgumentError(f"{owner} does not know {', '.join(named)}; it takes {', '.join(known)}")


def checked_parameters(cls: C, options: Iterable[str] = ()) -> C:
    """A class decorator: a keyword argument that the constructor does not take is an error that names the right one.

    Args:
        cls: The class.
        options: What the constructor takes by ``**`` besides the parameters that it names.

    Raises:
        UnknownArgumentError: From the constructor, on an unknown keyword argument.
    """
    # The type of a class does not know that its constructor may be replaced.
    owner: Any = cls
    original = owner.__init__
    parameters = inspect.signature(original).parameters.values()
    known = [one.name for one in parameters if one.name != "self" and one.kind is not one.VAR_KEYWORD]
    known += options

    @functools.wraps(original)
    def checked(self: Any, *arguments: Any, **named: Any) -> None:
        unknown = named.keys() - set(known)
        if unknown:
            raise unknown_parameters(type(self).__name__, unknown, known)
        original(self, *arguments, **named)

    owner.__init__ = checked
    return cls
