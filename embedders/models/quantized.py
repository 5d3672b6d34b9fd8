"""Weights of 8 or 4 bits for large models, by bitsandbytes."""

from __future__ import annotations

import importlib.util
from typing import Any, Literal, TypeAlias

from situate.errors import MissingExtraError

#: "int8" is LLM.int8() without a float16 part for outliers (Dettmers et al. 2022, https://arxiv.org/abs/2208.07339);
#: "int4" is NF4 with its constants quantised too (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314).
Weights: TypeAlias = Literal["int8", "int4"]


def loading_arguments(weights: Weights, device: Any, dtype: Any) -> dict[str, Any]:
    """The arguments by which transformers quantises the linear layers of a model while it loads them.

    Args:
        weights: How.
        device: Where the model runs.
        dtype: The format to compute in, a torch format.

    Raises:
        MissingExtraError: bitsandbytes or accelerate is not installed.
    """
    for needed in ("bitsandbytes", "accelerate"):  # transformers places quantised weights by the second
        if importlib.util.find_spec(needed) is None:
            raise MissingExtraError.of(needed, "quantized", f"weights={weights!r}")
    from transformers import BitsAndBytesConfig

    config: Any = BitsAndBytesConfig
    if weights == "int8":
        made = config(load_in_8bit=True, llm_int8_threshold=0.0)
    else:
        made = config(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    return {"quantization_config": made, "device_map": {"": str(device)}}
