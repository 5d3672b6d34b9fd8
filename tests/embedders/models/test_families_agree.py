"""The registry against a second reading of the same cards: the model definitions that mteb evaluates with."""

from __future__ import annotations

import fnmatch
from typing import Any

import pytest

from situate.embedders import Family
from situate.embedders.models.registry import families

pytestmark = pytest.mark.full  # it imports a thousand definitions

TASK = "a task"
#: mteb's deviations, by the start of the model's id, and why the record stays as it is.
OTHERWISE = {
    "nomic-ai/nomic-embed-code": "its card and folder have the prefix for code; mteb gives it the text models'",
    "microsoft/harrier-oss-v1": "public code has a blank behind 'Query:'; the prompts in its folder rule anyway",
    "GritLM/": "mteb writes the instruction before passages as well; the card has the empty one there",
    "nvidia/NV-Embed": "mteb leaves a passage's instruction to the task; the card has none there",
    "Kingsoft-LLM/QZhou-Embedding-Zh": "its card writes a sentence round every text; mteb leaves it out",
    "BAAI/bge-en-icl": "mteb runs it without its instruction",
    "BAAI/bge-multilingual-gemma2": "mteb runs it without its instruction",
    "mixedbread-ai/mxbai-embed-xsmall-v1": "its card says 4096; the folder's own length rules",
    "jinaai/jina-embeddings-v3": "mteb names the adapter where others have the prompt",
    "jinaai/jina-embeddings-v4": "mteb names the adapter where others have the prompt",
}


def definitions() -> list[tuple[str, Any, Family]]:
    """The models of both, with the family whose pattern holds the whole id."""
    from mteb.models.get_model_meta import MODEL_REGISTRY

    both = []
    for name, meta in MODEL_REGISTRY.items():
        found = [f for f in families() if any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in f.models)]
        if found and "dense" in (meta.model_type or ()) and not name.startswith(tuple(OTHERWISE)):
            both.append((name, meta, found[0]))
    return both


def written(meta: Any) -> dict[str, str]:
    """mteb's prefixes of a query and a document, where its definition has them."""
    from mteb.types import PromptType

    loader = dict(meta.loader_kwargs or {})
    template, prompts = loader.get("instruction_template"), loader.get("model_prompts") or {}
    if isinstance(template, str):
        found = {"query": template.replace("{instruction}", TASK)}
        return found if loader.get("apply_instruction_to_passages", True) else {**found, "document": ""}
    if callable(template):
        found = {"query": template(TASK, PromptType.query)}
        both = loader.get("apply_instruction_to_passages", True)
        return {**found, "document": template(TASK, PromptType.document) if both else ""}
    return {
        role: prompts[key].removesuffix("{text}")
        for role in ("query", "document")
        for key in (f"Retrieval-{role}", role)
        if key in prompts
    }


def test_instructions_lengths_similarities_and_cuts_agree() -> None:
    both = definitions()
    assert len(both) > 120
    wrong = []
    for name, meta, family in both:
        own = {"query": family.query_instruction(TASK), "document": family.document_instruction()}
        wrong += [(name, role, text, own[role]) for role, text in written(meta).items() if text != own[role]]
        if meta.use_instructions is False and (own["query"] or own["document"]):
            wrong.append((name, "instructions", "none", own["query"]))
        if meta.max_tokens and (family.max_tokens or 0) > meta.max_tokens:
            wrong.append((name, "tokens", meta.max_tokens, family.max_tokens))
        similarity = getattr(meta.similarity_fn_name, "value", meta.similarity_fn_name)
        if similarity is not None and similarity != family.similarity:
            wrong.append((name, "similarity", similarity, family.similarity))
        if isinstance(meta.embed_dim, list) and not set(meta.embed_dim) <= set(family.dimensions):
            wrong.append((name, "dimensions", meta.embed_dim, family.dimensions))
    assert wrong == []


@pytest.mark.parametrize("start", OTHERWISE)
def test_what_disagrees_is_still_there(start: str) -> None:
    from mteb.models.get_model_meta import MODEL_REGISTRY

    assert any(name.startswith(start) for name in MODEL_REGISTRY)
