"""PromptReps: sparse vectors equal the logits of plain transformers, and an index searches by them."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from situate.embedders import Embedder, PromptRepsEmbedder
from situate.errors import ConventionError, InputError
from situate.retrievers import Index, PipelineConfig
from situate.retrievers.signals.base import signal_from_json
from situate.retrievers.signals.promptreps import PromptReps
from situate.types import Document
from tests.tiny_models import tiny_language_model

TEXTS = {
    "cat": "the Cat sat on a mat, the red Dog runs home",
    "river": "old river runs , berlin",
    "house": "red house , old city",
}

QUERY = "old red dog runs to a house in the city of berlin"


@pytest.fixture(scope="module", params=["llama", pytest.param("qwen3", marks=pytest.mark.full)])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_language_model(tmp_path_factory.mktemp("tiny") / request.param, request.param))


def by_hand(folder: str, kind: str, text: str, words: str) -> dict[int, float]:
    """log(1 + relu(logit)) of the tokens of ``words``, at the end of the prompt."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    prompt = (
        f'{kind.capitalize()}: "{text}". Use one word to represent the {kind} in a retrieval task. Make sure your word '
        'is in lowercase.\nThe word is "'
    )
    ids = tokenizer(prompt, add_special_tokens=False).input_ids
    ids = ([1] if tokenizer("a").input_ids[0] == 1 else []) + ids
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
    own = {token for word in words.split() for token in tokenizer(word, add_special_tokens=False).input_ids}
    return {token: float(torch.log1p(logits[token])) for token in sorted(own) if logits[token] > 0}


def as_dict(vector: object) -> dict[int, float]:
    return dict(zip(vector.indices.tolist(), vector.values.tolist(), strict=True))  # type: ignore[attr-defined]


def test_weights_are_the_logits_of_the_texts_own_words(folder: str) -> None:
    embedder = PromptRepsEmbedder(folder, device="cpu", dtype="float32")
    # "the", "on" and "a" say nothing; case is not the answer's.
    wanted = by_hand(folder, "passage", TEXTS["cat"], "cat sat mat red dog runs home")
    assert len(wanted) > 2
    (document,) = embedder.embed_documents([TEXTS["cat"]])
    assert as_dict(document) == pytest.approx(wanted, abs=1e-4)
    (query,) = asyncio.run(embedder.aembed_queries([TEXTS["river"]]))
    assert as_dict(query) == pytest.approx(by_hand(folder, "query", TEXTS["river"], "old river runs berlin"), abs=1e-4)
    cut = PromptRepsEmbedder(folder, device="cpu", dtype="float32", max_active=2)
    best = dict(sorted(wanted.items(), key=lambda item: -item[1])[:2])
    assert as_dict(cut.embed_documents([TEXTS["cat"]])[0]) == pytest.approx(best, abs=1e-4)
    assert as_dict(pickle.loads(pickle.dumps(cut)).embed_documents([""])[0]) == {}


def test_an_index_takes_both_halves_of_one_prompt(folder: str) -> None:
    sparse = PromptRepsEmbedder(folder, device="cpu", dtype="float32")
    dense = Embedder(folder, prompts="promptreps", device="cpu", dtype="float32")
    with Index(dense, config=PipelineConfig(lexical=None, signals=(PromptReps(sparse),))) as index:
        index.add([Document(name, text) for name, text in TEXTS.items()])
        got = {hit.chunk.document_id: hit.scores.get("promptreps", 0.0) for hit in index.search(QUERY, 3)}
    (query,) = sparse.embed_queries([QUERY])
    asked = as_dict(query)
    for name, row in zip(TEXTS, sparse.embed_documents(list(TEXTS.values())), strict=True):
        wanted = sum(weight * asked.get(token, 0.0) for token, weight in as_dict(row).items())
        assert got[name] == pytest.approx(wanted, abs=1e-3)
    assert np.ptp(list(got.values())) > 0


def test_what_has_no_single_answer_or_no_logits_is_refused(folder: str, minilm_path: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no single last token"):
        PromptRepsEmbedder(folder, prompts="metaeol")
    with pytest.raises(InputError, match="asked of queries, too"):
        signal_from_json({"kind": "promptreps", "model": folder, "query_by": "tokens"})
    with pytest.raises(InputError, match="max_active is 0"):
        PromptRepsEmbedder(folder, max_active=0)
    with pytest.raises(InputError, match="collection of words"):
        PromptRepsEmbedder(folder, ignored="the")  # whose letters are no words
    with pytest.raises(InputError, match="prompts=None"):
        PromptRepsEmbedder(folder, prompts=None)  # type: ignore[arg-type]
    assert PromptRepsEmbedder(folder, ignored=["The"]).ignored == {"the"}
    headless = tmp_path / "headless"
    transformers.AutoModel.from_pretrained(folder).save_pretrained(headless)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(headless)
    with pytest.raises(ConventionError, match="holds no output layer"):
        PromptRepsEmbedder(headless, device="cpu").embed_queries(["an old river"])
