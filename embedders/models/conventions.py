"""A model's conventions, merged from three layers: the registry's record, the folder's files, the user's settings."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from situate.embedders.models.families import (
    CLS_LATE,
    LAST_LATE,
    LIBRARY_LATE,
    STATIC_LATE,
    Family,
    Similarity,
)
from situate.embedders.models.files import read_modules, read_object
from situate.embedders.models.folder import ModelFolder, stored_max_tokens
from situate.embedders.models.prompts import PromptFamily
from situate.embedders.models.registry import family_of
from situate.embedders.models.resolve import ResolvedModel
from situate.embedders.models.settings import EmbedderSettings
from situate.embedders.types import Pooling
from situate.errors import ConventionError, FallbackWarning, InputError, SituateWarning

_POOLINGS: Mapping[str, Pooling] = {
    "cls": "cls",
    "mean": "mean",
    "max": "max",
    "lasttoken": "last",
    "weightedmean": "weighted_mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
}
_LEGACY_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
#: Names under which models store the prompt of a role. The first two of each are sentence-transformers' own.
QUERY_PROMPTS = ("query", "retrieval.query", "Retrieval-query", "web_search_query", "s2p_query", "s2p")
DOCUMENT_PROMPTS = ("document", "passage", "corpus", "retrieval.passage", "Retrieval-document")


#: The modules that `Encoder` computes itself, in their order; dropout does nothing outside training.
_OWN_MODULES = re.compile(r"Transformer (Pooling )?(Dense )*(Normalize )?")


@dataclass(frozen=True)
class StoredConventions:
    """The conventions in sentence-transformers' files of a model's folder; None where they have none.

    Attributes:
        modules: Class names of the modules, in order; () where there is no ``modules.json``.
        pooling: How token vectors become one.
        pool_instruction: sentence-transformers' ``include_prompt``.
        prompts: Prompt texts by name, the empty ones included.
        default_prompt: The prompt that is used where no role is named.
        similarity: How two vectors are compared.
        max_tokens: Tokens that a text is cut to.
        library: Why these modules are more than pooling a pass over the tokens; "" where they are not.
    """

    modules: tuple[str, ...] = ()
    pooling: Pooling | None = None
    pool_instruction: bool = True
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    default_prompt: str | None = None
    similarity: Similarity | None = None
    max_tokens: int | None = None
    library: str = ""

    @classmethod
    def read(cls, folder: Path) -> StoredConventions:
        """The conventions in ``folder``.

        Raises:
            ModelError: A file is damaged.
        """
        modules = read_modules(folder)
        config = read_object(folder / "config_sentence_transformers.json")
        pooling: Pooling | None = None
        pool_instruction = True
        library = ""
        types = [str(module.get("type", "")) for module in modules]
        kinds = tuple(kind.rsplit(".", 1)[-1] for kind in types)
        steps = "".join(f"{kind} " for kind in kinds if kind != "Dropout")
        foreign = [name for name in types if not name.startswith("sentence_transformers.")]
        if foreign:
            library = f"it is built from its repository's own code ({', '.join(foreign)})"
        elif modules and not _OWN_MODULES.fullmatch(steps):
            library = f"it is built from {' + '.join(kinds)}"
        max_tokens = stored_max_tokens(folder)
        for module in modules:
            kind = str(module.get("type", "")).rsplit(".", 1)[-1]
            values = read_object(folder / str(module.get("path", "")) / "config.json")
            if kind == "Pooling":
                modes = _pooling_modes(values)
                pooling = _POOLINGS.get(modes[0]) if len(modes) == 1 else None
                if pooling is None:
                    library = f"it pools by {' + '.join(modes)}"
                pool_instruction = bool(values.get("include_prompt", True))
            elif kind == "Transformer":
                max_tokens = stored_max_tokens(folder / str(module.get("path", ""))) or max_tokens
        prompts = {str(k): str(v) for k, v in (config.get("prompts") or {}).items() if v is not None}
        similarity = {"cosine": "cosine", "dot": "dot", "dot_product": "dot"}.get(str(config.get("similarity_fn_name")))
        return cls(
            modules=kinds,
            pooling=pooling,
            pool_instruction=pool_instruction,
            prompts=prompts,
            default_prompt=config.get("default_prompt_name"),
            similarity=similarity,  # type: ignore[arg-type]  # the mapping holds nothing else
            max_tokens=max_tokens,
            library=library,
        )

    def prompt(self, names: tuple[str, ...]) -> str | None:
        """The stored prompt of a role, by the first of ``names`` that is there; None where nothing is stored.

        sentence-transformers writes ``{"query": "", "document": ""}`` for models without these two, so empty prompts
        alone mean nothing, and a prompt with text precedes an empty one.
        """
        if not any(self.prompts.values()):
            return None
        found = [self.prompts[name] for name in names if name in self.prompts]
        if found:
            return next((prompt for prompt in found if prompt), "")
        if self.default_prompt is not None:
            return self.prompts.get(self.default_prompt)
        return None


@dataclass(frozen=True)
class Conventions:
    """One source's conventions of a model; None where it has none.

    Attributes are `Family`'s fields of the same names.
    """

    query: str | None = None
    document: str | None = None
    task: str | None = None
    pooling: Pooling | None = None
    pool_instruction: bool | None = None
    normalize: bool | None = None
    similarity: Similarity | None = None
    max_tokens: int | None = None
    library: str | None = None
    query_options: tuple[tuple[str, str], ...] | None = None
    document_options: tuple[tuple[str, str], ...] | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The fields that the source sets, with their values."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def over(self, record: Family) -> Family:
        """``record`` with this source's fields in place of its own."""
        return replace(record, **self.given)


def conventions(settings: EmbedderSettings, resolved: ResolvedModel | None) -> Family:
    """The merged conventions of one model: the user's settings over the folder's files over the registry.

    Args:
        settings: The user's.
        resolved: The model's files, where they are on this machine.

    Raises:
        ConventionError: A task was named for a model whose query instruction has no place for one.
        ModelError: A file of the model's folder is damaged.
    """
    if settings.prompts is not None:
        return _prompted(settings, settings.prompts, resolved)
    known = _from_registry(settings, resolved)
    record = known or Family(name="unknown", source="")
    stored = StoredConventions() if resolved is None else StoredConventions.read(resolved.path)
    folder = _from_folder(settings, record, stored)
    user = _from_user(settings, folder.over(record), stored)
    assumed = () if known else _assumed(settings, resolved, stored)
    if assumed:
        warnings.warn(
            f"model {settings.model!r} is in no family that situate knows, and its folder lacks conventions; "
            f"assumed: {'; '.join(assumed)}. Give query_instruction=, document_instruction= or pooling= if its card "
            "says otherwise (Embedder.describe() prints what is sent)",
            FallbackWarning,
            stacklevel=2,
        )
    merged = user.over(folder.over(record))
    users = {"query" if name == "task" else name for name in user.given}
    sources = (("the folder", tuple(sorted(folder.given.keys() - users))), ("you", tuple(sorted(users))))
    return replace(
        merged,
        late=_late(merged, stored, resolved),
        assumed=assumed,
        sources=tuple((source, fields) for source, fields in sources if fields),
    )


def _prompted(settings: EmbedderSettings, prompts: PromptFamily, resolved: ResolvedModel | None) -> Family:
    """The conventions of a model that is asked by prompts: its own lengths, and the prompts' texts and pooling.

    Raises:
        ConventionError: Another setting writes the texts or pools them, or the model lacks what a template needs.
    """
    others = [name for name in ("query_instruction", "document_instruction") if getattr(settings, name) is not None]
    if settings.pooling is not None and not (prompts.echoes and settings.pooling in ("mean", "last")):
        others.append("pooling")
    if others:
        raise ConventionError(
            f"prompts={prompts.name!r} write the whole text and choose the tokens that are pooled, which leaves "
            f"nothing for {', '.join(others)}: leave them out, or write templates of your own (PromptFamily)"
        )
    record = _from_registry(settings, resolved) or Family(name="unknown", source="")
    stored = StoredConventions() if resolved is None else StoredConventions.read(resolved.path)
    own = _from_folder(settings, record, stored).over(record)
    mask = _special_token(resolved, "mask") if prompts.masked else ""
    place = _special_token(resolved, "pad", "eos", "unk") if prompts.prepend is not None else ""
    return replace(prompts.over(own, mask, place, settings.task), pooling=settings.pooling or "mean")


def _special_token(resolved: ResolvedModel | None, *kinds: str) -> str:
    """The text of the first of these special tokens that the model has; "" where its files are not here.

    Raises:
        ConventionError: It has none.
    """
    if resolved is None:
        return ""
    folder = ModelFolder.read(resolved.path).path
    files = [read_object(folder / name) for name in ("tokenizer_config.json", "special_tokens_map.json")]
    for kind in kinds:
        for file in files:
            token = file.get(f"{kind}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str) and token:
                return token
    hint = ": it is not a masked language model. Ask it for one word (prompts='eol')" if kinds == ("mask",) else ""
    raise ConventionError(
        f"the prompts need a {' or '.join(kinds)} token, but model {resolved.id!r} has no {kinds[0]} token{hint}"
    )


def _from_registry(settings: EmbedderSettings, resolved: ResolvedModel | None) -> Family | None:
    """The user's record, else the registry's; None where it has none."""
    names = [settings.model] if resolved is None else [resolved.id, str(resolved.config.get("_name_or_path", ""))]
    return settings.family or family_of(*(name for name in names if name))


def _from_folder(settings: EmbedderSettings, record: Family, stored: StoredConventions) -> Conventions:
    """The folder's conventions; a record of the user's own overrides its prompts and its norm."""
    own = settings.family is not None
    query, document = (None, None) if own else (stored.prompt(names) for names in (QUERY_PROMPTS, DOCUMENT_PROMPTS))
    if settings.task is not None and "{task}" in record.query:
        query = None  # a named task needs the family's template: the stored prompt has one task written into it
    dot = (stored.similarity or record.similarity) == "dot"
    return Conventions(
        query=query,
        document=document,
        pooling=stored.pooling,
        pool_instruction=None if stored.pooling is None else stored.pool_instruction and record.pool_instruction,
        normalize=None if own or not stored.modules else "Normalize" in stored.modules or not dot,
        similarity=stored.similarity,
        max_tokens=stored.max_tokens,
        library=None if settings.pooling is not None or record.library else stored.library or None,
    )


def _from_user(settings: EmbedderSettings, record: Family, stored: StoredConventions) -> Conventions:
    """The settings' conventions; the task is written into those of ``record``, which hold without them.

    Raises:
        ConventionError: There is no place for the task.
    """
    task = settings.task
    user = Conventions(settings.query_instruction, settings.document_instruction, pooling=settings.pooling)
    if task is None:
        return user
    if any(name == "task" for name, _ in record.document_options):
        # The adapter of that task, for both roles: compared vectors have to come from one adapter or a matched pair.
        prompt = stored.prompts.get(task, "")
        options = tuple((name, task if name == "task" else value) for name, value in record.document_options)
        return replace(user, query=prompt, document=prompt, query_options=options, document_options=options)
    template = record.query if user.query is None else user.query
    if "{task}" in template or "{task}" in record.leading:
        return replace(user, task=task)
    if task in stored.prompts:
        return replace(user, query=stored.prompts[task])
    names = f" or one of its prompts by name ({', '.join(sorted(stored.prompts))})" if stored.prompts else ""
    raise ConventionError(
        f"task {task!r} was given, but the query instruction of model {settings.model!r} ({template!r}) has no place "
        f"for one: give query_instruction= with the whole text{names}"
    )


def _assumed(settings: EmbedderSettings, resolved: ResolvedModel | None, stored: StoredConventions) -> tuple[str, ...]:
    """The guesses for a model without a record."""
    assumed = []
    if resolved is not None and stored.pooling is None and settings.pooling is None and not stored.library:
        assumed.append("mean pooling (the folder has no 1_Pooling/config.json)")
    own_code = {} if resolved is None else resolved.config.get("auto_map", {})
    if "AutoModel" in own_code and not settings.trust_remote_code:
        assumed.append(f"transformers' own class (its repository's code, {own_code['AutoModel']}, is not run)")
    given = {"query": settings.query_instruction, "document": settings.document_instruction}
    silent = [role for role, instruction in given.items() if instruction is None]
    if silent and not stored.modules:
        assumed.append(f"no {' and no '.join(silent)} instruction")
    return tuple(assumed)


def _late(record: Family, stored: StoredConventions, resolved: ResolvedModel | None) -> str:
    """Why the model is not suited to late chunking; "" where it is."""
    if any(kind in ("StaticEmbedding", "WordEmbeddings", "BoW") for kind in stored.modules):
        return STATIC_LATE
    if record.library and resolved is not None:
        return record.late or LIBRARY_LATE
    return record.late or {"cls": CLS_LATE, "last": LAST_LATE}.get(record.pooling, "")


def _pooling_modes(values: Mapping[str, Any]) -> list[str]:
    mode = values.get("pooling_mode")
    modes = [mode] if isinstance(mode, str) else [str(name) for name in mode or ()]
    return modes or [name for key, name in _LEGACY_POOLINGS.items() if values.get(key)] or ["mean"]


def check_dimensions(dimensions: int | None, full: int, family: Family) -> None:
    """Raise where a vector cannot be cut to ``dimensions``, and warn where the model was not trained for it.

    Raises:
        InputError: It is not between 1 and ``full``.
    """
    if dimensions is None:
        return
    if not 1 <= dimensions <= full:
        raise InputError(f"dimensions is {dimensions}, but the model's vectors have {full}: ask for 1 to {full}")
    if dimensions < full and family.source and not family.trained_to_be_cut(dimensions):
        trained = family.cuts or "whole vectors only"
        warnings.warn(
            f"models of the family {family.name!r} were trained for {trained}, not to be cut to {dimensions} numbers: "
            "expect to find less",
            SituateWarning,
            stacklevel=3,
        )
