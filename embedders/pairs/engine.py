"""Token ids of pairs -> logits, in the batches of a `Scheduler`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from situate.embedders.forward.packing import Packing
from situate.embedders.forward.pair_forward import PairForward, choose_pair_forward
from situate.embedders.local.cores import Crew
from situate.embedders.local.engine import Engine
from situate.embedders.local.openmp import computing
from situate.embedders.local.scheduler import Job, Work
from situate.embedders.models.files import loading
from situate.embedders.models.resolve import SAFE, LoadOptions
from situate.embedders.types import Vectors
from situate.errors import ModelError


class PairEngine(Engine):
    """A cross-encoder on one device; batches, halving on out-of-memory and results are `Engine`'s.

    A pair is a sequence with one segment, which is its second text; its result is one logit, or the hidden state
    that the logit is made of.

    Args:
        model: The transformers model.
        device: Where it runs.
        dtype: Format to compute in; the head is float32 always.
        answers: Of a decoder, the token ids of yes and no.
        max_tokens: Longest sequence that will come.
        batch_tokens: Most tokens of one pass; None: what suits the device.
        representation: Hand back hidden states instead of logits.
        reentrant: Whether several threads may be inside the model at once.
        exact: Do not store float32 weights in float16, which is faster on some CPUs.
    """

    def __init__(
        self,
        model: Any,
        device: torch.device,
        dtype: torch.dtype,
        *,
        answers: tuple[int, int | None] | None,
        max_tokens: int,
        batch_tokens: int | None,
        representation: bool,
        reentrant: bool,
        exact: bool,
    ) -> None:
        self.device = device
        self.pair: PairForward = choose_pair_forward(model, device, dtype, answers, max_tokens, exact=exact)
        self.packed = self.pair.packed
        self._representation = representation and self.pair.representation
        self.hidden_size = self.pair.size if self._representation else 1
        # On CPU a batch's activations should stay in the cache; a GPU wants to be full.
        self.batch_tokens = batch_tokens or (4096 if device.type == "cpu" else 32768)
        self._crew = Crew() if device.type == "cpu" and reentrant else None
        self._shared = False
        self._unwritten = []

    def logits(self, representations: Vectors) -> Vectors:
        """float32 ``[pairs, hidden]`` -> float32 ``[pairs]``."""
        with computing():
            out: Vectors = self.pair.head(torch.from_numpy(representations).to(self.device)).cpu().numpy()
        return out

    def _run(self, rows: list[tuple[Job, int]]) -> None:
        sequences = [job.work.sequences[i] for job, i in rows]
        second = [int(job.work.segments[i, 1]) for job, i in rows]
        packing = Packing.of([len(ids) for ids in sequences], self.device)
        ids = torch.from_numpy(np.concatenate(sequences)).to(self.device)
        starts = torch.tensor(second, device=self.device).repeat_interleave(packing.bounds.diff().long())
        types = (packing.position_ids >= starts).long()
        with torch.inference_mode():
            features = self.pair.features(ids, packing, types).float()
            if not self._representation:
                features = self.pair.head(features)[:, None]
            if self.pair.after is not None:
                self.pair.after()
        values = features.cpu().numpy()
        for (job, i), value in zip(rows, values, strict=True):
            job.result.reduced[i] = value


def pair_work(sequences: Sequence[NDArray[np.int64]], second: NDArray[np.int64]) -> Work:
    """What a `Scheduler` is handed for these pairs; their second texts begin at ``second``."""
    ends = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
    at = np.arange(len(sequences), dtype=np.int64)
    segments = np.column_stack([at, second, ends, np.zeros_like(at)])
    return Work(sequences=sequences, segments=segments, reduction="sum", kept=np.zeros((0, 3), dtype=np.int64))


def load_cross_encoder(folder: Path, device: torch.device, dtype: torch.dtype, options: LoadOptions = SAFE) -> Any:
    """sentence-transformers' `CrossEncoder` of a local folder.

    Raises:
        ModelError: It cannot be loaded, or the weights of what scores are not in the folder.
    """
    from sentence_transformers import CrossEncoder

    # On CPU everything starts from float32, so that what surrounds bfloat16 products can stay float32.
    base = torch.float32 if device.type == "cpu" and dtype in (torch.float32, torch.bfloat16) else dtype
    with loading("the cross-encoder", folder):
        encoder = CrossEncoder(
            str(folder),
            device=str(device),
            local_files_only=True,
            trust_remote_code=options.trust_remote_code,
            model_kwargs={"dtype": base, **({} if options.allow_pickle else {"use_safetensors": True})},
        )
    _check_head(folder, encoder.model)
    return encoder


def _check_head(folder: Path, model: Any) -> None:
    """Refuse a model whose head transformers made of random numbers, as it does of an embedding model's folder."""
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
