"""Which device and which number format: what "auto" means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate.errors import InputError

if TYPE_CHECKING:
    import torch

#: Architectures of encoders with a norm behind every sum, so that no activation grows from layer to layer.
BERT_STYLE = frozenset({"bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta"})


def chosen_device(device: str) -> torch.device:
    """The device that ``device`` names; "auto" is the first of CUDA, MPS and CPU that is there.

    Raises:
        InputError: torch does not know the name, or there is no such CUDA device.
    """
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        if device == "cuda" and torch.cuda.is_available():
            # "cuda" and "cuda:0" are one device, whose weights are there once.
            return torch.device("cuda", torch.cuda.current_device())
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(
            f"device {device!r} is not one that torch knows: use 'auto', 'cpu', 'cuda:0' or 'mps'"
        ) from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {device!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices (a build of torch "
            "without CUDA sees none). Use 'auto', or 'cpu'"
        )
    return chosen


def chosen_dtype(dtype: str, device: torch.device, model_type: str = "") -> torch.dtype:
    """The number format of the weights; "auto" is the fastest that the hardware computes in, int8 aside.

    That is bfloat16 on CPUs with AVX512-BF16 or AMX and on CUDA from Ampere on, float16 on older CUDA cards and on
    MPS, float32 elsewhere (a CPU without bf16 units emulates it, slower than float32). BERT-style encoders, whose
    weights and activations are small, get float16 on every CUDA card: as fast, and eight times as exact. On some CPUs
    an explicit float32 and one that "auto" chose differ: see `projection`.

    Args:
        dtype: "auto" or a format's name.
        device: Where the model runs.
        model_type: The architecture's name in transformers, where the caller computes anew if float16 overflows.

    Raises:
        InputError: The name is not one of the five, or is int8 for another device than the CPU.
    """
    import torch

    named = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "int8")}
    if dtype == "int8" and device.type != "cpu":
        raise InputError(
            f"dtype 'int8' is for the CPU, and device is {str(device)!r}: use dtype='auto', or device='cpu'"
        )
    if dtype in named:
        chosen: torch.dtype = named[dtype]
        return chosen
    if dtype != "auto":
        raise InputError(f"dtype {dtype!r} is not one of 'auto', 'float32', 'bfloat16', 'float16', 'int8'")
    if device.type == "cuda":
        modern = torch.cuda.get_device_capability(device)[0] >= 8
        return torch.bfloat16 if modern and model_type not in BERT_STYLE else torch.float16
    if device.type == "mps":
        return torch.float16
    return torch.bfloat16 if device.type == "cpu" and cpu_computes_bf16() else torch.float32


def widens(dtype: str, device: torch.device, model_type: str) -> bool:
    """Whether "auto" chose float16 for this kind of model, and bfloat16 is there if it overflows."""
    import torch

    chosen = chosen_dtype(dtype, device, model_type), chosen_dtype(dtype, device)
    return dtype == "auto" and chosen == (torch.float16, torch.bfloat16)


def is_exact(dtype: str, device: torch.device) -> bool:
    """Whether the weights are kept in the very format of `chosen_dtype`, so that "auto" and its name give the same.

    Not so on CPUs where "auto" means float32 products on weights in float16.
    """
    if dtype != "auto" or device.type != "cpu" or cpu_computes_bf16():
        return True
    from situate.embedders.forward.linears import half_weights_work

    return not half_weights_work()


def cpu_computes_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware."""
    import torch

    flags = torch.backends.cpu.get_cpu_capability()
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return "AVX512" in flags and any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
