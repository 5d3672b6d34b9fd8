"""The head that computes a cross-encoder's score from a hidden state, found among those that transformers has."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch

from situate.errors import ConventionError

#: Token ids of a decoder's yes and no; without a no the score is the logit of yes.
Answers: TypeAlias = tuple[int, int | None]
#: float32 ``[sequences, hidden]`` -> float32 ``[sequences]``.
Head: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


def find_head(model: Any, hidden: torch.Tensor, wanted: torch.Tensor, answers: Answers | None) -> Head | None:
    """The head that computes ``wanted`` from ``hidden``, in float32; None if it is none of the known heads.

    Args:
        model: The cross-encoder.
        hidden: ``[sequences, hidden]``: hidden states that its head reads.
        wanted: float32 ``[sequences]``: the model's scores of the same.
        answers: Of a decoder.
    """
    for parts in _heads(model, answers):
        head = _frozen(parts)
        try:
            got = head(hidden.float())
        except Exception:  # noqa: BLE001, S112  a head of another shape may refuse in any way; the next one is tried
            continue
        if got.shape == wanted.shape and torch.allclose(got, wanted, rtol=1e-2, atol=1e-3):
            return head
    return None


def scores_of(out: Any, answers: Answers | None) -> torch.Tensor:
    """float32 ``[sequences]`` of a model's output; of two classes the log odds of the second.

    Raises:
        ConventionError: The model gives more than two logits.
    """
    logits: torch.Tensor = out.logits
    if answers is not None:
        yes, no = answers
        logits = logits[:, -1].float()
        return logits[:, yes] if no is None else logits[:, yes] - logits[:, no]
    if logits.ndim != 2 or logits.shape[1] not in (1, 2):
        raise ConventionError(
            f"this model gives logits of the shape {tuple(logits.shape)}: a reranker needs one score per pair, or two "
            "classes of which the second is relevant"
        )
    return _one_logit(logits)


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


def _one_logit(logits: torch.Tensor) -> torch.Tensor:
    """``[sequences]``; of two classes the log odds of the second, whose sigmoid is its softmax."""
    logits = logits.float()
    return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
