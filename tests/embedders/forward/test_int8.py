"""The compiled pass in int8: one result from every kernel, the one that numpy computes, and near to the model's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from situate.embedders import Embedder, SparseEmbedder
from situate.embedders.forward.int8 import QuantizedLinear
from situate.embedders.forward.modules import PaddedForward
from situate.embedders.forward.native import NativeForward, int8_forward, int8_kernels, library
from situate.embedders.forward.packing import Packing
from situate.embedders.local.devices import chosen_dtype
from situate.embedders.local.encoder import Encoder
from situate.embedders.types import SpanText
from situate.errors import ConventionError, InputError
from tests.embedders.forward.test_native import CPU, LENGTHS, batch, tiny
from tests.embedders.forward.test_packed import SIZES

built = pytest.mark.skipif(library() is None, reason="no C compiler built the pass, or this processor has no AVX2")
TEXTS = [
    "The mill grinds rye.",
    "Seven barges passed the lock on Sunday, and one was turned back.",
    "what does the mill grind",
    "Rye " * 90,
]


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def matrix(rows: int, columns: int) -> torch.Tensor:
    """Sharp weights with large ones side by side, which are too large for a pair."""
    weight = 4 * torch.randn(rows, columns)
    weight[:, 4:6] = 20
    weight[1::2, 8:10] = -20
    weight[0] = 0
    return weight


def unpacked(layer: QuantizedLinear) -> NDArray[np.int64]:
    """``[out, in]``."""
    panels = layer.panels.numpy().astype(np.int64)
    return panels.transpose(0, 2, 1, 3).reshape(panels.shape[0] * 16, -1)


def test_weights_are_near_and_no_pair_of_products_saturates() -> None:
    weight = matrix(32, 64)
    layer = QuantizedLinear.of(weight, torch.rand(64) + 0.1, 16)
    rounded = unpacked(layer)
    left, right = rounded[:, ::2], rounded[:, 1::2]
    for inputs in ((255, 255), (255, 0), (0, 255)):
        assert np.abs(inputs[0] * left + inputs[1] * right).max() <= 2**15 - 1
    found = torch.from_numpy(rounded) * layer.scales[:, None] * layer.smoothing
    assert (found - weight).norm() / weight.norm() < 0.02
    torch.testing.assert_close(layer.sums, (torch.from_numpy(rounded) * layer.scales[:, None]).sum(1))


def test_smoothing_moves_an_outlier_from_the_inputs_to_the_weights() -> None:
    weight, sizes = torch.randn(32, 64), torch.ones(64)
    sizes[9] = 100
    smoothing = QuantizedLinear.of(weight, sizes, 16).smoothing
    assert smoothing[9] < 0.25 * smoothing[torch.arange(64) != 9].min()


def as_numpy_computes(model: Any, ids: list[int]) -> NDArray[np.float32]:
    """One sequence through a BERT model, its products in int8, in other words than the compiled pass."""

    def array(tensor: torch.Tensor) -> NDArray[np.float32]:
        return tensor.detach().numpy()

    def norm(x: NDArray[np.float32], module: Any) -> NDArray[np.float32]:
        centred = x - x.mean(1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(1, keepdims=True) + module.eps)
        return centred / deviation * array(module.weight) + array(module.bias)

    def product(x: NDArray[np.float32], linear: Any, before: Any = None) -> NDArray[np.float32]:
        sizes = None if before is None else (before.weight**2 + before.bias**2).sqrt()
        layer = QuantizedLinear.of(linear.weight, sizes, 16)
        x = x * array(layer.smoothing)
        least = x.min(1, keepdims=True)
        scale = (x.max(1, keepdims=True) - least) / 255
        whole = np.rint((x - least) / scale).astype(np.int64)
        assert whole.min() == 0
        assert whole.max() == 255
        sums = (whole @ unpacked(layer).T) * scale * array(layer.scales) + least * array(layer.sums)
        return (sums + array(linear.bias)).astype(np.float32)

    embeddings = model.embeddings
    x = array(embeddings.word_embeddings.weight)[ids] + array(embeddings.position_embeddings.weight)[: len(ids)]
    x = norm(x + array(embeddings.token_type_embeddings.weight)[0], embeddings.LayerNorm)
    before = embeddings.LayerNorm
    for layer in model.encoder.layer:
        own = layer.attention.self
        joined = torch.nn.Linear(1, 1)
        joined.weight = torch.nn.Parameter(torch.cat([own.query.weight, own.key.weight, own.value.weight]))
        joined.bias = torch.nn.Parameter(torch.cat([own.query.bias, own.key.bias, own.value.bias]))
        parts = product(x, joined, before).reshape(len(ids), 3, model.config.num_attention_heads, -1)
        query, key, value = parts.transpose(1, 2, 0, 3)
        scores = query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        seen = (weights / weights.sum(-1, keepdims=True)) @ value
        output = layer.attention.output
        x = norm(x + product(seen.transpose(1, 0, 2).reshape(len(ids), -1), output.dense), output.LayerNorm)
        inner = torch.nn.functional.gelu(torch.from_numpy(product(x, layer.intermediate.dense, output.LayerNorm)))
        x = norm(x + product(inner.numpy(), layer.output.dense), layer.output.LayerNorm)
        before = layer.output.LayerNorm
    return x


@built
def test_it_computes_what_numpy_computes() -> None:
    model = tiny("bert")
    ids, packing = batch([23])
    wanted = torch.from_numpy(as_numpy_computes(model, ids.tolist()))
    got = int8_forward(model)(ids, packing)
    # A number on the edge between two whole ones may fall to either side.
    assert (got - wanted).norm() < 0.1 * (got - PaddedForward(model)(ids, packing)).norm()


@built
@pytest.mark.parametrize("family", ["bert", "bert-relu", "roberta", "distilbert", "mpnet"])
def test_every_kernel_computes_the_same_bits_near_to_the_model(family: str) -> None:
    model = tiny(family)
    forwards = {kernel: NativeForward(model, kernel) for kernel in int8_kernels()}
    assert {"scalar", "avx2"} <= set(forwards)
    for lengths in LENGTHS:
        ids, packing = batch(lengths)
        found = {kernel: forward(ids, packing) for kernel, forward in forwards.items()}
        assert all(torch.equal(each, found["scalar"]) for each in found.values())
        wanted = PaddedForward(model)(ids, packing)
        assert (found["avx2"] - wanted).norm() / wanted.norm() < 0.02


@built
def test_a_sequence_gets_the_same_bits_alone_and_among_others_and_from_any_number_of_workers() -> None:
    forward = int8_forward(tiny("bert"))
    lengths = [22, 5, 130, 1, 64, 22, 7, 199]
    ids, packing = batch(lengths)
    own = torch.get_num_threads()
    try:
        together = []
        for threads in (1, 2, 9):
            torch.set_num_threads(threads)
            together.append(forward(ids, packing))
        assert all(torch.equal(found, together[0]) for found in together)
        alone = [forward(part, Packing.of([len(part)], CPU)) for part in ids.split(lengths)]
        assert torch.equal(torch.cat(alone), together[0])
    finally:
        torch.set_num_threads(own)


@built
@pytest.mark.parametrize("where", ["words", "key", "value", "up"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_swallowed(where: str, number: float) -> None:
    model = tiny("bert")
    layer = model.encoder.layer[1]
    damaged = {
        "words": model.embeddings.word_embeddings.weight,
        "key": layer.attention.self.key.bias,
        "value": layer.attention.self.value.bias,
        "up": layer.intermediate.dense.bias,
    }[where]
    damaged.view(-1)[7 if where != "words" else 7 * 64] = number
    assert not torch.isfinite(int8_forward(model)(torch.tensor([5, 7, 9]), Packing.of([3], CPU))).all(dim=1)[1]


@built
def test_the_second_text_of_a_pair_has_its_own_type() -> None:
    model = tiny("bert")
    model.embeddings.token_type_embeddings.weight.normal_()
    ids, packing = torch.randint(4, 300, (21,)), Packing.of([9, 12], CPU, [4, 5])
    got = int8_forward(model)(ids, packing)
    wanted = PaddedForward(model)(ids, packing)
    assert (got - wanted).norm() / wanted.norm() < 0.02
    torch.testing.assert_close(NativeForward(model)(ids, packing), wanted, rtol=1e-4, atol=2e-5)


@built
def test_the_real_model_is_near_and_its_fingerprint_names_the_format(minilm_path: str) -> None:
    texts = [SpanText(text) for text in TEXTS]
    with Encoder(minilm_path, device="cpu", dtype="float32") as exact, Encoder(minilm_path, dtype="int8") as fast:
        wanted, got = exact.encode(texts), fast.encode(texts)
        cosines = [(a.vectors * b.vectors).sum() for a, b in zip(wanted, got, strict=True)]
        assert min(cosines) > 0.995
        assert max(cosines) < 0.99999
        assert fast.dtype == "int8"
    quick, plain = Embedder(minilm_path, dtype="int8"), Embedder(minilm_path, dtype="float32")
    assert {**plain.fingerprint, "dtype": "int8"} == quick.fingerprint
    assert Embedder(encoder=fast).fingerprint["dtype"] == "int8"


@built
def test_both_frameworks_take_it(minilm_path: str) -> None:
    from situate.integrations.langchain import SituateEmbeddings
    from situate.integrations.llama_index import SituateEmbedding

    wanted = Embedder(minilm_path, dtype="int8").embed_queries(TEXTS[:1])[0].tolist()
    assert SituateEmbedding(model_name=minilm_path, dtype="int8").get_query_embedding(TEXTS[0]) == wanted
    assert SituateEmbeddings(model=minilm_path, dtype="int8").embed_query(TEXTS[0]) == wanted


@built
@pytest.mark.parametrize("change", ["head", "family"])
def test_other_models_are_refused_with_the_reason(change: str) -> None:
    import transformers

    if change == "family" and not hasattr(transformers, "NomicBertModel"):
        pytest.skip("transformers has it since 5.0")
    sizes = {**SIZES, "num_attention_heads": 8}
    model = tiny("nomic") if change == "family" else transformers.BertModel(transformers.BertConfig(**sizes))
    with pytest.raises(ConventionError, match="multiples of 16" if change == "head" else "of the type 'nomic"):
        int8_forward(model)


def test_other_devices_and_libraries_are_refused() -> None:
    with pytest.raises(InputError, match=r"'int8' is for the CPU, and device is 'cuda:0'.*device='cpu'"):
        chosen_dtype("int8", torch.device("cuda", 0))
    with pytest.raises(InputError, match="dtype 'int8' is for BERT-style models"):
        SparseEmbedder("m", dtype="int8")
