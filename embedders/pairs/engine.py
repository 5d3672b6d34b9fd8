"""Token ids of pairs -> logits, in the batches of a `Scheduler`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from situate.embedders.forward.chooser import (
    ForwardChoice,
    OfEachSequence,
    base_dtype,
    choose_pair_forward,
    probe,
    reference_model,
    tolerance,
)
from situate.embedders.forward.cores import computing
from situate.embedders.forward.modules import PaddedForward
from situate.embedders.forward.packing import Packing, on_device
from situate.embedders.local.engine import Engine
from situate.embedders.local.scheduler import Job
from situate.embedders.models.files import loading
from situate.embedders.models.resolve import SAFE, LoadOptions
from situate.embedders.pairs.heads import Answers, Head, find_head, scores_of
from situate.embedders.text.requests import PoolingRequest
from situate.embedders.types import Vectors
from situate.errors import ConventionError, ModelError
from situate.vectors import check_finite


class PairEngine(Engine):
    """A cross-encoder on one device; `Engine` makes batches, halves them on out-of-memory and writes results.

    A pair is a sequence with one segment, which is its second text; its result is one logit, or the hidden state
    that the logit is made of.

    Args:
        model: The transformers model, in the `base_dtype` of its device.
        device: Where it runs.
        dtype: Format to compute in; the head is float32 always.
        answers: Of a decoder, the token ids of yes and no.
        max_tokens: Longest sequence that it is given.
        batch_tokens: Most tokens of one pass; None: a number that suits the device.
        representation: Return hidden states instead of logits.
        reentrant: Whether several threads may run the model at once.
        exact: Do not store float32 weights in float16, which is faster on some CPUs.

    Raises:
        ConventionError: The model gives more than two logits, or its head is not known and ``representation`` is on.
        NonFiniteVectorError: It computes NaN or infinity.
    """

    def __init__(
        self,
        model: Any,
        device: torch.device,
        dtype: torch.dtype,
        *,
        answers: Answers | None,
        max_tokens: int,
        batch_tokens: int | None,
        representation: bool,
        reentrant: bool,
        exact: bool,
    ) -> None:
        self.head: Head | None = None
        decoder = answers is not None
        base = model.base_model
        ids, packing = probe(model, device, max_tokens, pairs=True, types=not decoder)
        with computing():
            own = _scores(model, ids, packing, answers)
            check_finite(own.cpu().numpy(), f"the cross-encoder computes in {model.dtype}")
            reference, limit = reference_model(model, tolerance(dtype, exact))
            wanted = own if reference is model else _scores(reference, ids, packing, answers)
            if base is not model:
                padded = PaddedForward(reference.base_model, left=decoder)
                hidden = OfEachSequence(padded, last=decoder)(ids, packing)
                self.head = find_head(reference, hidden, wanted, answers)
                del padded
            del reference
            if self.head is not None:
                choice = choose_pair_forward(
                    base,
                    self.head,
                    wanted,
                    ids,
                    packing,
                    dtype,
                    limit=limit,
                    last=decoder,
                    reentrant=reentrant,
                    exact=exact,
                )
            elif dtype == torch.int8:
                raise ConventionError(
                    "dtype='int8' cannot be used: the model's head could not be separated from its encoder; use "
                    "dtype='auto'"
                )
            elif representation:
                raise ConventionError(
                    "the model's head could not be separated from its encoder, which the aggregation 'parade' needs; "
                    "choose 'max', 'first' or 'sum'"
                )
            else:
                model.to(dtype)
                choice = ForwardChoice(
                    lambda ids, packing: _scores(model, ids, packing, answers)[:, None], 1, False, reentrant
                )
        # On CPU a batch's activations should stay in the cache; a GPU needs large batches.
        super().__init__(choice, device, batch_tokens or (4096 if device.type == "cpu" else 32768))
        self._representation = representation
        self.hidden_size = choice.hidden_size if representation else 1

    def logits(self, representations: Vectors) -> Vectors:
        """float32 ``[pairs, hidden]`` -> float32 ``[pairs]``."""
        assert self.head is not None
        with computing():
            out: Vectors = self.head(torch.from_numpy(representations).to(self.device)).cpu().numpy()
        return out

    def _pass(self, rows: list[tuple[Job, int]]) -> None:
        sequences = [job.request.sequences[i] for job, i in rows]
        second = [int(job.request.segments[i, 1]) for job, i in rows]
        packing = Packing.of([len(ids) for ids in sequences], self.device, second)
        ids = on_device(np.concatenate(sequences), self.device)
        self._check_ids(sequences)
        with torch.inference_mode():
            features = self.choice.forward(ids, packing).float()
            if self.head is not None and not self._representation:
                features = self.head(features)[:, None]
            if self.choice.after is not None:
                self.choice.after()

        def write(values: Vectors) -> None:
            for (job, i), value in zip(rows, values, strict=True):
                job.result.reduced[i] = value

        self._deliver(features, write)


def _scores(model: Any, ids: torch.Tensor, packing: Packing, answers: Answers | None) -> torch.Tensor:
    """float32 ``[sequences]`` by the padded model."""
    decoder = answers is not None
    inputs = PaddedForward(model, left=decoder).inputs(ids, packing)
    return scores_of(model(**inputs, **({"logits_to_keep": 1} if decoder else {})), answers)


def pair_request(sequences: Sequence[NDArray[np.int64]], second: NDArray[np.int64]) -> PoolingRequest:
    """The `Scheduler` request for these pairs; their second texts begin at ``second``."""
    ends = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
    at = np.arange(len(sequences), dtype=np.int64)
    segments = np.column_stack([at, second, ends, np.zeros_like(at)])
    return PoolingRequest(
        sequences=sequences, segments=segments, reduction="sum", kept=np.zeros((0, 3), dtype=np.int64)
    )


def load_cross_encoder(folder: Path, device: torch.device, dtype: torch.dtype, options: LoadOptions = SAFE) -> Any:
    """sentence-transformers' `CrossEncoder` of a local folder.

    Raises:
        ModelError: It cannot be loaded, or the weights of its head are not in the folder.
    """
    from sentence_transformers import CrossEncoder

    with loading("the cross-encoder", folder):
        encoder = CrossEncoder(
            str(folder),
            device=str(device),
            local_files_only=True,
            trust_remote_code=options.trust_remote_code,
            model_kwargs={
                "dtype": base_dtype(device, dtype),
                **({} if options.allow_pickle else {"use_safetensors": True}),
            },
        )
    _check_head(folder, encoder.model)
    return encoder


def _check_head(folder: Path, model: Any) -> None:
    """Refuse a model whose head transformers filled with random numbers, as it does for an embedding model's folder."""
    from safetensors import safe_open

    kept: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            kept.update(tensors.keys())
    base = f"{model.base_model_prefix}."
    heads = [name for name, _ in model.named_parameters() if not name.startswith(base) or ".pooler." in name]
    lost = [name for name in heads if name not in kept and name.removeprefix(base) not in kept]
    if kept and lost:
        raise ModelError(
            f"{str(folder)!r} holds no weights for what gives the scores ({lost[0]}, say), which would be random: it "
            "is an embedding model or incomplete. Name a cross-encoder (cross-encoder/ms-marco-MiniLM-L6-v2, say)"
        )
