"""The ways to run a cross-encoder over packed pairs, and the choice of the fastest one that computes the same."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional

from situate.embedders.forward import attention as _attention
from situate.embedders.forward.bert import PostNormForward
from situate.embedders.forward.bert_weights import PostNormModules
from situate.embedders.forward.chooser import tolerance
from situate.embedders.forward.linears import Casts, prepack
from situate.embedders.forward.packing import Packing
from situate.embedders.local.openmp import computing
from situate.embedders.models.folder import OFFSET_POSITIONS
from situate.errors import ConventionError, NonFiniteVectorError

#: ids ``[tokens]``, their packing, which text each belongs to ``[tokens]`` -> ``[sequences, hidden]``.
Features = Callable[[torch.Tensor, Packing, torch.Tensor], torch.Tensor]
#: float32 ``[sequences, hidden]`` -> float32 ``[sequences]``.
Head = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class PairForward:
    """How a cross-encoder runs.

    Attributes:
        features: The vector of each pair that the head scores.
        head: That vector -> logit.
        size: Length of that vector.
        representation: Whether it is a hidden state (and not already the logit).
        packed: Whether no padding is computed.
        after: Called behind every batch.
    """

    features: Features
    head: Head
    size: int
    representation: bool
    packed: bool
    after: Callable[[], None] | None = None


def choose_pair_forward(
    model: Any,
    device: torch.device,
    dtype: torch.dtype,
    answers: tuple[int, int | None] | None,
    max_tokens: int,
    *,
    exact: bool = True,
) -> PairForward:
    """The first way that computes what the padded model computes, tried on made-up pairs.

    Args:
        model: A transformers model in the format that its weights should be read in: float32 on CPU.
        device: Where it runs.
        dtype: Format to compute in.
        answers: Of a decoder, the ids of yes and no.
        max_tokens: Longest sequence that will come.
        exact: Do not store float32 weights in float16.

    Raises:
        ConventionError: The model gives more than two logits.
        NonFiniteVectorError: It computes NaN or infinity.
    """
    base = model.base_model
    decoder = answers is not None
    padded = _Padded(model, base, decoder)
    ids, packing, types = _probe(model, device, max_tokens, pairs=not decoder)
    with computing():
        logits = padded.logits(ids, packing, types, answers)
        if not torch.isfinite(logits).all():
            raise NonFiniteVectorError(
                f"the cross-encoder computes NaN or infinity in {logits.dtype}: its weights are damaged, or the number "
                "format's range is too small for it; try dtype='float32'"
            )
        hidden = padded.hidden(ids, packing, types)
        head = None if hidden is None else _head(model, hidden, logits, answers)
        if hidden is None or head is None:

            def whole(ids: torch.Tensor, packing: Packing, types: torch.Tensor) -> torch.Tensor:
                return _one_logit(padded.logits(ids, packing, types, answers))[:, None]

            model.to(dtype)
            return PairForward(whole, lambda x: x[:, 0], 1, False, False)
        size = hidden.shape[1]
        wanted = _one_logit(logits)
        for features, casts, packed in _ways(base, padded, device, dtype, decoder, exact):
            try:
                error = _score_error(head(features(ids, packing, types).float()), wanted)
            except Exception:  # noqa: BLE001, S112  model code of any origin may refuse in any way; the next way is tried
                continue
            if error <= tolerance(dtype, exact):
                return PairForward(features, head, size, True, packed, None if casts is None else casts.forget)
    raise ConventionError("the model computes something else at every call: is it in training mode?")


class FirstTokens(PostNormForward):
    """BERT and its kin, of which only each sequence's first token is wanted.

    The last layer is computed for that token alone; the difference between a second and a first text is added by
    reading its positions from a second table.
    """

    def __init__(self, base: Any, device: torch.device, dtype: torch.dtype, *, exact: bool = True) -> None:
        super().__init__(base, device, dtype, exact=exact)
        self._last = self._layers.pop()
        self._shift = 0
        types = getattr(base.embeddings, "token_type_embeddings", None)
        if types is not None and len(types.weight) > 1:
            weight = types.weight.detach().float()
            self._shift = len(self._positions)
            difference = (weight[1] - weight[0]).to(self._positions)
            self._positions = torch.cat([self._positions, self._positions + difference])

    def features(self, ids: torch.Tensor, packing: Packing, types: torch.Tensor) -> torch.Tensor:
        """``[sequences, hidden]``: what the head reads."""
        if self._shift:
            packing = replace(packing, position_ids=packing.position_ids + types * self._shift)
        x = self(ids, packing)
        layer, first = self._last, packing.bounds[:-1].long()
        q, k, v = layer.inputs(x.to(self._dtype)).view(len(ids), 3, self._heads, -1).unbind(1)
        bias = self._relative_bias(packing.longest, x.device)
        seen = q.new_empty((len(packing.lengths), q.shape[1], 1, q.shape[2]))
        done = 0
        for run in packing.runs:
            tokens = slice(run.start, run.start + run.count * run.length)
            rows = slice(done, done + run.count)
            done += run.count
            keys, values = (t[tokens].reshape(run.count, run.length, *t.shape[1:]).transpose(1, 2) for t in (k, v))
            seen[rows] = functional.scaled_dot_product_attention(
                q[first[rows], :, None],
                keys,
                values,
                attn_mask=None if bias is None else bias[:, :1, : run.length].to(q.dtype),
                scale=_attention.BASE_2,
            )
        x = layer.output_norm(x[first] + layer.output(seen.flatten(1)))
        out: torch.Tensor = layer.down_norm(x + layer.down(layer.up(x.to(self._dtype))))
        return out


class _Packed:
    """A transformers model called on ``[1, all tokens]``, its attention replaced by one that knows the boundaries."""

    def __init__(self, base: Any, decoder: bool) -> None:
        _attention.register()
        base.set_attn_implementation(_attention.NAME)
        self._base = base
        self._decoder = decoder
        config = base.config
        self._first = int(config.pad_token_id or 0) + 1 if config.model_type in OFFSET_POSITIONS else 0
        self._takes = _takes(base)

    def __call__(self, ids: torch.Tensor, packing: Packing, types: torch.Tensor) -> torch.Tensor:
        given: dict[str, Any] = {"position_ids": (packing.position_ids + self._first)[None]}
        if "token_type_ids" in self._takes:
            given["token_type_ids"] = types[None]
        if "use_cache" in self._takes:
            given["use_cache"] = False
        hidden: torch.Tensor = self._base(input_ids=ids[None], packing=packing, **given).last_hidden_state[0]
        return hidden[packing.bounds[1:].long() - 1 if self._decoder else packing.bounds[:-1].long()]


class _Padded:
    """A transformers model called as everybody calls it: the reference."""

    def __init__(self, model: Any, base: Any, decoder: bool) -> None:
        self._model, self._base, self._decoder = model, base, decoder
        self._pad = int(getattr(model.config, "pad_token_id", None) or 0)

    def logits(
        self, ids: torch.Tensor, packing: Packing, types: torch.Tensor, answers: tuple[int, int | None] | None
    ) -> torch.Tensor:
        """``[sequences, labels]``."""
        given = self._given(ids, packing, types, _takes(self._model))
        if answers is None:
            return _labels(self._model(**given).logits)
        logits: torch.Tensor = self._model(**given, logits_to_keep=1).logits[:, -1]
        yes, no = answers
        return (logits[:, yes] if no is None else logits[:, yes] - logits[:, no])[:, None]

    def hidden(self, ids: torch.Tensor, packing: Packing, types: torch.Tensor) -> torch.Tensor | None:
        """``[sequences, hidden]`` of the token that the head reads."""
        if self._base is self._model:
            return None
        out = self._base(**self._given(ids, packing, types, _takes(self._base)))
        hidden: torch.Tensor | None = getattr(out, "last_hidden_state", None)
        return None if hidden is None else hidden[:, -1 if self._decoder else 0]

    def __call__(self, ids: torch.Tensor, packing: Packing, types: torch.Tensor) -> torch.Tensor:
        hidden = self.hidden(ids, packing, types)
        assert hidden is not None
        return hidden

    def _given(self, ids: torch.Tensor, packing: Packing, types: torch.Tensor, takes: set[str]) -> dict[str, Any]:
        at = torch.arange(packing.longest, device=ids.device)
        sizes = packing.bounds.diff()[:, None]
        # a decoder's last token has to stand last
        mask = at >= packing.longest - sizes if self._decoder else at < sizes
        padded = ids.new_full(mask.shape, self._pad)
        padded[mask] = ids
        given: dict[str, Any] = {"input_ids": padded, "attention_mask": mask.long()}
        if "token_type_ids" in takes:
            given["token_type_ids"] = padded.new_zeros(mask.shape)
            given["token_type_ids"][mask] = types
        if self._decoder:
            given["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
        if "use_cache" in takes:
            given["use_cache"] = False
        return given


def _ways(
    base: Any, padded: _Padded, device: torch.device, dtype: torch.dtype, decoder: bool, exact: bool
) -> Iterator[tuple[Features, Casts | None, bool]]:
    """The ways to run a model, fastest first; whether each packs."""
    original = getattr(base.config, "_attn_implementation", None) or "sdpa"
    if not decoder and PostNormModules.fits(base):
        yield FirstTokens(base, device, dtype, exact=exact).features, None, True
    casts = prepack(base, dtype, exact=exact) if device.type == "cpu" else None
    if casts is None:
        base.to(dtype)
    yield _Packed(base, decoder), casts, True
    base.set_attn_implementation(original)
    yield padded, casts, False


def _head(
    model: Any, hidden: torch.Tensor, logits: torch.Tensor, answers: tuple[int, int | None] | None
) -> Head | None:
    """What makes the logit out of the hidden state, in float32; None if it is none of the known ones."""
    wanted = _one_logit(logits)
    for parts in _heads(model, answers):
        head = _frozen(parts)
        try:
            got = head(hidden.float())
        except Exception:  # noqa: BLE001, S112  a head of another shape may refuse in any way; the next one is tried
            continue
        if got.shape == wanted.shape and torch.allclose(got, wanted, rtol=1e-2, atol=1e-3):
            return head
    return None


def _heads(model: Any, answers: tuple[int, int | None] | None) -> Iterator[list[Any]]:
    """Chains of modules that transformers puts behind its encoders, BERT's first."""
    if answers is not None:
        weight = model.get_output_embeddings().weight.detach().float()
        yes, no = answers
        row = weight[yes] if no is None else weight[yes] - weight[no]
        yield [lambda x: (x @ row)[:, None]]
        return
    base = model.base_model
    classifier = getattr(model, "classifier", None) or getattr(model, "score", None)
    if classifier is None:
        return
    pooler = getattr(base, "pooler", None)
    if pooler is not None:
        yield [_unsqueezed, pooler, classifier]
    if hasattr(model, "pre_classifier"):
        yield [model.pre_classifier, torch.relu, classifier]
    if hasattr(model, "head"):
        yield [model.head, classifier]
    yield [_unsqueezed, classifier]
    yield [classifier]


def _frozen(parts: list[Any]) -> Head:
    """The modules one after the other, copied, because the model itself is changed later."""
    chain = [copy.deepcopy(p).float().eval() if isinstance(p, torch.nn.Module) else p for p in parts]

    def head(x: torch.Tensor) -> torch.Tensor:
        for part in chain:
            x = part(x)
        return _one_logit(x)

    return head


def _unsqueezed(x: torch.Tensor) -> torch.Tensor:
    return x[:, None]


def _labels(logits: torch.Tensor) -> torch.Tensor:
    if logits.ndim != 2 or logits.shape[1] not in (1, 2):
        raise ConventionError(
            f"this model gives logits of the shape {tuple(logits.shape)}: a reranker needs one score per pair, or two "
            "classes of which the second is relevant"
        )
    return logits


def _one_logit(logits: torch.Tensor) -> torch.Tensor:
    """``[sequences]``; of two classes the log odds of the second, whose sigmoid is its softmax."""
    logits = logits.float()
    return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]


def _takes(model: Any) -> set[str]:
    """What a model's forward takes; token types only where they make a difference."""
    names = set(inspect.signature(model.forward).parameters)
    if (getattr(model.config, "type_vocab_size", 0) or 0) < 2:
        names.discard("token_type_ids")
    return names


def _probe(
    model: Any, device: torch.device, max_tokens: int, pairs: bool
) -> tuple[torch.Tensor, Packing, torch.Tensor]:
    """Made-up pairs: enough for their scores to spread, two of one length, one longer than the attention's window."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or getattr(config, "local_attention", None) or 0
    lengths = [6, 33, 33, 12, 20, 50, 9, 41, 17, 28, 5, 26]
    if window and window < max_tokens:
        lengths.append(int(window) + 40)
    lengths = [min(length, max_tokens) for length in lengths]
    generator = torch.Generator().manual_seed(0)
    low = min(1000, config.vocab_size // 2)
    ids = torch.randint(low, config.vocab_size, (sum(lengths),), generator=generator)
    types = torch.cat([(torch.arange(length) >= length // 2).long() * pairs for length in lengths])
    return ids.to(device), Packing.of(lengths, device), types.to(device)


def _score_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Root mean square error of scores ``[sequences]``, relative to their spread.

    Relative to the scores themselves an error would look small wherever all pairs score alike, as those of a model
    with a large bias do; what a ranking needs is their differences.
    """
    error = (got - wanted).square().mean().sqrt() / wanted.std(correction=0).clamp(min=torch.finfo(wanted.dtype).tiny)
    return error.item() if torch.isfinite(error) else math.inf
