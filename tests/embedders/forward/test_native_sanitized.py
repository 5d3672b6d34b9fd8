"""The compiled pass under AddressSanitizer and UndefinedBehaviorSanitizer: its own suite, and a fuzz of shapes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from situate.embedders.forward import native

ROOT = Path(__file__).parents[3]
CC = shutil.which("gcc")
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(CC is None or native.library() is None, reason="no gcc, or no compiled pass here"),
]
#: Takes the place of the module that was installed, before anything imports it.
PLUGIN = """
import importlib.util, sys
import situate.embedders.forward
spec = importlib.util.spec_from_file_location("situate.embedders.forward._native", {path!r})
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
"""
FUZZ = """
import random, sys, torch, transformers
from situate.embedders.forward.native import NativeForward, int8_kernels, library
from situate.embedders.forward.modules import PaddedForward
from situate.embedders.forward.packing import Packing
assert library().__file__ == sys.argv[1]
random.seed(int(sys.argv[2]))
with torch.inference_mode():
    for _ in range(8):
        head, heads = 16 * random.randint(1, 4), random.randint(1, 4)
        config = transformers.BertConfig(
            vocab_size=random.randint(20, 90), hidden_size=head * heads, num_attention_heads=heads,
            num_hidden_layers=random.randint(1, 3), intermediate_size=16 * random.randint(1, 9),
            max_position_embeddings=300, hidden_act=random.choice(["gelu", "gelu_new", "relu"]))
        model = transformers.BertModel(config).eval()
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.copy_((4 * module.weight).half().float())
        forward = NativeForward(model)
        quantized = {kernel: NativeForward(model, kernel) for kernel in int8_kernels()}
        for _ in range(4):
            torch.set_num_threads(random.randint(1, 4))
            lengths = [random.choice([1, 2, 7, 8, 9, random.randint(1, 300)]) for _ in range(random.randint(1, 9))]
            ids = torch.randint(0, config.vocab_size, (sum(lengths),))
            packing = Packing.of(lengths, torch.device("cpu"))
            torch.testing.assert_close(
                forward(ids, packing), PaddedForward(model)(ids, packing), rtol=1e-3, atol=1e-4)
            found = [each(ids, packing) for each in quantized.values()]
            assert all(torch.equal(each, found[0]) for each in found)
"""


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The module compiled with sanitizers in a folder of its own, and the environment to run it in."""
    assert CC is not None
    folder = tmp_path_factory.mktemp("sanitized")
    built = folder / "_native.abi3.so"
    flags = ["-O1", "-g", "-fPIC", "-shared", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"]
    include = sysconfig.get_paths()["include"]
    source = ROOT / "embedders/forward/_native.c"
    subprocess.run([CC, *flags, "-fno-sanitize-recover=all", f"-I{include}", str(source), "-o", str(built)], check=True)
    libraries = [
        subprocess.run([CC, f"-print-file-name={name}"], check=True, capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    (folder / "sanitized_native.py").write_text(PLUGIN.format(path=str(built)))
    environment = {
        **os.environ,
        "LD_PRELOAD": ":".join(libraries),
        # Python keeps memory for good, and torch's own allocations are not under test.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}",
        "PYTHONMALLOC": "malloc",
    }
    return built, environment


def test_its_suite_is_clean(sanitized: tuple[Path, dict[str, str]]) -> None:
    _, environment = sanitized
    # Those that need no process of their own, which would load the installed module.
    chosen = (
        "computes_what_the_model or activations or same_bits or not_in_the_model or nan or sums_of_rows or not_finite "
        "or second_text"
    )
    suite = ["tests/embedders/forward/test_native.py", "tests/embedders/forward/test_int8.py", "-q", "-x", "-k", chosen]
    command = [sys.executable, "-m", "pytest", "-p", "sanitized_native", "-p", "no:cacheprovider", *suite]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-3000:])


@pytest.mark.parametrize("seed", range(3))
def test_any_shapes_are_clean(seed: int, sanitized: tuple[Path, dict[str, str]]) -> None:
    built, environment = sanitized
    command = [sys.executable, "-W", "ignore", "-c", "import sanitized_native\n" + FUZZ, str(built), str(seed)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
