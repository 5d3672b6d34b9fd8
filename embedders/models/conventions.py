"""A model's conventions, merged: its family's record, its folder's own files, and what the user says."""

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
from situate.embedders.models.registry import family_of
from situate.embedders.models.resolve import ResolvedModel, read_json
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
    """What sentence-transformers' files in a model's folder say; None where they say nothing.

    Attributes:
        modules: Class names of the modules, in order; () where there is no ``modules.json``.
        pooling: How token vectors become one.
        pool_instruction: sentence-transformers' ``include_prompt``.
        prompts: Prompt texts by name, the empty ones included.
        default_prompt: The prompt that is used where no role is named.
        similarity: How two vectors are compared.
        max_tokens: Tokens that a text is cut to.
        library: Why pooling a pass over the tokens is not what these modules do; "" where it is.
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
        modules = read_json(folder / "modules.json", default=[])
        config = read_json(folder / "config_sentence_transformers.json")
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
        max_tokens = read_json(folder / "sentence_bert_config.json").get("max_seq_length")
        for module in modules:
            kind = str(module.get("type", "")).rsplit(".", 1)[-1]
            values = read_json(folder / str(module.get("path", "")) / "config.json")
            if kind == "Pooling":
                modes = _pooling_modes(values)
                pooling = _POOLINGS.get(modes[0]) if len(modes) == 1 else None
                if pooling is None:
                    library = f"it pools by {' + '.join(modes)}"
                pool_instruction = bool(values.get("include_prompt", True))
            elif kind == "Transformer":
                own = read_json(folder / str(module.get("path", "")) / "sentence_bert_config.json")
                max_tokens = own.get("max_seq_length", max_tokens)
        prompts = {str(k): str(v) for k, v in (config.get("prompts") or {}).items() if v is not None}
        similarity = {"cosine": "cosine", "dot": "dot", "dot_product": "dot"}.get(str(config.get("similarity_fn_name")))
        return cls(
            modules=kinds,
            pooling=pooling,
            pool_instruction=pool_instruction,
            prompts=prompts,
            default_prompt=config.get("default_prompt_name"),
            similarity=similarity,  # type: ignore[arg-type]  # the mapping holds nothing else
            max_tokens=int(max_tokens) if max_tokens else None,
            library=library,
        )

    def prompt(self, names: tuple[str, ...]) -> str | None:
        """The stored prompt of a role, by the first of ``names`` that is there; None where nothing is stored.

        sentence-transformers writes ``{"query": "", "document": ""}`` for models that nobody gave these two, so prompts
        that are all empty say nothing, and an empty one gives way to one that says something.
        """
        if not any(self.prompts.values()):
            return None
        found = [self.prompts[name] for name in names if name in self.prompts]
        if found:
            return next((prompt for prompt in found if prompt), "")
        if self.default_prompt is not None:
            return self.prompts.get(self.default_prompt)
        return None


def conventions(
    model: str,
    resolved: ResolvedModel | None,
    *,
    family: Family | None = None,
    query_instruction: str | None = None,
    document_instruction: str | None = None,
    task: str | None = None,
    pooling: Pooling | None = None,
    normalize: bool | None = None,
    trust_remote_code: bool = False,
    warn: bool = True,
) -> Family:
    """What holds for one model, as a record of its own.

    Args:
        model: The id that the user gave.
        resolved: Its files, where they are on this machine.
        family: The user's own record, which stands in the registry's place.
        query_instruction: The user's; "" for none, None for the model's own.
        document_instruction: Likewise.
        task: What ``{task}`` stands for.
        pooling: The user's, against what the model says.
        normalize: Likewise.
        trust_remote_code: Whether the repository's own code runs.
        warn: Say it where a convention had to be assumed.

    Raises:
        ConventionError: A task was named for a model whose query instruction has no place for one.
    """
    names = [model] if resolved is None else [resolved.id, str(resolved.config.get("_name_or_path", ""))]
    known = family or family_of(*(name for name in names if name))
    stored = StoredConventions() if resolved is None else StoredConventions.read(resolved.path)
    record = known or Family(name="unknown", source="")
    assumed: list[str] = []
    changes: dict[str, Any] = {}
    if stored.pooling is not None:
        changes["pooling"] = stored.pooling
        changes["pool_instruction"] = stored.pool_instruction and (family or record).pool_instruction
    elif known is None and pooling is None and resolved is not None and not stored.library:
        assumed.append("mean pooling (the folder has no 1_Pooling/config.json)")
    own_code = {} if resolved is None else resolved.config.get("auto_map", {})
    if known is None and "AutoModel" in own_code and not trust_remote_code:
        assumed.append(f"transformers' own class (its repository's code, {own_code['AutoModel']}, is not run)")
    if stored.library and pooling is None and not record.library:
        changes["library"] = stored.library
    if stored.similarity is not None:
        changes["similarity"] = stored.similarity
    if stored.modules and (known is None or family is None):
        dot = changes.get("similarity", record.similarity) == "dot"
        changes["normalize"] = "Normalize" in stored.modules or not dot
    if stored.max_tokens is not None:
        changes["max_tokens"] = stored.max_tokens
    if family is None:
        for field, roles in (("query", QUERY_PROMPTS), ("document", DOCUMENT_PROMPTS)):
            prompt = stored.prompt(roles)
            # A named task needs the family's template: the stored prompt has one task written into it.
            if prompt is not None and not (field == "query" and task is not None and "{task}" in record.query):
                changes[field] = prompt
    if known is None and not stored.modules:
        wanted = [
            role for role, given in (("query", query_instruction), ("document", document_instruction)) if given is None
        ]
        if wanted:
            assumed.append(f"no {' and no '.join(wanted)} instruction")
    folder = set(changes)
    if query_instruction is not None:
        changes["query"] = query_instruction
    if document_instruction is not None:
        changes["document"] = document_instruction
    if pooling is not None:
        changes["pooling"] = pooling
    if normalize is not None:
        changes["normalize"] = normalize
    given = {
        "query": query_instruction if task is None else task,
        "document": document_instruction,
        "pooling": pooling,
        "normalize": normalize,
    }
    yours = {field for field, value in given.items() if value is not None}
    told = (("the folder", tuple(sorted(folder - yours))), ("you", tuple(sorted(yours))))
    merged = replace(record, told=tuple((who, fields) for who, fields in told if fields), **changes)
    if task is not None:
        merged = _with_task(merged, task, stored, model)
    if any(kind in ("StaticEmbedding", "WordEmbeddings", "BoW") for kind in stored.modules):
        merged = replace(merged, late=STATIC_LATE)
    elif merged.library and resolved is not None:
        merged = replace(merged, late=merged.late or LIBRARY_LATE)
    elif not merged.late:
        merged = replace(merged, late={"cls": CLS_LATE, "last": LAST_LATE}.get(merged.pooling, ""))
    merged = replace(merged, assumed=tuple(assumed))
    if assumed and warn:
        warnings.warn(
            f"model {model!r} is in no family that situate knows, and its folder does not say everything; assumed: "
            f"{'; '.join(assumed)}. Give query_instruction=, document_instruction= or pooling= if its card says "
            "otherwise (Embedder.describe() prints what is sent)",
            FallbackWarning,
            stacklevel=2,
        )
    return merged


def _with_task(record: Family, task: str, stored: StoredConventions, model: str) -> Family:
    if any(name == "task" for name, _ in record.document_options):
        # The adapter of that task, for both roles: what is compared has to come from one adapter or a matched pair.
        prompt = stored.prompts.get(task, "")
        options = tuple((name, task if name == "task" else value) for name, value in record.document_options)
        return replace(record, query=prompt, document=prompt, query_options=options, document_options=options)
    if "{task}" in record.query:
        return replace(record, task=task)
    if task in stored.prompts:
        return replace(record, query=stored.prompts[task])
    names = f" or one of its prompts by name ({', '.join(sorted(stored.prompts))})" if stored.prompts else ""
    raise ConventionError(
        f"task {task!r} was given, but the query instruction of model {model!r} ({record.query!r}) has no place for "
        f"one: give query_instruction= with the whole text{names}"
    )


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
