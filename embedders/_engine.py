"""Token ids -> pooled token vectors, in torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from situate.embedders._tokens import Ids
from situate.embedders.types import Vectors

Reduction = Literal["sum", "weighted", "max"]


@dataclass(frozen=True, slots=True)
class Work:
    """What an engine is asked for.

    Attributes:
        sequences: Token ids of each pass.
        segments: int64 ``[segments, 4]``: sequence, first token, one past the last token, weight of the first.
        reduction: What becomes of a segment's token vectors: their sum, their sum weighted by position, their maximum.
        kept: int64 ``[kept, 3]``: sequence, first token, one past the last token, of token vectors to hand back.
    """

    sequences: Sequence[Ids]
    segments: NDArray[np.int64]
    reduction: Reduction
    kept: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Done:
    """What an engine hands back.

    Attributes:
        reduced: float32 ``[segments, hidden]``.
        kept: Per row of ``Work.kept``, float32 ``[tokens, hidden]``.
    """

    reduced: Vectors
    kept: list[Vectors]


class Engine:
    """A transformers model on one device. Not thread-safe: one thread owns it.

    Args:
        folder: The model's folder.
        device: Where it runs.
        dtype: Format of its weights; pooling is float32 always.
        trust_remote_code: Run the folder's own Python files.
        allow_pickle: Read pickled weights.
        batch_tokens: Most tokens of one pass over the model, padding included.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        dtype: torch.dtype,
        *,
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
        batch_tokens: int = 4096,
    ) -> None:
        self.device = device
        self.batch_tokens = batch_tokens
        self.model = load_model(folder, device, dtype, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
        self.hidden_size = int(self.model.config.get_text_config().hidden_size)
        self._pad = int(getattr(self.model.config, "pad_token_id", None) or 0)

    def run(self, work: Work) -> Done:
        """Run every sequence once and reduce what was asked for."""
        lengths = np.array([len(ids) for ids in work.sequences], dtype=np.int64)
        reduced = np.zeros((len(work.segments), self.hidden_size), dtype=np.float32)
        kept: list[Vectors] = [np.zeros((0, self.hidden_size), dtype=np.float32)] * len(work.kept)
        with torch.inference_mode():
            for batch in batches(lengths, self.batch_tokens):
                self._run_batch(work, batch, lengths, reduced, kept)
        return Done(reduced, kept)

    def _run_batch(
        self, work: Work, batch: NDArray[np.int64], lengths: NDArray[np.int64], reduced: Vectors, kept: list[Vectors]
    ) -> None:
        hidden = self._padded([work.sequences[i] for i in batch])
        offsets = np.full(len(lengths), -1, dtype=np.int64)
        offsets[batch] = np.cumsum(lengths[batch]) - lengths[batch]
        rows = np.flatnonzero(offsets[work.segments[:, 0]] >= 0)
        if len(rows):
            chosen = work.segments[rows]
            reduced[rows] = reduce_segments(hidden, chosen, offsets[chosen[:, 0]], work.reduction).cpu().numpy()
        for row in np.flatnonzero(offsets[work.kept[:, 0]] >= 0) if len(work.kept) else ():
            sequence, start, end = work.kept[row]
            at = offsets[sequence]
            kept[row] = hidden[at + start : at + end].float().cpu().numpy()

    def _padded(self, sequences: Sequence[Ids]) -> torch.Tensor:
        """Token vectors ``[all tokens, hidden]`` of the sequences, one behind the other."""
        longest = max(len(ids) for ids in sequences)
        ids = torch.full((len(sequences), longest), self._pad, dtype=torch.long)
        mask = torch.zeros((len(sequences), longest), dtype=torch.long)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.from_numpy(np.asarray(sequence))
            mask[row, : len(sequence)] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        output: torch.Tensor = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return output[mask.bool()]


def batches(lengths: NDArray[np.int64], budget: int) -> list[NDArray[np.int64]]:
    """Sequences in order of length, longest first, cut where a padded batch would hold more than ``budget`` tokens."""
    order = np.argsort(-lengths, kind="stable")
    found: list[NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        size = max(1, budget // max(1, int(lengths[order[start]])))
        found.append(order[start : start + size])
        start += size
    return found


def reduce_segments(
    hidden: torch.Tensor, segments: NDArray[np.int64], offsets: NDArray[np.int64], reduction: Reduction
) -> torch.Tensor:
    """float32 ``[segments, hidden]`` of packed token vectors, whatever their format.

    Args:
        hidden: ``[tokens, hidden]``.
        segments: As in `Work`.
        offsets: Where each segment's sequence begins in ``hidden``.
    """
    sizes = segments[:, 2] - segments[:, 1]
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    source = torch.from_numpy(np.repeat(offsets + segments[:, 1], sizes) + within).to(hidden.device)
    target = torch.from_numpy(np.repeat(np.arange(len(segments)), sizes)).to(hidden.device)
    tokens = hidden[source].float()
    if reduction == "weighted":
        weights = np.repeat(segments[:, 3], sizes) + within
        tokens = tokens * torch.from_numpy(weights.astype(np.float32)).to(hidden.device)[:, None]
    if reduction == "max":
        out = tokens.new_full((len(segments), hidden.shape[1]), float("-inf"))
        return out.index_reduce_(0, target, tokens, "amax")
    return tokens.new_zeros((len(segments), hidden.shape[1])).index_add_(0, target, tokens)


def load_model(
    folder: Path, device: torch.device, dtype: torch.dtype, *, trust_remote_code: bool, allow_pickle: bool
) -> Any:
    """The transformers model of a folder, for inference; of an encoder-decoder only the encoder."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=trust_remote_code
    )
    classes = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
    factory = getattr(transformers, classes.get(config.model_type, "AutoModel"))
    extra = {} if config.model_type in classes else {"trust_remote_code": trust_remote_code}
    model = factory.from_pretrained(
        str(folder),
        config=config,
        dtype=dtype,
        local_files_only=True,
        use_safetensors=None if allow_pickle else True,
        **extra,
    )
    return model.to(device).eval()
