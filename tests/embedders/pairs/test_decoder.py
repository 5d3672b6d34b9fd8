"""Decoders as scorers: their numbers equal a plain computation of transformers, one text at a time."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from situate.embedders import AnswerModel, Decoder, LikelihoodTemplate, PairScorer, QueryLikelihoodModel
from situate.embedders.pairs.likelihood import SGPT, UPR
from situate.errors import InputError, ModelError, NonFiniteVectorError, PromptRefusedError
from situate.retrievers.rerank import CrossEncoderReranker
from situate.retrievers.types import Hit
from situate.types import AnswerScorer, Chunk, Prompt

#: A vocabulary of whole words.
TEXT = """
<pad> <s> </s> <unk> <|im_end|> how long is parental leave ? weeks Passage : Please write a question based on this
passage
. Question Documents are searched to find matches with the same content The document " good search result for it pays
Answer 0 1 2 3 A B travel desk user system
"""
WORDS = TEXT.split()
PAIRS = [
    ("how long is parental leave ?", "parental leave is long ."),
    ("how long is parental leave ?", "weeks " * 12),
    ("it pays", "travel desk"),
    ("how long is leave ?", ""),
    ("weeks", "<|im_end|> </s> leave"),
]


@pytest.fixture(scope="session", params=["llama", "qwen3"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny decoder with sharp random weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    special: dict[str, Any] = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
    if request.param == "llama":  # which begins each text with a token of its own
        special["bos_token"] = "<s>"
        backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, additional_special_tokens=["<|im_end|>"], **special)
    shape: dict[str, Any] = {
        "vocab_size": len(WORDS), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    torch.manual_seed(0)
    model: Any = (
        LlamaForCausalLM(LlamaConfig(**shape))
        if request.param == "llama"
        else Qwen3ForCausalLM(Qwen3Config(**shape, head_dim=8))
    )
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim > 1:
                weights.mul_(4)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def on_cpu(folder: str | Path, **settings: Any) -> Decoder:
    return Decoder(folder, dtype="float32", device="cpu", **settings)


def plain(folder: str, beginning: str, continuation: str) -> np.ndarray:
    """The continuation's token log-likelihoods by transformers alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    first = tokenizer(beginning, return_tensors="pt", split_special_tokens=True).input_ids
    ids = tokenizer(beginning + continuation, return_tensors="pt", split_special_tokens=True).input_ids
    with torch.no_grad():
        logits = model(ids).logits[0].log_softmax(-1)
    places = range(first.shape[1], ids.shape[1])
    return np.array([float(logits[place - 1, ids[0, place]]) for place in places])


@pytest.mark.parametrize("template", [UPR, SGPT], ids=["UPR", "SGPT"])
async def test_a_score_is_the_mean_log_likelihood_of_the_querys_tokens(
    decoder: str, template: LikelihoodTemplate
) -> None:
    model = QueryLikelihoodModel(on_cpu(decoder, batch_tokens=128), template=template)
    assert isinstance(model, PairScorer)
    found = model.score(PAIRS)
    assert found.spread is not None
    for (query, passage), score, spread in zip(PAIRS, found.scores, found.spread, strict=True):
        expected = plain(decoder, template.passage.format(passage=passage), template.query.format(query=query))
        assert score == pytest.approx(expected.mean(), abs=1e-4)
        assert spread == pytest.approx(expected.std() / np.sqrt(len(expected)), abs=1e-4)
    assert np.ptp(found.scores) > 0.5, "the passages make no difference"
    again = await pickle.loads(pickle.dumps(model)).ascore(PAIRS)
    np.testing.assert_array_equal(again.scores, found.scores)


def test_control_tokens_in_a_passage_are_text(decoder: str) -> None:
    model = QueryLikelihoodModel(on_cpu(decoder))
    beginnings, _, _ = model.written([("weeks", "leave <|im_end|> </s> leave")])
    assert not {WORDS.index("<|im_end|>"), WORDS.index("</s>")} & set(beginnings[0].tolist())


def test_long_texts_are_cut_and_counted(decoder: str) -> None:
    model = QueryLikelihoodModel(on_cpu(decoder, max_tokens=40))
    short = model.score([("how long", "weeks " * 5)])
    assert short.lost_tokens == 0
    long = model.score([("how long", "weeks " * 100), ("how " * 100, "weeks " * 100)])
    assert long.lost_tokens > 200
    assert long.tokens <= 80
    with pytest.raises(InputError, match="leaves room for"):
        QueryLikelihoodModel(on_cpu(decoder, max_tokens=16), template=SGPT).score([("a", "b")])


def test_unusual_pairs(decoder: str) -> None:
    model = QueryLikelihoodModel(on_cpu(decoder))
    found = model.score([("", "leave"), (" ", ""), ("weeks", "leave")])
    assert found.scores[:2].tolist() == [0, 0]
    assert found.scores[2] < 0
    assert len(model.score([]).scores) == 0


def test_hits_are_ordered_by_it_and_know_how_sure_it_is(decoder: str) -> None:
    reranker = CrossEncoderReranker(QueryLikelihoodModel(on_cpu(decoder)), name="likelihood")
    texts = ("travel desk", "parental leave is long .")
    hits = [Hit(Chunk(text, text, 0, text, 0, len(text)), 0.5) for text in texts]
    found = reranker.rerank("how long is leave ?", hits)
    scores = [hit.scores["likelihood"] for hit in found]
    assert scores == sorted(scores, reverse=True)
    assert all(hit.scores["likelihood:spread"] > 0 for hit in found)
    assert all(hit.relevance is None for hit in found), "a log-likelihood is no probability of relevance"


@pytest.mark.parametrize("wrong", [{"max_tokens": 3}, {"batch_tokens": 0}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Decoder("x", **wrong)


def test_wrong_templates_are_refused() -> None:
    for passage, query in (("no place", " {query}"), ("Passage: {passage}", "no place"), ("{passage}", " {query}")):
        with pytest.raises(InputError, match="template"):
            LikelihoodTemplate(passage, query)


def test_damaged_folders_are_errors(decoder: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    (tmp_path / "broken").mkdir()
    for file in Path(decoder).iterdir():
        (tmp_path / "broken" / file.name).write_bytes(file.read_bytes())
    weights = load_file(Path(decoder) / "model.safetensors")
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    save_file({n: w for n, w in weights.items() if n != name}, tmp_path / "broken" / "model.safetensors")
    with pytest.raises(ModelError, match="random numbers"):
        QueryLikelihoodModel(on_cpu(tmp_path / "broken")).score(PAIRS)
    weights[name] = torch.full_like(weights[name], float("nan"))
    save_file(weights, tmp_path / "broken" / "model.safetensors")
    with pytest.raises(NonFiniteVectorError, match="computed NaN"):
        QueryLikelihoodModel(on_cpu(tmp_path / "broken")).score(PAIRS)


# Answers


async def test_probabilities_of_answers_are_those_of_their_tokens(decoder: str) -> None:
    model = AnswerModel(on_cpu(decoder, batch_tokens=128))
    assert isinstance(model, AnswerScorer)
    prompts = [Prompt("how long is leave ?", system="the document"), Prompt("travel", prefix="weeks ")]
    for answers in (["0", "1", "leave"], ["0", "1", "leave is"]):  # one token each, which one pass tells; several
        await compared(decoder, model, prompts, answers)


async def compared(decoder: str, model: AnswerModel, prompts: list[Prompt], answers: list[str]) -> None:
    found = model.answer_probabilities(prompts, answers)
    beginnings = ["the document\nhow long is leave ?\nAnswer:", "weeks travel\nAnswer:"]
    for shares, beginning in zip(found, beginnings, strict=True):
        odds = np.exp([plain(decoder, beginning, f" {answer}").sum() for answer in answers])
        np.testing.assert_allclose(shares, odds / odds.sum(), atol=1e-4)
    assert np.ptp(found) > 0.2, "the answers make no difference"
    assert await pickle.loads(pickle.dumps(model)).aanswer_probabilities(prompts, answers) == found


def test_a_prompt_is_written_by_the_models_chat_template(decoder: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    for file in Path(decoder).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(decoder)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }} : {{ m.content }} <|im_end|> {% endfor %}"
        "{% if add_generation_prompt %}Answer :{% endif %}"
    )
    tokenizer.save_pretrained(tmp_path)
    prompt = Prompt("how long ?", system="leave pays")
    [shares] = AnswerModel(on_cpu(tmp_path)).answer_probabilities([prompt], ["A", "B"])
    with_control = plain_ids(str(tmp_path), "system : leave pays <|im_end|> user : how long ? <|im_end|> Answer :")
    assert with_control.count(WORDS.index("<|im_end|>")) == 2
    odds = np.exp([next_token(str(tmp_path), with_control, WORDS.index(answer)) for answer in ("A", "B")])
    np.testing.assert_allclose(shares, odds / odds.sum(), atol=1e-4)


def plain_ids(folder: str, text: str) -> list[int]:
    from transformers import AutoTokenizer

    ids: list[int] = AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False).input_ids
    return ids


def next_token(folder: str, ids: list[int], token: int) -> float:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return float(model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[token])


def test_prompts_and_answers_that_make_no_sense(decoder: str) -> None:
    model = AnswerModel(on_cpu(decoder))
    with pytest.raises(PromptRefusedError, match="longer than the 64"):
        model.answer_probabilities([Prompt("leave " * 100)], ["A", "B"])
    for answers in ([], ["A", ""]):
        with pytest.raises(InputError, match="answers="):
            model.answer_probabilities([Prompt("leave")], answers)
    assert model.answer_probabilities([], ["A"]) == []
