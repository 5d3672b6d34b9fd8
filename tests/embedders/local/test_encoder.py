"""The encoder against sentence-transformers, against direct computations, and with every bad input."""

from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as st_modules
from transformers import AutoModel

from situate.embedders.local import devices
from situate.embedders.local.encoder import Encoder
from situate.embedders.types import Pooling, SpanEncoder, SpanText
from situate.errors import (
    FallbackWarning,
    InputError,
    ModelNotFoundError,
    NonFiniteVectorError,
    OverflowLimitError,
    SpanError,
    TruncationWarning,
    UnsafeModelError,
)
from tests.embedders.forward.test_packed import FAMILIES, TEXTS as TINY_TEXTS, save

POOLINGS: dict[Pooling, str] = {
    "mean": "mean",
    "cls": "cls",
    "last": "lasttoken",
    "weighted_mean": "weightedmean",
    "max": "max",
}
TEXTS = [
    "",
    "   \n\t ",
    "Kiel lies on the Baltic Sea.",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z " * 3,
    "Mixed: Русский, 日本語, العربية, emoji 👩‍👩‍👧, accents é e\u0301, NUL \x00 and tabs\t.",
]
DOCUMENT = (
    "Berlin is the capital of Germany. Its more than 3.85 million inhabitants make it the most populous city of the "
    "European Union. The city is also one of the states of Germany, and the third smallest in area.\n"
) * 12


@pytest.fixture(scope="module")
def exact(minilm_path: str) -> Encoder:
    return Encoder(minilm_path, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def peer(minilm_path: str) -> SentenceTransformer:
    return SentenceTransformer(minilm_path, device="cpu")


def vectors(encoder: Encoder, texts: list[str]) -> np.ndarray:
    return np.concatenate([result.vectors for result in encoder.encode([SpanText(text) for text in texts])])


def direct_token_vectors(path: str, encoder: Encoder, text: str) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Late chunking's first half by hand: one pass of transformers' model, and the offsets of its tokens."""
    encoding = encoder.tokenizer.encode(text)
    with torch.inference_mode():
        output = AutoModel.from_pretrained(path)(input_ids=torch.tensor([encoding.ids]))
    return output.last_hidden_state[0].numpy(), encoding.offsets


@pytest.mark.parametrize("pooling", sorted(POOLINGS))
def test_whole_texts_equal_sentence_transformers(minilm_path: str, peer: SentenceTransformer, pooling: Pooling) -> None:
    size = peer.get_embedding_dimension()
    reference = SentenceTransformer(
        modules=[peer[0], st_modules.Pooling(size, pooling_mode=POOLINGS[pooling]), peer[2]], device="cpu"
    )
    got = vectors(Encoder(minilm_path, pooling=pooling, dtype="float32", device="cpu"), TEXTS)
    wanted = reference.encode(TEXTS)
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert (got * wanted).sum(1).min() > 0.99999


def test_bfloat16_stays_close(minilm_path: str, peer: SentenceTransformer) -> None:
    encoder = Encoder(minilm_path, dtype="bfloat16", device="cpu")
    texts = [*TEXTS, *(DOCUMENT[i : i + 40 * (1 + i % 9)] for i in range(0, 400, 10))]
    assert (vectors(encoder, texts) * peer.encode(texts)).sum(1).min() > 0.9999


def test_unnormalised_vectors_are_the_plain_means(minilm_path: str) -> None:
    encoder = Encoder(minilm_path, dtype="float32", device="cpu", normalize=False)
    tokens, _ = direct_token_vectors(minilm_path, encoder, TEXTS[2])
    np.testing.assert_allclose(vectors(encoder, [TEXTS[2]])[0], tokens.mean(0), atol=1e-5)


def test_a_prefix_can_be_left_out_of_pooling(minilm_path: str, peer: SentenceTransformer) -> None:
    """INSTRUCTOR's convention, which sentence-transformers calls include_prompt=False."""
    pooling = st_modules.Pooling(peer.get_embedding_dimension(), pooling_mode="mean", include_prompt=False)
    reference = SentenceTransformer(modules=[peer[0], pooling, peer[2]], device="cpu")
    prompt = "Represent the sentence: "
    wanted = reference.encode(["A query."], prompt=prompt)[0]
    encoder = Encoder(minilm_path, dtype="float32", device="cpu", pool_prefix=False)
    got = encoder.encode([SpanText(prompt + "A query.", prefix=len(prompt))])[0].vectors[0]
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_a_late_chunk_equals_its_direct_computation(exact: Encoder, minilm_path: str) -> None:
    text = DOCUMENT[:700]
    spans = ((0, 33), (34, 126), (127, 206), (100, 400), (0, len(text)))
    result = exact.encode([SpanText(text, spans)], token_vectors=True)[0]
    tokens, offsets = direct_token_vectors(minilm_path, exact, text)
    assert result.tokens is not None
    for (start, end), vector, rows in zip(spans, result.vectors, result.tokens, strict=True):
        chosen = [i for i, (s, e) in enumerate(offsets) if s < end and e > start and s < e]
        mean = tokens[chosen].mean(0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
        wanted = tokens[chosen] / np.linalg.norm(tokens[chosen], axis=1, keepdims=True)
        np.testing.assert_allclose(rows, wanted, atol=1e-5)


def test_windows_equal_their_direct_computation(exact: Encoder, minilm_path: str) -> None:
    window, overlap = 64, 16
    encoding = exact.tokenizer.encode(DOCUMENT, add_special_tokens=False)
    total, room = len(encoding.ids), window - 2
    count = -(-(total - overlap) // (room - overlap))
    longest, more = divmod(total + (count - 1) * overlap, count)
    model = AutoModel.from_pretrained(minilm_path)
    best = np.full(total, np.inf)
    wanted = np.zeros((total, 384), dtype=np.float32)
    start = 0
    for number in range(count):
        end = start + longest + (number < more)
        with torch.inference_mode():
            ids = torch.tensor([[101, *encoding.ids[start:end], 102]])
            hidden = model(input_ids=ids).last_hidden_state[0, 1:-1].numpy()
        for token in range(start, end):
            off_centre = abs(token + 0.5 - (start + end) / 2)
            if off_centre < best[token] - 0.25:
                best[token], wanted[token] = off_centre, hidden[token - start]
        start = end - overlap
    spans = tuple((s, s + 150) for s in range(0, len(DOCUMENT) - 150, 97))
    result = exact.encode([SpanText(DOCUMENT, spans, window=window, overlap=overlap)])[0]
    assert result.lost_tokens == 0
    for (first, last), vector in zip(spans, result.vectors, strict=True):
        mean = wanted[[i for i, (s, e) in enumerate(encoding.offsets) if s < last and e > first]].mean(0)
        # At a border two windows hold a token equally centrally; either may give it.
        assert vector @ mean / np.linalg.norm(mean) > 0.9995


def test_a_prefix_leads_every_window(exact: Encoder, minilm_path: str) -> None:
    prefix = "Guide to Berlin: "
    text = prefix + DOCUMENT[:1500]
    ids = exact.tokenizer.encode(text, add_special_tokens=False)
    head = sum(e <= len(prefix) for _, e in ids.offsets)
    last = (len(text) - 60, len(text))
    result = exact.encode([SpanText(text, (last,), prefix=len(prefix), window=100, overlap=20)])[0]
    total, room = len(ids.ids) - head, 98 - head
    count = -(-(total - 20) // (room - 20))
    size = (total + (count - 1) * 20) // count
    with torch.inference_mode():
        tokens = torch.tensor([[101, *ids.ids[:head], *ids.ids[len(ids.ids) - size :], 102]])
        hidden = AutoModel.from_pretrained(minilm_path)(input_ids=tokens).last_hidden_state[0, 1 + head : -1].numpy()
    offsets = ids.offsets[len(ids.ids) - size :]
    mean = hidden[[i for i, (s, e) in enumerate(offsets) if s < last[1] and e > last[0]]].mean(0)
    np.testing.assert_allclose(result.vectors[0], mean / np.linalg.norm(mean), atol=1e-5)


@pytest.mark.parametrize(("pooling", "place"), [("cls", 0), ("last", -1)])
def test_one_token_poolings_take_the_ends_of_a_span(minilm_path: str, pooling: Pooling, place: int) -> None:
    encoder = Encoder(minilm_path, pooling=pooling, dtype="float32", device="cpu")
    result = encoder.encode([SpanText(TEXTS[2], ((5, 19),))], token_vectors=True)[0]
    assert result.tokens is not None
    np.testing.assert_allclose(result.vectors[0], result.tokens[0][place], atol=1e-6)


def test_weighted_mean_counts_from_the_start_of_a_span(minilm_path: str) -> None:
    encoder = Encoder(minilm_path, pooling="weighted_mean", dtype="float32", device="cpu", normalize=False)
    tokens, offsets = direct_token_vectors(minilm_path, encoder, TEXTS[2])
    chosen = [i for i, (s, e) in enumerate(offsets) if s < 19 and e > 5]
    weights = np.arange(1, len(chosen) + 1)[:, None]
    wanted = (tokens[chosen] * weights).sum(0) / weights.sum()
    got = encoder.encode([SpanText(TEXTS[2], ((5, 19),))])[0].vectors[0]
    np.testing.assert_allclose(got, wanted, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(text=st.text(min_size=1, max_size=60), data=st.data())
def test_every_valid_span_gets_a_finite_unit_vector(exact: Encoder, text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    result = exact.encode([SpanText(text, ((start, end), (0, len(text))))])[0]
    np.testing.assert_allclose(np.linalg.norm(result.vectors, axis=1), 1, atol=1e-5)


def test_a_span_without_tokens_gets_the_nearest_one(exact: Encoder) -> None:
    text = "north      south"
    found = exact.encode([SpanText(text, ((5, 6), (10, 11), (7, 9), (0, 5), (11, 16)))])[0].vectors
    north, south = found[3], found[4]
    for row, wanted in ((0, north), (1, south), (2, north)):
        np.testing.assert_allclose(found[row], wanted, atol=1e-6)


def test_spans_may_overlap_repeat_and_cut_tokens(exact: Encoder) -> None:
    text = "incomprehensibilities abound"
    found = exact.encode([SpanText(text, ((0, 1), (0, 21), (0, 21), (20, 23), (1, 2)))])[0].vectors
    np.testing.assert_array_equal(found[1], found[2])
    np.testing.assert_array_equal(found[0], found[4])


@pytest.mark.parametrize("pooling", ["mean", "weighted_mean", "max"])
def test_hundreds_of_spans_are_pooled_like_a_few(minilm_path: str, pooling: Pooling) -> None:
    encoder = Encoder(minilm_path, pooling=pooling, dtype="float32", device="cpu")
    text = DOCUMENT[:900]
    spans = tuple((i, i + 1 + 7 * (i % 40)) for i in range(0, 600, 3))
    together = encoder.encode([SpanText(text, spans)])[0].vectors
    apart = [encoder.encode([SpanText(text, spans[i : i + 50])])[0].vectors for i in range(0, len(spans), 50)]
    np.testing.assert_allclose(together, np.concatenate(apart), atol=1e-6)


@pytest.mark.parametrize("span", [(3, 3), (5, 2), (-1, 4), (0, 999), (28, 29)])
def test_a_bad_span_is_named(exact: Encoder, span: tuple[int, int]) -> None:
    with pytest.raises(SpanError, match=rf"span 1 of text 1 is \({span[0]}, {span[1]}\).*28 characters"):
        exact.encode([SpanText("fine"), SpanText(TEXTS[2], ((0, 2), span))])


def test_a_bad_prefix_is_named(exact: Encoder) -> None:
    with pytest.raises(SpanError, match="prefix of 9 characters, but 5"):
        exact.encode([SpanText("short", prefix=9)])


def test_lone_surrogates_are_read_as_replacement_characters(exact: Encoder) -> None:
    broken, mended = "caf\udce9 au lait", "caf\ufffd au lait"
    np.testing.assert_array_equal(vectors(exact, [broken]), vectors(exact, [mended]))
    assert exact.encode([SpanText(broken, ((5, 7),))])[0].vectors.shape == (1, 384)


def test_truncation_warns_once_with_counts(exact: Encoder, peer: SentenceTransformer) -> None:
    long = "word " * 300
    with pytest.warns(TruncationWarning, match=r"2 of 3 texts .* 256 tokens .* lost 92 tokens") as given:
        results = exact.encode([SpanText(long), SpanText("short"), SpanText(long)])
    assert len(given) == 1
    assert Path(given[0].filename).name == "test_encoder.py"
    assert [r.lost_tokens for r in results] == [46, 0, 46]
    np.testing.assert_allclose(results[0].vectors[0], peer.encode(long), atol=1e-5)


def test_overflow_can_be_an_error(minilm_path: str) -> None:
    encoder = Encoder(minilm_path, on_overflow="raise", device="cpu")
    with pytest.raises(OverflowLimitError, match=r"text 1 has 300 tokens .* max_tokens is 256"):
        encoder.encode([SpanText("fine"), SpanText("word " * 300)])
    # A text with spans is read in windows and loses nothing, so it is no overflow.
    assert encoder.encode([SpanText("word " * 300, ((0, 4), (1490, 1495)))])[0].lost_tokens == 0


def test_overflow_can_be_read_in_windows(minilm_path: str) -> None:
    encoder = Encoder(minilm_path, on_overflow="window", dtype="float32", device="cpu", normalize=False)
    text = DOCUMENT
    result = encoder.encode([SpanText(text, window=100, overlap=20)], token_vectors=True)[0]
    spans = encoder.encode([SpanText(text, ((0, len(text)),), window=100, overlap=20)])[0]
    length = len(encoder.tokenizer.encode(text, add_special_tokens=False).ids)
    assert result.lost_tokens == 0
    assert result.tokens is not None
    assert len(result.tokens[0]) == length + 2
    # The two differ by the special tokens of the first and the last window alone.
    drift = np.linalg.norm(result.vectors[0] - spans.vectors[0]) / np.linalg.norm(spans.vectors[0])
    assert 0 < drift < 0.02


def test_limits_are_named(minilm_path: str, exact: Encoder) -> None:
    assert (exact.max_tokens, exact.trained_tokens, exact.position_limit) == (256, 256, 512)
    with pytest.raises(InputError, match=r"max_tokens is 600.*positions for 512"):
        Encoder(minilm_path, max_tokens=600).encode([SpanText("x")])
    with pytest.raises(OverflowLimitError, match=r"window of 513 tokens.*positions for 512"):
        exact.encode([SpanText("x", ((0, 1),), window=513)])
    with pytest.raises(InputError, match="widen the window"):
        exact.encode([SpanText(DOCUMENT, ((0, 9),), prefix=60, window=12)])


def test_matryoshka_dimensions_are_cut_and_normalised_again(minilm_path: str, exact: Encoder) -> None:
    encoder = Encoder(minilm_path, dimensions=64, dtype="float32", device="cpu")
    got, full = vectors(encoder, TEXTS), vectors(exact, TEXTS)
    assert encoder.dimension == got.shape[1] == 64
    np.testing.assert_allclose(got, full[:, :64] / np.linalg.norm(full[:, :64], axis=1, keepdims=True), atol=1e-6)
    with pytest.raises(InputError, match="dimensions is 999, but the model's vectors have 384"):
        _ = Encoder(minilm_path, dimensions=999).dimension


def test_results_come_in_input_order_and_do_not_depend_on_the_batch(minilm_path: str) -> None:
    encoder = Encoder(minilm_path, dtype="float32", device="cpu", batch_tokens=128)
    texts = [DOCUMENT[i : i + 7 + 13 * (i % 17)] for i in range(60)]
    together = vectors(encoder, texts)
    np.testing.assert_array_equal(together, vectors(encoder, texts))
    alone = np.concatenate([vectors(encoder, [text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_many_texts_run_in_slices_of_bounded_size(exact: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    from situate.embedders.local import encoder as module

    texts = [f"text {i}" for i in range(50)]
    wanted = vectors(exact, texts)
    monkeypatch.setattr(module, "_SLICE_TEXTS", 7)
    np.testing.assert_allclose(vectors(exact, texts), wanted, atol=1e-6)
    monkeypatch.setattr(module, "_SLICE_CHARACTERS", 20)
    results = exact.encode([SpanText(text) for text in texts], progress=True)
    np.testing.assert_allclose(np.concatenate([r.vectors for r in results]), wanted, atol=1e-6)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_float16_that_overflows_gives_way_to_bfloat16(
    asynchronous: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on CUDA, where "auto" is float16 for this kind of model."""
    torch.manual_seed(2)
    model = FAMILIES["bert"][0]()
    folder = save(tmp_path, model)
    half: dict[str, Any] = {"device": "cpu"}

    def chosen(dtype: str, device: torch.device, model_type: str = "") -> torch.dtype:
        named = {"auto": torch.float16 if model_type == "bert" else torch.bfloat16}
        return named.get(dtype) or getattr(torch, dtype)

    monkeypatch.setattr(devices, "chosen_dtype", chosen)

    def encoded(encoder: Encoder) -> np.ndarray:
        inputs = [SpanText(text) for text in TINY_TEXTS]
        results = asyncio.run(encoder.aencode(inputs)) if asynchronous else encoder.encode(inputs)
        return np.concatenate([result.vectors for result in results])

    wanted = encoded(Encoder(folder, device="cpu", dtype="float32"))
    fine = Encoder(folder, **half)
    assert (encoded(fine) * wanted).sum(1).min() > 0.99999
    assert fine.dtype == "float16"
    with torch.no_grad():
        model.encoder.layer[0].output.dense.weight.mul_(1e7)
    folder = save(tmp_path / "large", model)
    wanted = encoded(Encoder(folder, device="cpu", dtype="float32"))
    large = Encoder(folder, **half)
    with pytest.warns(FallbackWarning, match="overflowed in float16.* computes in bfloat16 from now on"):
        got = encoded(large)
    assert (got * wanted).sum(1).min() > 0.99
    assert large.dtype == "bfloat16"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(encoded(large), got)
    with pytest.raises(NonFiniteVectorError, match="float16"):
        encoded(Encoder(folder, device="cpu", dtype="float16"))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_slice_is_tokenized_while_the_model_runs_the_one_before(
    asynchronous: bool, exact: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from situate.embedders.local import encoder as module

    texts = [f"text {i}" for i in range(20)]
    wanted = vectors(exact, texts)
    read, forward = exact._read, exact.scheduler.engine.forward
    starts: list[int] = []
    second = threading.Event()

    def noted(inputs: Any, first: int, role: Any = "document") -> Any:
        starts.append(first)
        if len(starts) == 2:
            second.set()
        return read(inputs, first, role)

    def waiting(parts: Any) -> Any:
        assert second.wait(20), "the second slice is read only after the first has run"
        return forward(parts)

    monkeypatch.setattr(module, "_SLICE_TEXTS", 7)
    monkeypatch.setattr(exact, "_read", noted)
    monkeypatch.setattr(exact.scheduler.engine, "forward", waiting)
    inputs = [SpanText(text) for text in texts]
    found = asyncio.run(exact.aencode(inputs)) if asynchronous else exact.encode(inputs)
    np.testing.assert_allclose(np.concatenate([each.vectors for each in found]), wanted, atol=1e-6)
    assert starts == [0, 7, 14]


def test_a_card_begins_with_a_small_slice() -> None:
    from situate.embedders.local.encoder import _slices

    inputs = [SpanText("x")] * 9000
    assert [len(part) for _, part in _slices(inputs, 512)] == [512, 1024, 2048, 4096, 1320]
    assert [start for start, _ in _slices(inputs, 4096)] == [0, 4096, 8192]
    long = [SpanText("x" * 100_000)] * 60
    assert [len(part) for _, part in _slices(long, 512)] == [5, 10, 20, 25]


def test_a_long_text_without_blanks(exact: Encoder) -> None:
    text = "x" * 1_000_000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        result = exact.encode([SpanText(text), SpanText(text, ((0, 5), (999_990, 1_000_000)))])
    assert [len(r.vectors) for r in result] == [1, 2]


def test_nothing_at_all(exact: Encoder) -> None:
    assert exact.encode([]) == []
    assert exact.encode([SpanText("text", ())])[0].vectors.shape == (0, 384)


async def test_async_equals_sync(exact: Encoder) -> None:
    inputs = [SpanText(text) for text in TEXTS]
    got = await exact.aencode(inputs, token_vectors=True)
    wanted = exact.encode(inputs, token_vectors=True)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a.vectors, b.vectors, atol=1e-6)
        assert a.tokens is not None
        assert b.tokens is not None
        np.testing.assert_allclose(a.tokens[0], b.tokens[0], atol=1e-5)


async def test_async_warns_of_truncation(exact: Encoder) -> None:
    with pytest.warns(TruncationWarning, match="1 of 1 texts"):
        await exact.aencode([SpanText("word " * 300)])


def test_it_is_a_span_encoder_and_pickles_as_its_configuration(exact: Encoder) -> None:
    assert isinstance(exact, SpanEncoder)
    copy = pickle.loads(pickle.dumps(exact))
    assert len(pickle.dumps(exact)) < 1000
    np.testing.assert_array_equal(vectors(copy, TEXTS), vectors(exact, TEXTS))


def test_closing_lets_go_and_the_next_call_loads_again(minilm_path: str) -> None:
    with Encoder(minilm_path, device="cpu") as encoder:
        before = vectors(encoder, TEXTS)
    np.testing.assert_array_equal(vectors(encoder, TEXTS), before)
    encoder.close()
    encoder.close()


def test_the_tokenizer_is_a_copy_that_needs_no_torch(minilm_path: str) -> None:
    program = (
        "import sys; from situate.embedders import Encoder; e = Encoder(sys.argv[1]);"
        "t = e.tokenizer; assert t.truncation is None and t.padding is None;"
        "assert len(t.encode('word ' * 400).ids) == 402; assert e.dimension == 384; e.max_tokens;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, minilm_path], check=True)


def test_changing_the_copied_tokenizer_changes_no_vector(minilm_path: str, exact: Encoder) -> None:
    encoder = Encoder(minilm_path, dtype="float32", device="cpu")
    encoder.tokenizer.enable_truncation(3)
    np.testing.assert_array_equal(vectors(encoder, TEXTS), vectors(exact, TEXTS))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "median"}, "pooling 'median' is not one of"),
        ({"on_overflow": "cut"}, "on_overflow 'cut' is not one of"),
        ({"dimensions": 0}, "dimensions is 0"),
        ({"max_tokens": -1}, "max_tokens is -1"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Encoder("any", **arguments)


@pytest.mark.parametrize(("name", "value"), [("device", "abacus"), ("dtype", "float8")])
def test_unknown_devices_and_formats_are_refused(minilm_path: str, name: str, value: str) -> None:
    encoder = Encoder(minilm_path, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=value):
        encoder.encode([SpanText("x")])


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        Encoder(tmp_path / "nowhere").encode([SpanText("x")])


def copy_of(minilm_path: str, folder: Path, leave_out: str = "") -> Path:
    for file in Path(minilm_path).rglob("*"):
        if file.is_file() and file.name != leave_out:
            target = folder / file.relative_to(minilm_path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(file)
    return folder


def test_pickled_weights_are_refused_unless_allowed(minilm_path: str, tmp_path: Path) -> None:
    folder = copy_of(minilm_path, tmp_path, leave_out="model.safetensors")
    torch.save(AutoModel.from_pretrained(minilm_path).state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UnsafeModelError, match="allow_pickle=True"):
        Encoder(folder, device="cpu").encode([SpanText("x")])
    encoder = Encoder(folder, device="cpu", dtype="float32", allow_pickle=True)
    wanted = Encoder(minilm_path, device="cpu", dtype="float32")
    np.testing.assert_allclose(vectors(encoder, TEXTS), vectors(wanted, TEXTS), atol=1e-6)


def test_non_finite_vectors_never_leave(minilm_path: str, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(minilm_path)
    with torch.no_grad():
        model.encoder.layer[5].output.LayerNorm.weight[3] = float("nan")
    folder = copy_of(minilm_path, tmp_path, leave_out="model.safetensors")
    model.save_pretrained(folder / "broken")
    (folder / "model.safetensors").symlink_to(folder / "broken" / "model.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(NonFiniteVectorError, match="NaN or infinity"):
            Encoder(folder, device="cpu").encode([SpanText("x")])


def test_dense_heads_behind_the_pooling_are_applied(
    minilm_path: str, peer: SentenceTransformer, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    dense = __import__("sentence_transformers").base.modules.Dense(384, 96, activation_function=torch.nn.Tanh())
    reference = SentenceTransformer(modules=[peer[0], peer[1], dense, st_modules.Normalize()], device="cpu")
    reference.save(str(tmp_path))
    encoder = Encoder(tmp_path, dtype="float32", device="cpu")
    assert encoder.dimension == 96
    np.testing.assert_allclose(vectors(encoder, TEXTS), reference.encode(TEXTS), atol=1e-5)


def test_lower_casing_keeps_offsets_true(minilm_path: str, tmp_path: Path) -> None:
    """A model whose sentence-transformers settings lower-case: İ becomes two characters, spans must not move."""
    folder = copy_of(minilm_path, tmp_path, leave_out="sentence_bert_config.json")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 256, "do_lower_case": True}))
    encoder = Encoder(folder, dtype="float32", device="cpu")
    text = "İİİİ north south"
    tokens = encoder.encode([SpanText(text, ((11, 16),))], token_vectors=True)[0].tokens
    assert tokens is not None
    assert len(tokens[0]) == 1
