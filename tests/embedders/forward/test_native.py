"""The compiled pass: the model's results, in one order of summation with any helpers, and not at all where it is
not built."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from situate.embedders.forward import native as _native_forward
from situate.embedders.forward.modules import PaddedForward
from situate.embedders.forward.native import NativeForward, library
from situate.embedders.forward.packing import Packing
from situate.embedders.local.encoder import Encoder
from situate.embedders.local.engine import reduce_segments
from situate.embedders.types import SpanText
from tests.conftest import FULL
from tests.embedders.forward.test_packed import FAMILIES, SIZES

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]
built = pytest.mark.skipif(library() is None, reason="no C compiler built the pass, or this processor has no AVX2")
#: Around a tile's rows, a group's tokens and a block's rows.
LENGTHS = [[1], [2], [6], [7], [13], [8, 1, 24], [5, 33, 33, 12], [190, 3], [192], [193], [97] * 5, [1] * 40]


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def tiny(family: str) -> Any:
    """A random model whose linear layers hold numbers that float16 has, so that nothing is rounded on the way."""
    torch.manual_seed(7)
    model = FAMILIES[family][0]().eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.copy_((4 * module.weight).half().float())
            if module.bias is not None:
                module.bias.normal_()
        if isinstance(module, torch.nn.LayerNorm):
            module.weight.normal_(1, 0.2)
            if module.bias is not None:
                module.bias.normal_()
    return model


def batch(lengths: list[int]) -> tuple[torch.Tensor, Packing]:
    return torch.randint(4, 300, (sum(lengths),)), Packing.of(lengths, CPU)


@built
@pytest.mark.parametrize("family", ["bert", "bert-relu", "roberta", "distilbert", "mpnet"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_it_computes_what_the_model_computes(family: str, lengths: list[int]) -> None:
    model = tiny(family)
    assert NativeForward.fits(model)
    ids, packing = batch(lengths)
    torch.testing.assert_close(
        NativeForward(model)(ids, packing), PaddedForward(model)(ids, packing), rtol=1e-4, atol=2e-5
    )


@built
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu"])
def test_activations_far_from_zero(activation: str) -> None:
    import transformers

    torch.manual_seed(8)
    model = transformers.BertModel(transformers.BertConfig(vocab_size=300, hidden_act=activation, **SIZES)).eval()
    for layer in model.encoder.layer:
        layer.intermediate.dense.weight.copy_((50 * layer.intermediate.dense.weight).half().float())
        for linear in (layer.output.dense, layer.attention.output.dense):
            linear.weight.copy_(linear.weight.half().float())
        for name in ("query", "key", "value"):
            linear = getattr(layer.attention.self, name)
            linear.weight.copy_((20 * linear.weight).half().float())
    ids, packing = batch([60, 5])
    torch.testing.assert_close(
        NativeForward(model)(ids, packing), PaddedForward(model)(ids, packing), rtol=1e-3, atol=1e-4
    )


@built
def test_the_real_weights_lose_no_more_than_their_rounding(minilm_path: str) -> None:
    import transformers

    model = transformers.AutoModel.from_pretrained(minilm_path).eval()
    ids = torch.randint(1000, 20000, (300,))
    packing = Packing.of([22, 256, 9, 13], CPU)
    got, exact = NativeForward(model)(ids, packing), PaddedForward(model)(ids, packing)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.copy_(module.weight.half().float())
    torch.testing.assert_close(got, PaddedForward(model)(ids, packing), rtol=1e-4, atol=2e-5)
    assert torch.nn.functional.cosine_similarity(got, exact).min() > 0.99999


@built
@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_a_sequence_gets_the_same_bits_alone_and_among_others_and_from_any_number_of_workers(family: str) -> None:
    forward = NativeForward(tiny(family))
    lengths = [22, 5, 130, 1, 64, 22, 7, 199]
    ids, packing = batch(lengths)
    own = torch.get_num_threads()
    together: list[torch.Tensor] = []
    try:
        for threads in (1, 2, 3, 9):
            torch.set_num_threads(threads)
            together.append(forward(ids, packing))
        assert all(torch.equal(found, together[0]) for found in together)
        for part, length in zip(ids.split(lengths), lengths, strict=True):
            alone = forward(part, Packing.of([length], CPU))
            assert torch.equal(alone, together[0][: len(alone)])
            together[0] = together[0][len(alone) :]
    finally:
        torch.set_num_threads(own)


@built
def test_a_text_has_one_vector_whatever_else_is_encoded(minilm_path: str) -> None:
    texts = ["The mill grinds rye.", "Seven barges passed the lock on Sunday, and one was turned back.", "Rye " * 90]
    spans = SpanText(texts[1], spans=((0, 12), (13, 40)))
    with Encoder(minilm_path, device="cpu", batch_tokens=999) as encoder:
        if not isinstance(encoder.scheduler.engine.choice.forward, NativeForward):  # type: ignore[attr-defined]
            pytest.skip("this processor computes in another format")
        together = encoder.encode([*(SpanText(text) for text in texts), spans, *(SpanText(f"{i}") for i in range(40))])
        for text, among in zip(texts, together, strict=False):
            assert encoder.encode([SpanText(text)])[0].vectors.tolist() == among.vectors.tolist()
        assert encoder.encode([spans])[0].vectors.tolist() == together[3].vectors.tolist()


@built
def test_many_threads_at_once() -> None:
    forward = NativeForward(tiny("bert"))
    batches = [batch(lengths) for lengths in LENGTHS]
    wanted = [forward(*given) for given in batches]
    wrong: list[int] = []

    def ask() -> None:
        torch.set_num_threads(2)
        with torch.inference_mode():
            for _ in range(20):
                wrong.extend(i for i, given in enumerate(batches) if not torch.equal(forward(*given), wanted[i]))

    own = torch.get_num_threads()
    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.set_num_threads(own)
    assert wrong == []


@built
def test_a_helper_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    forward = NativeForward(tiny("bert"))
    ids, packing = batch([40])
    wanted = forward(ids, packing)
    released = threading.Event()
    forward.helpers.share(released.wait, 1)
    for _ in range(50):
        if not forward.helpers.waiting:
            break
        time.sleep(0.01)
    # The helper is busy; a task then waits in its queue, and no task is queued while that is not empty.
    for _ in range(5):
        assert torch.equal(forward(ids, packing), wanted)
    assert forward.helpers.waiting == 1
    released.set()
    for _ in range(20):
        assert torch.equal(forward(ids, packing), wanted)


def interrupted_at(event: int, call: Callable[[], object]) -> bool:
    """Whether ``call``, run until its ``event``th line or return within native.py and ended there, was ended."""
    seen = 0

    def trace(frame: Any, kind: str, _: object) -> Any:
        nonlocal seen
        if frame.f_code.co_filename != _native_forward.__file__:
            return None
        if kind in ("line", "return"):
            seen += 1
            if seen == event:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@built
def test_helpers_of_an_interrupted_call_write_into_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller is interrupted at every line in turn, while its helper begins only after all of it is gone."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    forward = NativeForward(tiny("bert"))
    lengths = [40, 180, 33]
    ids, packing = batch(lengths)
    wanted = forward(ids, packing)
    event, busy, idle = 0, threading.Event(), threading.Event()
    ended = True
    while ended:
        event += 1
        busy.clear()
        forward.helpers.share(busy.wait, 1)
        while forward.helpers.waiting:
            time.sleep(0.0005)
        ended = interrupted_at(event, lambda: forward(ids.clone(), Packing.of(lengths, CPU)))
        others = [torch.full(wanted.shape, 7.0) for _ in range(8)]
        busy.set()
        idle.clear()
        forward.helpers.share(idle.set, 1)
        assert idle.wait(30)
        assert all((other == 7).all() for other in others), f"written to after event {event}"
        assert torch.equal(forward(ids, packing), wanted)
    assert event > 50


@built
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no such timer here")
def test_a_timer_that_interrupts_again_and_again_breaks_nothing() -> None:
    seconds, least = (4, 100) if FULL else (1, 25)
    program = f"""
import signal, time, torch
from tests.embedders.forward.test_native import NativeForward, Packing, batch, tiny
class Stop(Exception): pass
def stop(*_): raise Stop
torch.set_num_threads(3)
with torch.inference_mode():
    forward = NativeForward(tiny("bert"))
    lengths = [40, 180, 33]
    ids, packing = batch(lengths)
    wanted = forward(ids, packing)
    signal.signal(signal.SIGALRM, stop)
    ended, stops, delay = time.monotonic() + {seconds}, 0, 0.0
    while time.monotonic() < ended:
        others = []
        delay = (delay + 37e-6) % 4e-3
        try:
            signal.setitimer(signal.ITIMER_REAL, delay + 20e-6)
            try:
                while True:
                    forward(ids.clone(), packing)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Stop:
            stops += 1
        others = [torch.full(wanted.shape, 7.0) for _ in range(4)]
        assert torch.equal(forward(ids, packing), wanted)
        assert all((other == 7).all() for other in others)
    assert stops > {least}, stops
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, cwd=ROOT, timeout=120)


@built
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_computes_the_same() -> None:
    program = """
import os, torch
from situate.embedders.forward.native import NativeForward
from situate.embedders.forward.packing import Packing
from tests.embedders.forward.test_native import batch, tiny
torch.set_num_threads(2)
with torch.inference_mode():
    forward = NativeForward(tiny("bert"))
    ids, packing = batch([30, 200])
    wanted = forward(ids, packing)
    child = os.fork()
    same = all(torch.equal(forward(ids, packing), wanted) for _ in range(20))
    if not child:
        os._exit(0 if same else 1)
    assert same and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, cwd=ROOT, timeout=120)


@built
def test_helpers_end_with_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def helpers() -> int:
        return sum(thread.name.startswith("situate-helper") for thread in threading.enumerate())

    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    gc.collect()
    before = helpers()
    forward = NativeForward(tiny("bert"))
    assert helpers() == before
    forward(*batch([40]))
    assert helpers() == before + 2
    del forward
    gc.collect()
    for _ in range(100):
        if helpers() <= before:
            break
        time.sleep(0.02)
    assert helpers() <= before


@built
def test_what_is_not_in_the_model_is_an_error() -> None:
    forward = NativeForward(tiny("bert"))
    for wrong in (-1, 300, 2**40):
        with pytest.raises(IndexError, match="300"):
            forward(torch.tensor([5, wrong, 7]), Packing.of([3], CPU))
    with pytest.raises(IndexError, match=r"201 tokens.*200"):
        forward(*batch([201]))


@built
@pytest.mark.parametrize("where", ["words", "key", "value", "up"])
def test_nan_is_not_swallowed(where: str) -> None:
    model = tiny("bert")
    layer = model.encoder.layer[1]
    damaged = {
        "words": model.embeddings.word_embeddings.weight,
        "key": layer.attention.self.key.bias,
        "value": layer.attention.self.value.bias,
        "up": layer.intermediate.dense.bias,
    }[where]
    damaged.view(-1)[7 if where != "words" else 7 * 64] = float("nan")
    got = NativeForward(model)(torch.tensor([5, 7, 9]), Packing.of([3], CPU))
    assert torch.isnan(got).any(dim=1)[1]


@pytest.mark.parametrize("change", ["head", "large", "project", "family"])
def test_models_of_other_shapes_are_left_to_torch(change: str) -> None:
    import transformers

    if change == "family" and not hasattr(transformers, "NomicBertModel"):
        pytest.skip("transformers has it since 5.0")
    model = tiny("electra" if change == "project" else "nomic" if change == "family" else "bert")
    if change == "head":
        sizes = {**SIZES, "num_attention_heads": 8}
        model = transformers.BertModel(transformers.BertConfig(vocab_size=300, **sizes)).eval()
    if change == "large":
        model.encoder.layer[0].output.dense.weight[0, 0] = 70_000.0
    assert not NativeForward.fits(model)


@built
def test_sums_of_rows() -> None:
    hidden = torch.randn(50, 48)
    segments = np.array([[0, 50, 1], [3, 4, 9], [10, 30, 4], [49, 50, 1], [5, 5, 1]], dtype=np.int64)
    for weighted in (False, True):
        got = reduce_segments(hidden, segments, "weighted" if weighted else "sum")
        for row, (first, last, weight) in zip(got, segments.tolist(), strict=True):
            factors = torch.arange(weight, weight + last - first) if weighted else torch.ones(last - first)
            torch.testing.assert_close(row, (hidden[first:last] * factors[:, None]).sum(0), rtol=1e-5, atol=1e-4)
        alone = torch.cat([reduce_segments(hidden, row[None], "weighted" if weighted else "sum") for row in segments])
        assert torch.equal(alone, got)
    for other in (hidden.T[:48, :50].T.contiguous().T.T, hidden.half()):
        torch.testing.assert_close(reduce_segments(other, segments[:1], "sum"), other[:50].float().sum(0)[None])


def test_without_it_the_vectors_differ_by_rounding_alone(minilm_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [SpanText("a query"), SpanText("another, somewhat longer query about rivers and mills")]

    def vectors(batch_tokens: int) -> Any:
        # A number of its own: weights that another test has loaded would be shared, and with them the pass.
        with Encoder(minilm_path, device="cpu", batch_tokens=batch_tokens) as encoder:
            forward = encoder.scheduler.engine.choice.forward  # type: ignore[attr-defined]
            return np.concatenate([found.vectors for found in encoder.encode(texts)]), type(forward).__name__

    with_it, _ = vectors(1003)
    monkeypatch.setattr(_native_forward, "library", lambda: None)
    without, name = vectors(1004)
    assert name == "BertForward"
    assert (with_it * without).sum(-1).min() > 0.999999


def test_it_is_left_out_where_nothing_compiles(tmp_path: Path) -> None:
    environment = {**os.environ, "CC": "/nonexistent/cc"}
    install = ["pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(tmp_path), "."]
    source = tmp_path / "source"
    names = ("situate", "chunkers", "embedders", "retrievers", "integrations", "pyproject.toml", "README.md", "LICENSE")
    source.mkdir()
    for name in names:
        subprocess.run(["cp", "-r", str(ROOT / name), str(source / name)], check=True)
    for stale in source.rglob("*.so"):
        stale.unlink()
    subprocess.run([sys.executable, "-m", *install], check=True, cwd=source, env=environment, capture_output=True)
    installed = tmp_path / "situate" / "embedders" / "forward"
    assert [path.name for path in installed.glob("*native*")] == ["native.py"]


@pytest.mark.parametrize("problem", ["missing", "another version", "another processor"])
def test_what_cannot_be_used_is_not_used(problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        @staticmethod
        def supported() -> bool:
            return problem != "another processor"

        @staticmethod
        def layout() -> tuple[int, ...]:
            return (1, 2, 3, 16)

    if problem == "missing":
        monkeypatch.setitem(sys.modules, "situate.embedders.forward._native", None)
    else:
        monkeypatch.setitem(sys.modules, "situate.embedders.forward._native", Other)
    assert library.__wrapped__() is None
