"""Errors for arguments of the wrong name, which name the parameter that was probably meant, or of the wrong type."""

from __future__ import annotations

import difflib
import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Integral, Real
from types import NoneType
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar, get_args, get_origin

from situate.errors import InputError, SituateError, UnknownArgumentError

C = TypeVar("C", bound=type)
P = ParamSpec("P")
R = TypeVar("R")

#: Annotations that values are held to, with what they take: numpy's numbers too, and any path.
_TYPES: dict[str, tuple[type, str]] = {
    "str": (str, "a string"),
    "bool": (bool, "True or False"),
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "Path": (os.PathLike, "a path"),
    "None": (NoneType, "None"),
}
#: Parameters whose values no message shows.
SECRET = re.compile("key|password|secret|headers")

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


class _Allowed(NamedTuple):
    """What a parameter takes."""

    types: tuple[type, ...]
    shown: str

    def takes(self, value: object) -> bool:
        # True is a 1, and hardly meant as one. numpy's is of a type of its own.
        if type(value).__name__ in ("bool", "bool_"):
            return bool in self.types
        return isinstance(value, self.types)


def _allowed(annotation: object, names: Mapping[str, Any]) -> _Allowed | None:
    """What an annotation of plain types and literals takes; None for any other.

    Which of its values a literal is, is left to the class: some know only at their first use which there are.
    """
    if not isinstance(annotation, str):
        return None
    types: list[type] = []
    shown: list[str] = []
    for part in annotation.split(" | "):
        literals = names.get(part)
        if part in _TYPES:
            types.append(_TYPES[part][0])
            shown.append(_TYPES[part][1])
        elif get_origin(literals) is Literal:
            types += map(type, get_args(literals))
            shown += map(repr, get_args(literals))
        else:
            return None
    return _Allowed(tuple(types), " or ".join(shown))


class _Checks:
    """The checks of a callable's arguments, by its annotations.

    Args:
        called: The function or constructor.
        module: Where its annotations' names stand.
        skipped: Leading parameters that are not the caller's (``self``).
    """

    def __init__(self, called: Callable[..., Any], module: str, skipped: int = 0) -> None:
        parameters = list(inspect.signature(called).parameters.values())[skipped:]
        self._positional = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
        self._annotations = {one.name: one.annotation for one in parameters}
        self._module = module
        self._known: dict[str, _Allowed | None] | None = None

    def check(self, owner: str, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        """Raise where an argument is of another type than its annotation.

        Raises:
            InputError: One is; the message names it.
        """
        if self._known is None:  # at the first call, when the module has all of its names
            names = vars(sys.modules[self._module])
            self._known = {name: _allowed(one, names) for name, one in self._annotations.items()}
        for name, value in (*zip(self._positional, arguments, strict=False), *named.items()):
            allowed = self._known.get(name)
            if allowed is not None and not allowed.takes(value):
                given = f"a {type(value).__name__}" if SECRET.search(name) else repr(value)[:80]
                raise InputError(f"{owner}({name}=) is {given}: it has to be {allowed.shown}")


def checked_values(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator: an argument of another type than its annotation is an error that names it."""
    checks = _Checks(function, function.__module__)

    @functools.wraps(function)
    def checked(*arguments: P.args, **named: P.kwargs) -> R:
        checks.check(function.__name__, arguments, named)
        return function(*arguments, **named)

    return checked


def checked_parameters(cls: C, options: Iterable[str] = ()) -> C:
    """A class decorator: an argument of a wrong name or type is an error that names the right one.

    Types are held to where they are plain ones, literals, or unions of these.

    Args:
        cls: The class.
        options: What the constructor takes by ``**`` besides the parameters that it names.

    Raises:
        UnknownArgumentError: From the constructor, on an unknown keyword argument.
        InputError: From the constructor, on an argument of another type, where its own checks say nothing.
    """
    # The type of a class does not know that its constructor may be replaced.
    owner: Any = cls
    original = owner.__init__
    parameters = inspect.signature(original).parameters.values()
    known = [one.name for one in parameters if one.name != "self" and one.kind is not one.VAR_KEYWORD]
    known += options
    checks = _Checks(original, owner.__module__, skipped=1)

    @functools.wraps(original)
    def checked(self: Any, *arguments: Any, **named: Any) -> None:
        unknown = named.keys() - set(known)
        if unknown:
            raise unknown_parameters(type(self).__name__, unknown, known)
        try:
            original(self, *arguments, **named)
        except SituateError:
            raise
        except Exception:
            checks.check(type(self).__name__, arguments, named)
            raise
        checks.check(type(self).__name__, arguments, named)

    owner.__init__ = checked
    return cls
