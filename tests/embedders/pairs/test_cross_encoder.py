"""Scores equal CrossEncoder.predict, whatever the batches, windows and threads around them."""

from __future__ import annotations

import asyncio
import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from situate.embedders.forward.attention import BASE_2
from situate.embedders.forward.bert import BertFirstTokens
from situate.embedders.forward.native import library
from situate.embedders.pairs import engine as pair_engine
from situate.embedders.pairs.cross_encoder import CrossEncoderModel, PairScorer
from situate.embedders.pairs.tokens import QWEN3_RERANKER, DecoderTemplate
from situate.errors import ConventionError, InputError, ModelError, ModelNotFoundError, NonFiniteVectorError
from tests.tiny_models import asks_for_attention

TRANSFORMERS_4 = transformers.__version__.startswith("4.")

WORDS = ["leave", "parents", "weeks", "policy", "travel", "office", "the", "of", "and", "salary", "year", "yes", "no"]
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.3,
}


def text(words: int, seed: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


#: Mixed lengths, some alike, one empty passage, other scripts; all within 128 tokens.
PAIRS = [
    *[("how long is parental leave?", text(n, n)) for n in (3, 60, 17, 17, 1, 90, 42, 5)],
    ("", "paid leave"),
    ("salary", ""),
    ("naïve Straße 東京 🙂", "emoji 🙂 and \u0000 nul"),
    (text(40, 1), text(30, 2)),
]


def saved(folder, model, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def bert_tokenizer(minilm_path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(minilm_path, model_max_length=128)


@pytest.fixture(scope="module")
def bert(tmp_path_factory, bert_tokenizer):
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(vocab_size=30522, num_labels=1, max_position_embeddings=128, **SHAPE)
    return saved(tmp_path_factory.mktemp("bert"), BertForSequenceClassification(config), bert_tokenizer)


@pytest.fixture(scope="module")
def two_labels(tmp_path_factory, bert_tokenizer):
    from transformers import ElectraConfig, ElectraForSequenceClassification

    torch.manual_seed(1)
    config = ElectraConfig(vocab_size=30522, num_labels=2, max_position_embeddings=128, embedding_size=16, **SHAPE)
    return saved(tmp_path_factory.mktemp("electra"), ElectraForSequenceClassification(config), bert_tokenizer)


@pytest.fixture(scope="module")
def distilbert(tmp_path_factory, bert_tokenizer):
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    torch.manual_seed(2)
    config = DistilBertConfig(
        vocab_size=30522, num_labels=1, max_position_embeddings=128, dim=32, n_layers=2, n_heads=4, hidden_dim=64,
        initializer_range=0.3,
    )  # fmt: skip
    return saved(tmp_path_factory.mktemp("distilbert"), DistilBertForSequenceClassification(config), bert_tokenizer)


def byte_tokenizer(special):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["yes no"] * 50 + ["yes", "no", *WORDS] * 20, trainer)
    return backend


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    from tokenizers.processors import RobertaProcessing
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForSequenceClassification

    backend = byte_tokenizer(["<s>", "<pad>", "</s>", "<unk>"])
    backend.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=512, pad_token="<pad>", sep_token="</s>", cls_token="<s>"
    )
    torch.manual_seed(3)
    config = RobertaConfig(
        vocab_size=400, num_labels=1, max_position_embeddings=514, type_vocab_size=1, pad_token_id=1, **SHAPE
    )
    return saved(tmp_path_factory.mktemp("roberta"), RobertaForSequenceClassification(config), tokenizer)


@pytest.fixture(scope="module")
def modernbert(tmp_path_factory, bert_tokenizer):
    from transformers import ModernBertConfig, ModernBertForSequenceClassification

    torch.manual_seed(4)
    config = ModernBertConfig(
        vocab_size=30522, num_labels=1, max_position_embeddings=128, pad_token_id=0, local_attention=32,
        classifier_pooling="cls", **SHAPE,
    )  # fmt: skip
    return saved(tmp_path_factory.mktemp("modernbert"), ModernBertForSequenceClassification(config), bert_tokenizer)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
        model_max_length=1024,
        pad_token="<|endoftext|>",
    )
    torch.manual_seed(5)
    config = Qwen3Config(
        vocab_size=400, num_key_value_heads=2, head_dim=8, max_position_embeddings=1024, pad_token_id=0, **SHAPE
    )
    return saved(tmp_path_factory.mktemp("qwen"), Qwen3ForCausalLM(config), tokenizer)


@pytest.fixture(scope="module")
def qwen_classifier(tmp_path_factory):
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForSequenceClassification

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
        model_max_length=1024,
        pad_token="<|endoftext|>",
    )
    torch.manual_seed(6)
    config = Qwen3Config(
        vocab_size=400, num_key_value_heads=2, head_dim=8, max_position_embeddings=1024, pad_token_id=0, num_labels=1,
        **SHAPE,
    )  # fmt: skip
    return saved(tmp_path_factory.mktemp("qwen-classifier"), Qwen3ForSequenceClassification(config), tokenizer)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    from transformers import GemmaConfig, GemmaForCausalLM, PreTrainedTokenizerFast

    backend = byte_tokenizer(["<pad>", "<eos>", "<bos>"])
    backend.add_tokens(["Yes"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=1024, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>"
    )
    torch.manual_seed(7)
    config = GemmaConfig(
        vocab_size=len(tokenizer), num_key_value_heads=1, head_dim=8, max_position_embeddings=1024, pad_token_id=0,
        eos_token_id=1, bos_token_id=2, **SHAPE,
    )  # fmt: skip
    return saved(tmp_path_factory.mktemp("gemma"), GemmaForCausalLM(config), tokenizer)


def predicted(folder, pairs, **arguments):
    from sentence_transformers import CrossEncoder

    # sentence-transformers cannot pair with an empty batch only; everything else it is given as it is
    return CrossEncoder(folder, device="cpu", local_files_only=True).predict(pairs, batch_size=3, **arguments)


@pytest.mark.parametrize("name", ["bert", "distilbert", "roberta", "modernbert"])
def test_scores_equal_predict(name, request):
    folder = request.getfixturevalue(name)
    if name == "distilbert" and TRANSFORMERS_4:
        pytest.skip("sentence-transformers gives it token types there, which it does not take")
    model = CrossEncoderModel(folder, dtype="float32", output="model", device="cpu")
    got = model.score(PAIRS)
    np.testing.assert_allclose(got.scores, predicted(folder, PAIRS), atol=1e-5)
    assert got.scores.std() > 1e-3  # a constant would prove nothing
    assert model.scheduler.engine.packed == (name != "modernbert" or asks_for_attention("modernbert"))
    assert got.lost_tokens == 0


@pytest.fixture(scope="module")
def trained_body(tmp_path_factory, minilm_path, bert_tokenizer):
    """MiniLM's trained body under a random head: attention as sharp as real models have it."""
    from transformers import BertForSequenceClassification

    torch.manual_seed(8)
    model = BertForSequenceClassification.from_pretrained(minilm_path, num_labels=1)
    return saved(tmp_path_factory.mktemp("trained-body"), model, bert_tokenizer)


@pytest.fixture(scope="module")
def sharp(tmp_path_factory, bert_tokenizer):
    """Random weights, the products' times four."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(9)
    shape = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256}
    model = BertForSequenceClassification(BertConfig(vocab_size=30522, num_labels=1, **shape))
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and "embeddings" not in name and "classifier" not in name:
            weight.data *= 4
    return saved(tmp_path_factory.mktemp("sharp"), model, bert_tokenizer)


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-4), ("bfloat16", 0.03)])
@pytest.mark.parametrize("name", ["trained_body", "sharp"])
def test_scores_of_sharp_weights_equal_predict(name, dtype, limit, request):
    folder = request.getfixturevalue(name)
    model = CrossEncoderModel(folder, dtype=dtype, output="logit", device="cpu")
    got = model.score(PAIRS).scores
    wanted = predicted(folder, PAIRS, activation_fn=torch.nn.Identity())
    assert np.sqrt(np.square(got - wanted).mean()) < limit * wanted.std()
    assert isinstance(model.scheduler.engine.choice.forward, BertFirstTokens)  # it was not refused


def test_half_precision_is_judged_by_scores_in_float32(sharp, monkeypatch):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(sharp, dtype=torch.float16).eval()
    judged = []
    choose = pair_engine.choose_pair_forward

    def noted(base, head, wanted, ids, packing, dtype, **more):
        with torch.inference_mode():
            exact = pair_engine._scores(copy.deepcopy(model).float(), ids, packing, None)
            own = pair_engine._scores(model, ids, packing, None)
        judged.append((wanted, exact, own, more["limit"]))
        return choose(base, head, wanted, ids, packing, dtype, **more)

    monkeypatch.setattr(pair_engine, "choose_pair_forward", noted)
    engine = pair_engine.PairEngine(
        model, torch.device("cpu"), torch.float16, answers=None, max_tokens=128, batch_tokens=None,
        representation=False, reentrant=True, exact=True,
    )  # fmt: skip
    (wanted, exact, own, limit) = judged[0]
    torch.testing.assert_close(wanted, exact, rtol=0, atol=0)
    assert (wanted - own).abs().max() > 0, "the two are told apart"
    assert limit == 0.02
    assert engine.head is not None
    assert model.dtype == torch.float16


@pytest.mark.skipif(library() is None, reason="no C compiler built the pass, or this processor has no AVX2")
def test_scores_in_int8_are_near(trained_body):
    model = CrossEncoderModel(trained_body, dtype="int8", output="logit", device="cpu")
    got, wanted = model.score(PAIRS).scores, predicted(trained_body, PAIRS, activation_fn=torch.nn.Identity())
    assert 1e-4 < np.sqrt(np.square(got - wanted).mean()) / wanted.std() < 0.15


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["trained_body", "sharp"])
def test_a_way_whose_attention_is_too_sharp_is_not_accepted(name, dtype, request, monkeypatch):
    folder = request.getfixturevalue(name)
    attend = torch.nn.functional.scaled_dot_product_attention

    def sharper(query, *arguments, scale=None, **more):
        scale = scale or query.shape[-1] ** -0.5
        return attend(query, *arguments, scale=scale / BASE_2 if query.shape[2] == 1 else scale, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", sharper)
    engine = CrossEncoderModel(folder, dtype=dtype, device="cpu").scheduler.engine
    assert not isinstance(engine.choice.forward, BertFirstTokens)
    assert engine.packed == asks_for_attention("bert")


def test_two_classes_are_read_as_log_odds(two_labels):
    got = CrossEncoderModel(two_labels, dtype="float32", output="probability", device="cpu").score(PAIRS).scores
    wanted = predicted(two_labels, PAIRS, apply_softmax=True)[:, 1]
    np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 64, 10_000])
def test_scores_do_not_depend_on_the_batches(bert, batch_tokens):
    alone = CrossEncoderModel(bert, dtype="float32", device="cpu", output="logit")
    batched = CrossEncoderModel(bert, dtype="float32", device="cpu", output="logit", batch_tokens=batch_tokens)
    wanted = np.concatenate([alone.score([pair]).scores for pair in PAIRS])
    np.testing.assert_allclose(batched.score(PAIRS).scores, wanted, atol=1e-5)


def test_bfloat16_keeps_the_order(bert):
    exact = CrossEncoderModel(bert, dtype="float32", device="cpu", output="logit").score(PAIRS).scores
    fast = CrossEncoderModel(bert, dtype="bfloat16", device="cpu", output="logit").score(PAIRS).scores
    assert np.corrcoef(exact, fast)[0, 1] > 0.99


def test_a_decoder_equals_its_model_cards_procedure(qwen):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(qwen)
    model = AutoModelForCausalLM.from_pretrained(qwen, dtype=torch.float32).eval()
    wanted = []
    for query, passage in PAIRS:
        body = f"<Instruct>: find policies\n<Query>: {query}\n<Document>: {passage}"
        ids = [
            i
            for part in (QWEN3_RERANKER.prefix, body, QWEN3_RERANKER.suffix)
            for i in tokenizer(part, add_special_tokens=False)["input_ids"]
        ]
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        pair = torch.stack([logits[tokenizer.convert_tokens_to_ids(t)] for t in ("no", "yes")])
        wanted.append(pair.log_softmax(0).exp()[1].item())
    got = CrossEncoderModel(qwen, dtype="float32", device="cpu", instruction="find policies").score(PAIRS).scores
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    assert np.std(wanted) > 1e-3


def test_a_decoder_that_classifies_equals_predict(qwen_classifier):
    pairs = [pair for pair in PAIRS if all(pair)]
    model = CrossEncoderModel(qwen_classifier, dtype="float32", device="cpu", output="model")
    got = model.score(pairs).scores
    np.testing.assert_allclose(got, predicted(qwen_classifier, pairs), atol=1e-4)
    assert got.std() > 1e-3


def test_bge_reranker_gemma_equals_its_model_cards_procedure(gemma):
    """The card writes [bos] + "A: query" + sep + "B: passage" + sep + prompt and reads the logit of "Yes"."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gemma)
    model = AutoModelForCausalLM.from_pretrained(gemma, dtype=torch.float32).eval()
    prompt = (
        "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing "
        "a prediction of either 'Yes' or 'No'."
    )
    wanted = []
    for query, passage in PAIRS:
        parts = [f"A: {query}", "\n", f"B: {passage}", "\n", prompt]
        ids = [tokenizer.bos_token_id]
        for part in parts:
            ids += tokenizer(part, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        wanted.append(logits[tokenizer.convert_tokens_to_ids("Yes")].item())
    got = CrossEncoderModel(gemma, dtype="float32", device="cpu", output="logit").score(PAIRS)
    np.testing.assert_allclose(got.scores, wanted, atol=1e-4)
    assert np.std(wanted) > 1e-3
    assert got.lost_tokens == 0


def test_an_embedding_model_is_refused_instead_of_scored_by_a_random_head(minilm_path):
    with pytest.raises(ModelError, match=r"no weights for what gives the scores \(classifier"):
        CrossEncoderModel(minilm_path, device="cpu").score(PAIRS[:1])


def test_the_folders_default_prompt_stands_before_the_query(bert, tmp_path):
    from sentence_transformers import CrossEncoder

    prompts = {"web": "Given a web search: ", "other": "leave "}
    encoder = CrossEncoder(bert, device="cpu", local_files_only=True, prompts=prompts, default_prompt_name="web")
    folder = str(tmp_path / "prompted")
    encoder.save_pretrained(folder)
    pairs = PAIRS[:4]
    got = CrossEncoderModel(folder, dtype="float32", device="cpu", output="model").score(pairs).scores
    np.testing.assert_allclose(got, predicted(folder, pairs), atol=1e-5)
    without = CrossEncoderModel(bert, dtype="float32", device="cpu", output="model").score(pairs).scores
    assert np.abs(got - without).max() > 1e-3
    other = CrossEncoderModel(folder, dtype="float32", device="cpu", output="model", instruction="leave ")
    np.testing.assert_allclose(other.score(pairs).scores, predicted(folder, pairs, prompt_name="other"), atol=1e-5)
    none = CrossEncoderModel(folder, dtype="float32", device="cpu", output="model", instruction="")
    np.testing.assert_allclose(none.score(pairs).scores, without, atol=1e-6)


def test_a_decoder_with_one_answer_is_scored_by_its_logit(qwen):
    template = DecoderTemplate(prefix="", body="{query}|{passage}", suffix="?", yes="yes", no=None)
    both = DecoderTemplate(prefix="", body="{query}|{passage}", suffix="?", yes="yes", no="no")
    no = DecoderTemplate(prefix="", body="{query}|{passage}", suffix="?", yes="no", no=None)
    yes_score, odds, no_score = (
        CrossEncoderModel(qwen, template=t, output="logit", dtype="float32", device="cpu").score(PAIRS).scores
        for t in (template, both, no)
    )
    np.testing.assert_allclose(odds, yes_score - no_score, atol=1e-4)


def test_an_unknown_decoder_is_refused_with_the_way_out(qwen, monkeypatch):
    monkeypatch.setattr("situate.embedders.pairs.cross_encoder.TEMPLATES", {})
    with pytest.raises(ConventionError, match="DecoderTemplate"):
        CrossEncoderModel(qwen, device="cpu").score(PAIRS[:1])


LONG = ("how long is parental leave?", text(500, 9))


def windows_of(folder, pair, overlap):
    """The windows' logits, each computed by sentence-transformers from the window's own text."""
    from transformers import AutoTokenizer

    from situate.embedders.text.windows import windows

    tokenizer = AutoTokenizer.from_pretrained(folder)
    query = tokenizer(pair[0], add_special_tokens=False)["input_ids"]
    passage = tokenizer(pair[1], add_special_tokens=False, return_offsets_mapping=True, truncation=False)
    offsets = passage["offset_mapping"]
    room = 128 - 3 - len(query)
    parts = [pair[1][offsets[w.start][0] : offsets[w.end - 1][1]] for w in windows(len(offsets), room, overlap)]
    return predicted(folder, [(pair[0], part) for part in parts], activation_fn=torch.nn.Identity())


@pytest.mark.filterwarnings("ignore:.*")  # transformers warns of the length of the text that is about to be cut
def test_long_passages_are_read_in_windows(bert):
    logits = windows_of(bert, LONG, 32)
    assert len(logits) >= 5
    probabilities = 1 / (1 + np.exp(-logits))

    def score(**arguments):
        got = CrossEncoderModel(bert, dtype="float32", device="cpu", overlap=32, **arguments).score([PAIRS[0], LONG])
        assert got.windows[0] == 1
        return float(got.scores[1]), int(got.windows[1]), got.lost_tokens

    assert score(output="logit") == (pytest.approx(logits.max(), abs=1e-5), len(logits), 0)
    assert score(output="probability")[0] == pytest.approx(probabilities.max(), abs=1e-5)
    best_three = np.sort(probabilities)[-3:].sum()
    assert score(aggregation="sum", output="logit")[0] == pytest.approx(best_three, abs=1e-5)
    assert score(aggregation="sum", output="probability")[0] == pytest.approx(best_three / 3, abs=1e-5)


@pytest.mark.filterwarnings("ignore:.*")
def test_first_equals_truncation(bert):
    got = CrossEncoderModel(bert, dtype="float32", device="cpu", aggregation="first", output="model").score([LONG])
    assert got.scores == pytest.approx(predicted(bert, [LONG]), abs=1e-5)
    assert got.windows.tolist() == [1]
    assert got.lost_tokens > 300


def test_parade_scores_the_largest_of_the_windows_vectors(bert):
    from transformers import AutoModelForSequenceClassification

    from situate.embedders.models.resolve import resolve_model
    from situate.embedders.pairs.tokens import PairWriter
    from situate.embedders.text.tokenizer import TextTokenizer

    writer = PairWriter(TextTokenizer.load(resolve_model(bert).path), max_tokens=128)
    model = AutoModelForSequenceClassification.from_pretrained(bert, dtype=torch.float32).eval()
    first = []
    for ids, second in zip(*(lambda w: (w.sequences, w.second))(writer.write([LONG])), strict=True):
        types = (torch.arange(len(ids)) >= second).long()
        with torch.inference_mode():
            out = model.bert(input_ids=torch.tensor(ids)[None], token_type_ids=types[None])
        first.append(out.last_hidden_state[0, 0])
    with torch.inference_mode():
        wanted = model.classifier(model.bert.pooler(torch.stack(first).amax(0)[None, None])).item()
    parade = CrossEncoderModel(bert, dtype="float32", device="cpu", aggregation="parade", output="logit")
    got = parade.score([PAIRS[0], LONG]).scores
    assert got[1] == pytest.approx(wanted, abs=1e-4)
    plain = CrossEncoderModel(bert, dtype="float32", device="cpu", output="logit").score([PAIRS[0]]).scores
    assert got[0] == pytest.approx(plain[0], abs=1e-5)  # one window: nothing to aggregate


def test_no_more_windows_than_the_limit(bert):
    got = CrossEncoderModel(bert, device="cpu", max_windows=2).score([LONG])
    assert got.windows.tolist() == [2]
    assert got.lost_tokens > 200


def test_endless_texts_are_bounded(bert):
    got = CrossEncoderModel(bert, device="cpu").score([("leave " * 20_000, "weeks " * 2_000_000), ("x" * 100_000, "y")])
    assert got.tokens < 128 * 10
    assert got.lost_tokens > 1_000_000
    assert np.isfinite(got.scores).all()


def test_out_of_memory_halves_the_batch_and_goes_on(bert):
    model = CrossEncoderModel(bert, dtype="float32", device="cpu", output="logit")
    wanted = model.score(PAIRS).scores
    engine = model.scheduler.engine
    engine.cores = None  # otherwise the pairs would be dealt out
    choice, sizes = engine.choice, []

    def short_of_memory(ids, packing):
        sizes.append(len(packing.lengths))
        if len(packing.lengths) > 2:
            raise torch.OutOfMemoryError("no memory for more than two pairs")
        return choice.forward(ids, packing)

    engine.choice = replace(choice, forward=short_of_memory)
    np.testing.assert_allclose(model.score(PAIRS).scores, wanted, atol=1e-5)
    assert max(sizes) == len(PAIRS)


@pytest.mark.parametrize("everywhere", [True, False])
def test_non_finite_scores_are_an_error_and_never_a_number(bert_tokenizer, tmp_path, everywhere):
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=30522, num_labels=1, max_position_embeddings=128, **SHAPE)
    model = BertForSequenceClassification(config)
    damaged = slice(None) if everywhere else bert_tokenizer.convert_tokens_to_ids("salary")
    model.bert.embeddings.word_embeddings.weight.data[damaged] = float("nan")
    scorer = CrossEncoderModel(saved(tmp_path, model, bert_tokenizer), device="cpu", dtype="float32")
    with pytest.raises(NonFiniteVectorError, match="NaN"):
        scorer.score([("how much?", "weeks"), ("how much?", "salary")])


def test_more_than_two_classes_are_refused(bert_tokenizer, tmp_path):
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=30522, num_labels=3, max_position_embeddings=128, **SHAPE)
    folder = saved(tmp_path, BertForSequenceClassification(config), bert_tokenizer)
    with pytest.raises(ConventionError, match="one score per pair"):
        CrossEncoderModel(folder, device="cpu").score(PAIRS[:1])


async def test_many_callers_at_once_get_their_own_scores(bert):
    model = CrossEncoderModel(bert, dtype="float32", device="cpu", output="logit")
    wanted = model.score(PAIRS).scores
    jobs = [PAIRS[i % 4 : i % 4 + 5] for i in range(40)]
    results = await asyncio.gather(*(model.ascore(job) for job in jobs))
    for i, result in enumerate(results):
        np.testing.assert_allclose(result.scores, wanted[i % 4 : i % 4 + 5], atol=1e-5)


async def test_cancelling_takes_back_what_has_not_run(bert, monkeypatch):
    model = CrossEncoderModel(bert, dtype="float32", device="cpu")
    await model.ascore(PAIRS[:1])
    scheduler = model.scheduler
    submit, loop, queued = scheduler.submit, asyncio.get_running_loop(), asyncio.Event()

    def submit_and_tell(*arguments, **options):
        future = submit(*arguments, **options)
        loop.call_soon_threadsafe(queued.set)
        return future

    monkeypatch.setattr(scheduler, "submit", submit_and_tell)
    with scheduler.inside:  # another caller's batch is running
        first = asyncio.ensure_future(model.ascore(PAIRS))
        await asyncio.wait_for(queued.wait(), 30)
        queued.clear()
        second = asyncio.ensure_future(model.ascore(PAIRS))
        await asyncio.wait_for(queued.wait(), 30)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
    assert len((await asyncio.wait_for(first, 30)).scores) == len(PAIRS)


def test_nothing_to_score(bert):
    assert CrossEncoderModel("no/such-model").score([]).scores.shape == (0,)


def test_unknown_model():
    with pytest.raises(ModelNotFoundError, match="no/such-model"):
        CrossEncoderModel("no/such-model").score(PAIRS[:1])


def test_pickles_as_its_configuration(bert):
    model = CrossEncoderModel(bert, dtype="float32", device="cpu", output="logit", overlap=7)
    wanted = model.score(PAIRS).scores
    data = pickle.dumps(model)
    assert len(data) < 2_000
    again = pickle.loads(data)
    assert again.overlap == 7
    np.testing.assert_array_equal(again.score(PAIRS).scores, wanted)


def test_close_and_use_again(bert):
    with CrossEncoderModel(bert, device="cpu", dtype="float32") as model:
        first = model.score(PAIRS).scores
    np.testing.assert_array_equal(model.score(PAIRS).scores, first)


@pytest.mark.parametrize(
    "arguments",
    [
        {"output": "x"},
        {"aggregation": "mean"},
        {"max_tokens": 0},
        {"max_windows": 0},
        {"overlap": -1},
        {"batch_tokens": 0},
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments):
    with pytest.raises(InputError):
        CrossEncoderModel(**arguments)


def test_a_window_without_room_is_refused(bert):
    with pytest.raises(InputError, match="max_tokens=5"):
        CrossEncoderModel(bert, max_tokens=5, device="cpu").score(PAIRS[:1])


def test_is_a_scorer(bert):
    assert isinstance(CrossEncoderModel(bert), PairScorer)


async def test_a_task_of_some_pairs_is_that_of_a_model_of_its_own(qwen, bert):
    model = CrossEncoderModel(qwen, dtype="float32", device="cpu")
    own = CrossEncoderModel(qwen, dtype="float32", device="cpu", instruction="find policies").score(PAIRS).scores
    plain = model.score(PAIRS).scores
    told = model.instructed("find policies")
    assert isinstance(told, PairScorer)
    np.testing.assert_allclose(told.score(PAIRS).scores, own, atol=1e-5)
    np.testing.assert_allclose((await told.ascore(PAIRS)).scores, own, atol=1e-5)
    assert np.abs(own - plain).max() > 1e-3
    np.testing.assert_array_equal(model.score(PAIRS).scores, plain)
    assert told.output == model.output
    other = CrossEncoderModel(bert, dtype="float32", device="cpu")  # which takes no task
    np.testing.assert_array_equal(other.instructed("find policies").score(PAIRS).scores, other.score(PAIRS).scores)
