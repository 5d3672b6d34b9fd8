"""The ways to run a model over a batch of sequences, and the choice of the fastest one that computes the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from situate.embedders.forward import attention as _attention, self_extend as _self_extend
from situate.embedders.forward.bert import PostNormForward
from situate.embedders.forward.bert_weights import PostNormModules
from situate.embedders.forward.linears import Casts, prepack
from situate.embedders.forward.native import NativeForward
from situate.embedders.forward.packing import Packing
from situate.embedders.local.openmp import computing
from situate.embedders.models.files import loading
from situate.embedders.models.folder import OFFSET_POSITIONS
from situate.embedders.models.resolve import SAFE, LoadOptions
from situate.embedders.models.variant import AS_IT_IS, Variant
from situate.errors import ConventionError, ModelError, UnsafeModelError

#: What each format is allowed: see `tolerance`.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.02}


class Forward(Protocol):
    """Token vectors of packed sequences."""

    def __call__(self, ids: torch.Tensor, packing: Packing) -> torch.Tensor:
        """int64 ``[tokens]`` ids -> ``[tokens, hidden]``."""
        ...


class PaddedForward:
    """A transformers model called as everybody calls it, on ``[sequences, longest]`` with a mask: the reference."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._pad = int(getattr(model.config, "pad_token_id", None) or 0)

    def __call__(self, ids: torch.Tensor, packing: Packing) -> torch.Tensor:
        shape = (len(packing.lengths), packing.longest)
        mask = torch.arange(packing.longest, device=ids.device) < packing.bounds.diff()[:, None]
        padded = ids.new_full(shape, self._pad)
        padded[mask] = ids
        hidden: torch.Tensor = self._model(
            input_ids=padded, attention_mask=mask.long(), **_no_cache(self._model)
        ).last_hidden_state
        return hidden[mask]


class PackedForward:
    """A transformers model called on ``[1, all tokens]``, its attention replaced by one that knows the boundaries.

    Args:
        model: The model; it is changed.
        variant: How it differs from what its folder holds.
    """

    def __init__(self, model: Any, variant: Variant = AS_IT_IS) -> None:
        self._more: dict[str, Any] = {}
        if variant.groups and variant.reach is not None:
            self._more["grouping"] = _self_extend.Grouping.of(model, variant.reach)
            model.set_attn_implementation(_self_extend.NAME)
        else:
            _attention.register()
            model.set_attn_implementation(_attention.NAME)
        self._model = model
        config = model.config
        self._first = int(config.pad_token_id or 0) + 1 if config.model_type in OFFSET_POSITIONS else 0
        self._positions = config.model_type not in ("t5", "mt5", "umt5")  # theirs are relative

    def __call__(self, ids: torch.Tensor, packing: Packing) -> torch.Tensor:
        positions = {"position_ids": (packing.position_ids + self._first)[None]} if self._positions else {}
        hidden: torch.Tensor = self._model(
            input_ids=ids[None], packing=packing, **positions, **self._more, **_no_cache(self._model)
        ).last_hidden_state
        return hidden[0]


@dataclass(frozen=True)
class Chosen:
    """The way that was chosen.

    Attributes:
        forward: It.
        hidden_size: Length of its token vectors.
        packed: Whether it computes no padding.
        reentrant: Whether several threads may be inside at once.
        shared: Whether a pass over one sequence is shared among the cores by the way itself, not operator by operator.
        after: Called behind every batch, by the thread that ran it.
        warning: What the caller should know; None where all is as it should be.
    """

    forward: Forward
    hidden_size: int
    packed: bool
    reentrant: bool
    shared: bool = False
    after: Callable[[], None] | None = None
    warning: str | None = None


def choose_forward(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    options: LoadOptions = SAFE,
    *,
    max_tokens: int = 512,
    variant: Variant = AS_IT_IS,
    exact: bool = True,
) -> Chosen:
    """Load a model and choose how it runs: the first way that computes what the padded pass computes.

    A model that ignores transformers' attention interface would mix the sequences of a packed batch. No list says
    reliably which do, so each is tried, on made-up sequences of several lengths, against the padded pass.

    Args:
        folder: The model's folder.
        device: Where it runs.
        dtype: Format to compute in.
        options: Whether the folder's own Python files may run and pickled weights be read.
        max_tokens: Longest sequence that the model reads.
        variant: How the model differs from what its folder holds.
        exact: Do not store float32 weights in float16.

    Raises:
        ModelError: The model cannot be loaded, or not be changed as ``variant`` says.
    """

    def load(at: torch.dtype) -> Any:
        return load_model(folder, device, at, options, variant=variant)

    # On CPU everything starts from float32, so that the stream around bfloat16 products can stay float32.
    base = torch.float32 if device.type == "cpu" and dtype in (torch.float32, torch.bfloat16) else dtype
    model = load(base)
    size = int(model.config.get_text_config().hidden_size)
    reentrant = is_reentrant(model, options)
    # Up to the length trained on, a grouped model computes what the padded pass computes.
    probe, packing = _probe(model, device, min(max_tokens, variant.reach.trained) if variant.reach else max_tokens)
    with computing():
        reference = PaddedForward(model)(probe, packing).float()
        fault = "it was not tried"
        for forward, casts, packed in _ways(model, load, device, dtype, base, variant, exact):
            if variant.groups and not packed:
                break
            warning = None if packed else f"it runs padded, which is slower: packed, {fault}"
            try:
                error = _relative_error(forward(probe, packing).float(), reference)
            except Exception as problem:  # noqa: BLE001  model code of any origin may refuse in any way
                fault = f"it failed with {type(problem).__name__}: {problem}"
                continue
            if error <= tolerance(dtype, exact):
                after = None if casts is None else casts.forget
                return Chosen(forward, size, packed, reentrant, isinstance(forward, NativeForward), after, warning)
            fault = f"its vectors differ by {error:.1%} from those of the padded pass"
        if variant.groups:
            raise ConventionError(f"extension='self' needs a model that runs packed; this one does not: {fault}")
        plain = PaddedForward(load(dtype))
        warning = f"it runs padded and unoptimised, which is slower: otherwise, {fault}"
        return Chosen(plain, size, False, reentrant, warning=warning)


def _ways(
    model: Any,
    load: Callable[[torch.dtype], Any],
    device: torch.device,
    dtype: torch.dtype,
    base: torch.dtype,
    variant: Variant,
    exact: bool,
) -> Iterator[tuple[Forward, Casts | None, bool]]:
    """The ways to run a model, fastest first; whether each packs."""
    if PostNormModules.fits(model):
        if device.type == "cpu" and dtype == torch.float32 and not exact and NativeForward.fits(model):
            yield NativeForward(model), None, True
        yield PostNormForward(model, device, dtype, exact=exact).compile(), None, True
    casts = prepack(model, dtype, exact=exact) if device.type == "cpu" else None
    if casts is None and base != dtype:
        model = model.to(dtype)
    yield PackedForward(model, variant), casts, True
    if casts is not None:
        # Some models look into their linear layers, which prepacked ones do not allow.
        yield PackedForward(load(dtype), variant), None, True
    model.set_attn_implementation("sdpa" if getattr(model, "_supports_sdpa", False) else "eager")
    yield PaddedForward(model), casts, False


def tolerance(dtype: torch.dtype, exact: bool) -> float:
    """Relative error, against the padded pass in float32, that a way of running a model is allowed."""
    return _TOLERANCE[torch.float16 if dtype == torch.float32 and not exact else dtype]


def _probe(model: Any, device: torch.device, max_tokens: int) -> tuple[torch.Tensor, Packing]:
    """Made-up sequences: short, long, two alike, and one longer than the attention's window."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or getattr(config, "local_attention", None) or 0
    lengths = [5, 33, 33, 12]
    if window and window < max_tokens:
        lengths.append(min(max_tokens, int(window) + 40))
    lengths = [min(length, max_tokens) for length in lengths]
    generator = torch.Generator().manual_seed(0)
    low = min(1000, config.vocab_size // 2)
    ids = torch.randint(low, config.vocab_size, (sum(lengths),), generator=generator)
    return ids.to(device), Packing.of(lengths, device)


def _relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    error = (torch.linalg.vector_norm(got - wanted) / torch.linalg.vector_norm(wanted)).item()
    return error if math.isfinite(error) else math.inf


def is_reentrant(model: Any, options: LoadOptions = SAFE) -> bool:
    """Whether several threads may be inside: not in foreign code, nor where the rotary embedding remembers lengths."""
    config = model.config.get_text_config()
    ropes = str(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or "")
    return not options.trust_remote_code and "dynamic" not in ropes and "longrope" not in ropes


def _no_cache(model: Any) -> dict[str, bool]:
    """``use_cache=False`` for the models that would keep keys and values."""
    return {"use_cache": False} if getattr(model.config.get_text_config(), "use_cache", None) else {}


def load_model(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    options: LoadOptions = SAFE,
    variant: Variant = AS_IT_IS,
) -> Any:
    """The transformers model of a folder, for inference; of an encoder-decoder only the encoder.

    Raises:
        ModelError: Its files are damaged, some of its weights are missing or of another shape than config.json says,
            or it cannot be changed as ``variant`` says.
        UnsafeModelError: The model needs its own code or pickled weights, and neither was asked for.
    """
    import transformers

    # The weights are here; code that was asked for may lie in another repository (Jina's and GTE's does).
    trusted = options.trust_remote_code
    with loading("the configuration", folder):
        config = transformers.AutoConfig.from_pretrained(
            str(folder), local_files_only=not trusted, trust_remote_code=trusted
        )
    variant.configure(config)
    encoders = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
    name = encoders.get(config.model_type, "AutoModel")
    loader: Any = getattr(transformers, name)
    if "M2M100Encoder" in (config.architectures or ()):  # SONAR: saved alone, and not among transformers' names
        from transformers.models.m2m_100.modeling_m2m_100 import M2M100Encoder

        loader = M2M100Encoder
    extra = {"trust_remote_code": trusted} if loader is transformers.AutoModel else {}
    with loading("the model", folder):
        try:
            model, loaded = loader.from_pretrained(
                str(folder),
                config=config,
                dtype=dtype,
                local_files_only=not trusted,
                use_safetensors=None if options.allow_pickle else True,
                output_loading_info=True,
                **extra,
            )
        except ValueError as error:
            if "trust_remote_code" in str(error):
                raise UnsafeModelError(
                    f"the model in {str(folder)!r} needs its own Python files: pass trust_remote_code=True if you "
                    "have read them"
                ) from error
            raise
    check_complete(folder, model, loaded["missing_keys"])
    return variant.apply(model).to(device).eval()


def check_complete(folder: Path, model: Any, missing: Iterable[str]) -> None:
    """Refuse a model that transformers filled up with random numbers, which it only logs (the pooler is not used).

    Raises:
        ModelError: Weights are missing.
    """
    weights = {name for name, _ in model.named_parameters()}
    lost = sorted(name for name in missing if name in weights and "pooler" not in name.split("."))
    if lost:
        raise ModelError(
            f"{len(lost)} weights of {type(model).__name__} are not in {str(folder)!r} ({lost[0]}, say), and would be "
            "random numbers: the folder is incomplete, or was made for another class (its repository's own code: "
            "trust_remote_code=True if you have read it and trust its author)"
        )
