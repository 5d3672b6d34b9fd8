"""monoT5's and duoT5's scores equal the plain computation, one pair or duel at a time."""

from __future__ import annotations

import pickle
import shutil
import weakref

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from situate.embedders.pairs.cross_encoder import PairScorer
from situate.embedders.pairs.t5 import DuelScorer, DuoT5Model, MonoT5Model, QualityT5Model
from situate.errors import InputError, ModelError, ModelNotFoundError

PAIRS = [("how long is leave?", "leave " * n) for n in (1, 40, 7, 7)] + [("", "weeks"), ("pay", "")]


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    special = [
        "<pad>",
        "</s>",
        "<unk>",
        "true",
        "false",
        "Query:",
        "Document:",
        "Relevant:",
        "Document0:",
        "Document1:",
    ]
    plain = ["Document0:", "Document1:", "how", "long", "is", "leave?", "leave", "weeks", "pay"]
    words = [word if word.startswith("<") else f"▁{word}" for word in (*special, *plain)]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(words), d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4, decoder_start_token_id=0,
        initializer_factor=3.0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("t5")
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_scores_equal_one_pair_at_a_time(t5):
    from transformers import AutoTokenizer, T5ForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(t5)
    model = T5ForConditionalGeneration.from_pretrained(t5, dtype=torch.float32).eval()
    wanted = []
    for query, passage in PAIRS:
        ids = tokenizer(f"Query: {query} Document: {passage} Relevant:", return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            logits = model(input_ids=ids, decoder_input_ids=torch.zeros(1, 1, dtype=torch.long)).logits[0, 0]
        wanted.append(logits[[3, 4]].softmax(0)[0].item())
    scorer = MonoT5Model(t5, device="cpu", batch_tokens=100)
    got = scorer.score(PAIRS)
    np.testing.assert_allclose(got.scores[:4], wanted[:4], atol=1e-5)
    assert np.std(wanted) > 1e-4
    assert got.lost_tokens == 0
    np.testing.assert_allclose(pickle.loads(pickle.dumps(scorer)).score(PAIRS).scores, got.scores, atol=1e-6)


async def test_async_is_the_same(t5):
    scorer = MonoT5Model(t5, device="cpu")
    np.testing.assert_array_equal((await scorer.ascore(PAIRS)).scores, scorer.score(PAIRS).scores)


def test_long_texts_are_cut_and_counted_and_the_question_is_read(t5):
    scorer = MonoT5Model(t5, device="cpu", max_tokens=32)
    got = scorer.score([("leave " * 1000, "weeks " * 100_000)])
    assert got.tokens == 32
    assert got.lost_tokens > 100_000
    assert scorer._written(scorer._loaded[1], [("pay", "weeks " * 100)])[0][0][-2:] == [7, 1]


def test_out_of_memory_halves_the_batch(t5, monkeypatch):
    scorer = MonoT5Model(t5, device="cpu")
    wanted = scorer.score(PAIRS).scores
    model = scorer._loaded[0]
    forward = model.forward

    def short_of_memory(*, input_ids, **rest):
        if len(input_ids) > 1:
            raise torch.OutOfMemoryError("no memory for two")
        return forward(input_ids=input_ids, **rest)

    monkeypatch.setattr(model, "forward", short_of_memory)
    np.testing.assert_allclose(scorer.score(PAIRS).scores, wanted, atol=1e-5)


def test_a_failed_batch_holds_no_memory_while_its_halves_run(t5, monkeypatch):
    class BatchMemory:
        pass

    scorer = MonoT5Model(t5, device="cpu")
    wanted = scorer.score(PAIRS).scores
    model, held, failed = scorer._loaded[0], weakref.WeakKeyDictionary(), []
    forward = model.forward

    def short_of_memory(*, input_ids, **rest):
        memory = BatchMemory()
        held[memory] = len(input_ids)
        if sum(held.values()) > 2:
            failed.append(len(input_ids))
            raise torch.OutOfMemoryError("no memory for three")
        return forward(input_ids=input_ids, **rest)

    monkeypatch.setattr(model, "forward", short_of_memory)
    np.testing.assert_allclose(scorer.score(PAIRS).scores, wanted, atol=1e-5)
    assert failed
    assert min(failed) > 2


def test_bad_input(t5, tmp_path):
    with pytest.raises(InputError, match="true="):
        MonoT5Model(t5, true="yes", device="cpu").score(PAIRS)
    with pytest.raises(InputError):
        MonoT5Model(t5, max_tokens=3)
    with pytest.raises(ModelNotFoundError):
        MonoT5Model("no/such").score(PAIRS)
    assert MonoT5Model("no/such").score([]).scores.shape == (0,)
    weights = load_file(f"{shutil.copytree(t5, tmp_path / 'torn')}/model.safetensors")
    weights.pop("encoder.block.1.layer.0.SelfAttention.q.weight")
    save_file(weights, tmp_path / "torn" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights .* are not in .*SelfAttention"):
        MonoT5Model(str(tmp_path / "torn"), device="cpu").score(PAIRS)
    assert isinstance(MonoT5Model(t5), PairScorer)


DUELS = [
    ("how long is leave?", "leave weeks", "pay pay pay"),
    ("how long is leave?", "pay pay pay", "leave weeks"),
    ("pay", " ".join(["weeks"] * 12), "leave"),
]


def test_duels_equal_one_at_a_time(t5):
    from transformers import AutoTokenizer, T5ForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(t5)
    model = T5ForConditionalGeneration.from_pretrained(t5, dtype=torch.float32).eval()
    wanted = []
    for query, first, second in DUELS:
        text = f"Query: {query} Document0: {first} Document1: {second} Relevant:"
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            logits = model(input_ids=ids, decoder_input_ids=torch.zeros(1, 1, dtype=torch.long)).logits[0, 0]
        wanted.append(logits[[3, 4]].softmax(0)[0].item())
    scorer = DuoT5Model(t5, device="cpu")
    got = scorer.compare(DUELS)
    np.testing.assert_allclose(got.scores, wanted, atol=1e-5)
    assert np.std(wanted) > 1e-4
    assert got.lost_tokens == 0
    np.testing.assert_allclose(pickle.loads(pickle.dumps(scorer)).compare(DUELS).scores, got.scores, atol=1e-6)


async def test_duels_are_the_same_asynchronously(t5):
    scorer = DuoT5Model(t5, device="cpu")
    np.testing.assert_array_equal((await scorer.acompare(DUELS)).scores, scorer.compare(DUELS).scores)
    assert isinstance(scorer, DuelScorer)
    assert not isinstance(scorer, PairScorer)
    assert scorer.compare([]).scores.shape == (0,)


@pytest.mark.parametrize(("first", "second"), [(3, 100), (100, 3), (100, 100)])
def test_two_long_passages_share_the_room_and_a_short_one_leaves_its_part(t5, first, second):
    scorer = DuoT5Model(t5, device="cpu", max_tokens=48)
    duel = ("pay", " ".join(["leave"] * first), " ".join(["weeks"] * second))
    got = scorer.compare([duel])
    sequence = scorer._written(scorer._loaded[1], [duel])[0][0]
    _, tokenizer, _ = scorer._loaded
    words = tokenizer.convert_ids_to_tokens(sequence)
    assert got.tokens == len(sequence) <= 48
    assert got.tokens >= 47
    assert got.lost_tokens == first + second - words.count("▁leave") - words.count("▁weeks")
    if first != second:
        assert min(words.count("▁leave"), words.count("▁weeks")) == 3
    else:
        assert words.count("▁leave") == words.count("▁weeks")
    assert words[-2:] == ["▁Relevant:", "</s>"]


def test_quality_reads_the_passage_alone(t5):
    """QualT5's prompt is monoT5's without the query; the score is true against false."""
    from transformers import AutoTokenizer, T5ForConditionalGeneration

    from situate.chunkers import Document, PruningChunker, TextChunker

    tokenizer = AutoTokenizer.from_pretrained(t5)
    model = T5ForConditionalGeneration.from_pretrained(t5, dtype=torch.float32).eval()
    texts = ["the cat sat on the mat", "a dog"]
    scorer = QualityT5Model(t5, device="cpu")
    answers = tokenizer.convert_tokens_to_ids([scorer.true, scorer.false])
    expected = []
    for text in texts:
        parts = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in ("Document:", text)]
        ids = torch.tensor([[*parts[0], *parts[1], *tokenizer(" Relevant:")["input_ids"]]])
        with torch.inference_mode():
            logits = model(input_ids=ids, decoder_input_ids=torch.zeros((1, 1), dtype=torch.long)).logits[0, 0]
        expected.append(float(logits[answers].softmax(-1)[0]))
    assert scorer(texts) == pytest.approx(expected, abs=1e-5)
    assert scorer([]) == []
    pruning = PruningChunker(TextChunker(size=200), threshold=1.0, scorer=scorer)
    assert len(pruning.split(Document("d", texts[0]))) == 1
    assert pruning.fingerprint()["scorer"]["model"] == str(t5)
