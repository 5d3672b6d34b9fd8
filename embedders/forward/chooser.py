"""The ways to run a model over a batch of sequences, and the choice of the fastest one with the same results."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from situate.embedders.forward.bert import BertFirstTokens, BertForward
from situate.embedders.forward.bert_weights import PostNormModules
from situate.embedders.forward.cores import computing
from situate.embedders.forward.gpu.compiled import CompiledForward
from situate.embedders.forward.layers import mean_layers
from situate.embedders.forward.linears import prepack
from situate.embedders.forward.modules import PackedForward, PaddedForward
from situate.embedders.forward.native import NativeForward, int8_forward
from situate.embedders.forward.packing import Packing
from situate.embedders.forward.prepending import prepend
from situate.embedders.forward.routing import join_routing
from situate.embedders.models.files import loading
from situate.embedders.models.quantized import loading_arguments
from situate.embedders.models.resolve import SAFE, LoadOptions
from situate.embedders.models.variant import AS_IT_IS, Variant
from situate.errors import ConventionError, ModelError, UnsafeModelError
from situate.vectors import check_finite

#: The error that each format is allowed: see `tolerance`.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.02, torch.int8: 0.15}
#: Lengths of made-up sequences: short, long, two equal ones. More for pairs, so that their scores have a spread.
_LENGTHS = (5, 33, 33, 12)
_PAIR_LENGTHS = (6, 33, 33, 12, 20, 50, 9, 41, 17, 28, 5, 26)
#: A copy of the weights in float32, for a reference beside half precision, takes at most so many bytes.
_REFERENCE_BYTES = 8 * 2**30


class Forward(Protocol):
    """Token vectors of packed sequences."""

    def __call__(self, ids: torch.Tensor, packing: Packing) -> torch.Tensor:
        """int64 ``[tokens]`` ids -> ``[tokens, hidden]``, or of pairs ``[sequences, hidden]``."""
        ...


@dataclass(frozen=True)
class ForwardChoice:
    """The chosen way to run a model.

    Attributes:
        forward: Computes a pass.
        hidden_size: Length of its vectors.
        packed: Whether it computes no padding.
        reentrant: Whether several threads may be inside at once.
        shared: Whether the way itself spreads a pass over one sequence over the cores, not operator by operator.
        after: Called after every batch, by the thread that ran it.
        warning: A warning for the caller; None where there is none.
        vocabulary: How many token ids the model knows; None where that is not known.
    """

    forward: Forward
    hidden_size: int
    packed: bool
    reentrant: bool
    shared: bool = False
    after: Callable[[], None] | None = None
    warning: str | None = None
    vocabulary: int | None = None


@dataclass(frozen=True)
class _Way:
    forward: Forward
    packed: bool
    after: Callable[[], None] | None = None


class OfEachSequence:
    """One token's vector of each sequence.

    Args:
        forward: Computes the vectors of all tokens.
        last: Whether it is the last token, as decoders have it, and not the first.
    """

    def __init__(self, forward: Forward, *, last: bool) -> None:
        self._forward, self._last = forward, last

    def __call__(self, ids: torch.Tensor, packing: Packing) -> torch.Tensor:
        """int64 ``[tokens]`` ids -> ``[sequences, hidden]``."""
        rows = packing.bounds[1:].long() - 1 if self._last else packing.bounds[:-1].long()
        return self._forward(ids, packing)[rows]


def choose_forward(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    options: LoadOptions = SAFE,
    *,
    max_tokens: int = 512,
    variant: Variant = AS_IT_IS,
    exact: bool = True,
) -> ForwardChoice:
    """Load a model and choose how it runs: the first way with the results of the padded pass.

    A model that ignores transformers' attention interface would mix the sequences of a packed batch. No list of such
    models is reliable, so each model is compared with the padded pass on made-up sequences of several lengths.

    Args:
        folder: The model's folder.
        device: Where it runs.
        dtype: Format to compute in.
        options: How its files are read.
        max_tokens: Longest sequence that the model reads.
        variant: How the model differs from what its folder holds.
        exact: Do not store float32 weights in float16.

    Raises:
        ModelError: The model cannot be loaded, or cannot be changed by ``variant``.
        NonFiniteVectorError: It overflows in float16, whichever way it runs.
        ConventionError: It cannot be computed in int8, or not packed although ``variant`` needs it.
    """

    def load(at: torch.dtype) -> Any:
        return load_model(folder, device, at, options, variant=variant)

    if dtype == torch.int8 and variant.weights:
        raise ConventionError(
            f"dtype='int8' rounds the weights itself, and weights={variant.weights!r} stores them otherwise: leave one "
            "of them out"
        )
    if dtype == torch.int8 and variant.mean_layers:
        raise ConventionError(
            f"dtype='int8' computes the last layer alone, and mean_layers={variant.mean_layers} needs others: leave "
            "one of them out"
        )
    model = load(dtype if variant.weights else base_dtype(device, dtype))
    reentrant, vocabulary = is_reentrant(model, options), _vocabulary(model)
    # Up to the length trained on, a grouped model computes what the padded pass computes.
    ids, packing = probe(model, device, min(max_tokens, variant.reach.trained) if variant.reach else max_tokens)
    with computing():
        reference, limit = _reference(model, ids, packing, tolerance(dtype, exact))
        size = reference.shape[1]

        def error(forward: Forward) -> float:
            return _relative_error(forward(ids, packing).float(), reference)

        if dtype == torch.int8:
            quantized = int8_forward(model)
            _check_int8(error(quantized), limit)
            return ForwardChoice(quantized, size, True, reentrant, shared=True, vocabulary=vocabulary)
        ways = _ways(model, device, dtype, exact, variant, load)
        if variant.groups:
            ways = (way for way in ways if way.packed)
        way, fault = _first_right(ways, error, limit)
        if way is None and variant.groups:
            raise ConventionError(f"extension='self' needs a model that runs packed; this one does not: {fault}")
        if way is None:
            warning = f"it runs padded and unoptimised, which is slower: otherwise, {fault}"
            padded = PaddedForward(load(dtype))
            if dtype == torch.float16:  # the format with the smallest range: no text may be worth trying
                check_finite(padded(ids, packing).float().cpu().numpy(), f"model {folder.name!r} computed in float16")
            return ForwardChoice(padded, size, False, reentrant, warning=warning, vocabulary=vocabulary)
    shared = isinstance(way.forward, NativeForward)
    slower = None if way.packed else f"it runs padded, which is slower: packed, {fault}"
    return ForwardChoice(way.forward, size, way.packed, reentrant, shared, way.after, slower, vocabulary)


def choose_pair_forward(
    model: Any,
    score: Callable[[torch.Tensor], torch.Tensor],
    wanted: torch.Tensor,
    ids: torch.Tensor,
    packing: Packing,
    dtype: torch.dtype,
    *,
    limit: float,
    last: bool,
    reentrant: bool,
    exact: bool,
) -> ForwardChoice:
    """The first way to run a cross-encoder's body whose scores are those of the padded pass.

    Args:
        model: The body of a cross-encoder, in the `base_dtype` of its device.
        score: float32 ``[sequences, hidden]`` -> float32 ``[sequences]``.
        wanted: float32 ``[sequences]``: the padded pass's scores of the pairs tried.
        ids: Token ids of these pairs.
        packing: Where they lie, and their token types.
        dtype: Format to compute in.
        limit: The error that a way is allowed, relative to the scores' spread.
        last: Whether the last token of a sequence is scored, as decoders have it, and not the first.
        reentrant: Whether several threads may be inside the model at once.
        exact: Do not store float32 weights in float16.

    Raises:
        ConventionError: The model computes something else at every call, or cannot be computed in int8.
    """

    def error(forward: Forward) -> float:
        return _score_error(score(forward(ids, packing).float()), wanted)

    if dtype == torch.int8:
        quantized = OfEachSequence(int8_forward(model), last=last)
        _check_int8(error(quantized), limit)
        size, known = int(model.config.get_text_config().hidden_size), _vocabulary(model)
        return ForwardChoice(quantized, size, True, reentrant, shared=True, vocabulary=known)
    ways = _pair_ways(model, ids.device, dtype, exact, last)
    way, fault = _first_right(ways, error, limit)
    if way is None:
        raise ConventionError(f"the model computes something else at every call (is it in training mode?): {fault}")
    size = int(model.config.get_text_config().hidden_size)
    vocabulary = _vocabulary(model)
    return ForwardChoice(way.forward, size, way.packed, reentrant, after=way.after, vocabulary=vocabulary)


def _first_right(ways: Iterable[_Way], error: Callable[[Forward], float], limit: float) -> tuple[_Way | None, str]:
    """The first way within the limit, and what was wrong with the last one before it."""
    fault = "it was not tried"
    for way in ways:
        try:
            found = error(way.forward)
        except Exception as problem:  # noqa: BLE001  model code of any origin may refuse in any way
            fault = f"it failed with {type(problem).__name__}: {problem}"
            continue
        if found <= limit:
            return way, fault
        fault = f"its results differ by {found:.1%} from those of the padded pass"
    return None, fault


def _ways(
    model: Any,
    device: torch.device,
    dtype: torch.dtype,
    exact: bool,
    variant: Variant = AS_IT_IS,
    load: Callable[[torch.dtype], Any] | None = None,
    *,
    left: bool = False,
) -> Iterator[_Way]:
    """The ways to run a model, fastest first."""
    original = getattr(model.config, "_attn_implementation", None)
    plain = not (variant.weights or variant.stride[0] or variant.mean_layers)
    if load is not None and plain and PostNormModules.fits(model):
        if device.type == "cpu" and dtype == torch.float32 and not exact and NativeForward.fits(model):
            yield _Way(NativeForward(model), True)
        yield _Way(BertForward(model, device, dtype, exact=exact).compile(), True)
    casts = prepack(model, dtype, exact=exact) if device.type == "cpu" and not variant.weights else None
    if casts is None and not variant.weights:
        model = model.to(dtype)
    after = None if casts is None else casts.forget
    packed = PackedForward(model, variant)
    # Rounding changes when the layers do, and what other code does to them is not compiled.
    hooked = not plain or variant.groups or variant.prepending or variant.routing
    compiles = device.type == "cuda" and dtype != torch.float32 and not hooked and CompiledForward.fits(model)
    yield _Way(CompiledForward(packed, model) if compiles else packed, True, after)
    if casts is not None and load is not None:
        # Some models look into their linear layers, which prepacked ones do not allow.
        yield _Way(PackedForward(load(dtype), variant), True)
    model.set_attn_implementation(original or "sdpa")
    yield _Way(PaddedForward(model, left=left), False, after)


def _pair_ways(model: Any, device: torch.device, dtype: torch.dtype, exact: bool, last: bool) -> Iterator[_Way]:
    """The ways to the vectors that are scored, fastest first."""
    if not last and PostNormModules.fits(model):
        yield _Way(BertFirstTokens(model, device, dtype, exact=exact), True)
    for way in _ways(model, device, dtype, exact, left=last):
        yield _Way(OfEachSequence(way.forward, last=last), way.packed, way.after)


def _check_int8(error: float, limit: float) -> None:
    if not error <= limit:
        raise ConventionError(
            f"dtype='int8' is not for this model: its results differ by {error:.1%} from those in float32, and at most "
            f"{limit:.0%} is allowed; use dtype='auto'"
        )


def base_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The format to load weights in: float32 on CPU, where the stream around products in fewer bits keeps it."""
    return torch.float32 if device.type == "cpu" and dtype in (torch.float32, torch.bfloat16, torch.int8) else dtype


def tolerance(dtype: torch.dtype, exact: bool) -> float:
    """Relative error, against the padded pass in float32, that a way of running a model is allowed."""
    return _TOLERANCE[torch.float16 if dtype == torch.float32 and not exact else dtype]


def probe(
    model: Any, device: torch.device, max_tokens: int, *, pairs: bool = False, types: bool = True
) -> tuple[torch.Tensor, Packing]:
    """Made-up sequences of several lengths, one of them longer than the attention's window.

    Args:
        model: What will read them.
        device: Where.
        max_tokens: Longest sequence that it reads.
        pairs: Whether they are pairs.
        types: Whether token types distinguish the texts of a pair.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or getattr(config, "local_attention", None) or 0
    lengths = list(_PAIR_LENGTHS if pairs else _LENGTHS)
    if window and window < max_tokens:
        lengths.append(int(window) + 40)
    lengths = [min(length, max_tokens) for length in lengths]
    generator = torch.Generator().manual_seed(0)
    low = min(1000, config.vocab_size // 2)
    ids = torch.randint(low, config.vocab_size, (sum(lengths),), generator=generator)
    second = [length // 2 for length in lengths] if pairs and types else None
    return ids.to(device), Packing.of(lengths, device, second)


def _vocabulary(model: Any) -> int | None:
    embeddings = model.get_input_embeddings()
    return getattr(embeddings, "num_embeddings", None)


def reference_model(model: Any, limit: float) -> tuple[Any, float]:
    """The model in float32 and the limit; a model too large for a copy as it is, and twice the limit.

    Two passes of a deep model in bfloat16 may differ by nearly the limit although both are right.
    """
    if getattr(model, "is_quantized", False):
        return model, 2 * limit
    if model.dtype == torch.float32:
        return model, limit
    if 4 * sum(weight.numel() for weight in model.parameters()) > _REFERENCE_BYTES:
        return model, 2 * limit
    return copy.deepcopy(model).float(), limit


def _reference(model: Any, ids: torch.Tensor, packing: Packing, limit: float) -> tuple[torch.Tensor, float]:
    """The padded pass of `reference_model`, float32, and its limit."""
    exact, limit = reference_model(model, limit)
    return PaddedForward(exact)(ids, packing).float(), limit


def _relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    error = (torch.linalg.vector_norm(got - wanted) / torch.linalg.vector_norm(wanted)).item()
    return error if math.isfinite(error) else math.inf


def _score_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Root mean square error of scores ``[sequences]``, relative to their spread.

    Relative to the scores themselves an error would look small where all scores are close together, as with a large
    bias; a ranking depends on their differences.
    """
    error = (got - wanted).square().mean().sqrt() / wanted.std(correction=0).clamp(min=torch.finfo(wanted.dtype).tiny)
    return error.item() if torch.isfinite(error) else math.inf


def is_reentrant(model: Any, options: LoadOptions = SAFE) -> bool:
    """Whether several threads may be inside: not in foreign code, nor in a rotary embedding that remembers lengths."""
    config = model.config.get_text_config()
    ropes = str(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or "")
    return not options.trust_remote_code and "dynamic" not in ropes and "longrope" not in ropes


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
        UnsafeModelError: The model needs its own code or pickled weights, and the options do not allow it.
    """
    import transformers

    # The weights are here; allowed code may lie in another repository (Jina's and GTE's does).
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
    extra: dict[str, Any] = {"trust_remote_code": trusted} if loader is transformers.AutoModel else {}
    if variant.weights is not None:
        extra |= loading_arguments(variant.weights, device, dtype)
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
    model = variant.apply(model).eval()
    if variant.weights is None:  # quantised weights are where they belong
        model = model.to(device)
    if variant.prepending is not None:
        prepend(model, variant.prepending)
    if variant.mean_layers:
        mean_layers(model, variant.mean_layers)
    if variant.routing:
        join_routing(model, variant.routing)
    return model


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
