"""MonoT5Model: an encoder-decoder that answers true or false about a pair (Nogueira et al. 2020)."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from situate.chunkers.errors import InputError, NonFiniteVectorError
from situate.embedders._pairs import Pair
from situate.embedders.cross_encoder import PairScores
from situate.embedders.models import resolve_model

#: A longer text is never read to its end by a model of 512 tokens.
_LONGEST = 20_000


class MonoT5Model:
    """A T5 reranker ("Query: ... Document: ... Relevant:" -> true or false), as a `PairScorer`.

    The score is the softmax of "true" against "false" as the first word of the answer, in [0, 1]. Passages beyond the
    model's length are cut, and what is lost is counted. Out of memory halves a batch.

    Args:
        model: A model folder or hub id.
        true: The word of a relevant passage; "▁true" of castorini's monoT5.
        false: The word of an irrelevant one.
        max_tokens: Tokens that are read of a pair.
        batch_tokens: Most tokens of one pass, padding included.
        device: "auto", or a torch device.
        dtype: Format to compute in; T5 overflows in float16. "auto" is bfloat16 on CUDA, else float32.
        revision: A branch, tag or commit of the hub's repository.
        allow_pickle: Read pickled weights, which can run any code.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "castorini/monot5-base-msmarco",
        *,
        true: str = "▁true",
        false: str = "▁false",
        max_tokens: int = 512,
        batch_tokens: int = 8192,
        device: str = "auto",
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        revision: str | None = None,
        allow_pickle: bool = False,
    ) -> None:
        if max_tokens < 16 or batch_tokens < 1:
            raise InputError(f"max_tokens={max_tokens} must be 16 or more, and batch_tokens={batch_tokens} 1 or more")
        self.model = os.fspath(model)
        self.true = true
        self.false = false
        self.max_tokens = max_tokens
        self.batch_tokens = batch_tokens
        self.device = device
        self.dtype = dtype
        self.revision = revision
        self.allow_pickle = allow_pickle
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._loaded: tuple[Any, Any, list[int]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_loaded")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def score(self, pairs: Sequence[Pair]) -> PairScores:
        """One score per (query, passage), in order.

        Raises:
            ModelNotFoundError: There is no such model.
            InputError: The model's vocabulary has no such answers.
            NonFiniteVectorError: It computed NaN or infinity.
        """
        ones = np.ones(len(pairs), dtype=np.int64)
        if not pairs:
            return PairScores(np.zeros(0, dtype=np.float32), ones, 0, 0)
        with self._lock:  # one owner of the device
            model, tokenizer, answers = self._loaded = self._loaded or self._load()
            sequences, lost = self._written(tokenizer, pairs)
            scores = np.zeros(len(pairs), dtype=np.float32)
            order = sorted(range(len(pairs)), key=lambda i: -len(sequences[i]))
            start = 0
            while start < len(order):
                size = max(1, self.batch_tokens // len(sequences[order[start]]))
                rows = order[start : start + size]
                scores[rows] = _probabilities(model, [sequences[i] for i in rows], answers)
                start += size
        if not np.isfinite(scores).all():
            raise NonFiniteVectorError(f"model {self.model!r} computed NaN or infinity; try dtype='float32'")
        return PairScores(scores, ones, sum(map(len, sequences)), lost)

    async def ascore(self, pairs: Sequence[Pair]) -> PairScores:
        """`score` in a thread."""
        return await asyncio.to_thread(self.score, pairs)

    def _written(self, tokenizer: Any, pairs: Sequence[Pair]) -> tuple[list[list[int]], int]:
        """Token ids of each pair, the passage cut so that the question behind it is always read."""
        tail = tokenizer(" Relevant:")["input_ids"]
        sequences: list[list[int]] = []
        lost = 0
        for query, passage in pairs:
            head = tokenizer(f"Query: {query[:_LONGEST]} Document:", add_special_tokens=False)["input_ids"]
            cut = head[: self.max_tokens // 2]
            body = tokenizer(passage[:_LONGEST], add_special_tokens=False)["input_ids"]
            room = self.max_tokens - len(cut) - len(tail)
            lost += len(head) - len(cut) + max(0, len(body) - room) + max(0, len(passage) - _LONGEST) // 4
            sequences.append([*cut, *body[:room], *tail])
        return sequences, lost

    def _load(self) -> tuple[Any, Any, list[int]]:
        resolved = resolve_model(self.model, self.revision, allow_pickle=self.allow_pickle)
        resolved.check_safe(allow_pickle=self.allow_pickle)
        import torch
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        from situate.embedders._devices import chosen_device

        device = chosen_device(self.device)
        fast = self.dtype == "bfloat16" or (self.dtype == "auto" and device.type == "cuda")
        tokenizer: Any = AutoTokenizer.from_pretrained(str(resolved.path), local_files_only=True)
        tokenizer.model_max_length = 10**9  # the length is kept here, where what is lost is counted
        answers = [tokenizer.convert_tokens_to_ids(word) for word in (self.true, self.false)]
        if any(answer is None or answer == tokenizer.unk_token_id for answer in answers):
            raise InputError(
                f"model {self.model!r} has no tokens {self.true!r} and {self.false!r}: pass true= and false=, the "
                "answers that its model card names"
            )
        model = AutoModelForSeq2SeqLM.from_pretrained(
            str(resolved.path),
            local_files_only=True,
            dtype=torch.bfloat16 if fast else torch.float32,
            use_safetensors=None if self.allow_pickle else True,
        )
        return model.to(device).eval(), tokenizer, answers


def _probabilities(model: Any, sequences: Sequence[Sequence[int]], answers: list[int]) -> Any:
    """float32 ``[sequences]``; on out of memory in halves."""
    import torch

    try:
        longest = max(map(len, sequences))
        ids = torch.full((len(sequences), longest), int(model.config.pad_token_id or 0))
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        start = torch.full((len(sequences), 1), int(model.config.decoder_start_token_id or 0))
        with torch.inference_mode():
            logits = model(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                decoder_input_ids=start.to(model.device),
                use_cache=False,
            ).logits[:, 0, answers]
        return logits.float().softmax(-1)[:, 0].cpu().numpy()
    except (torch.OutOfMemoryError, MemoryError):
        if len(sequences) == 1:
            raise
        half = len(sequences) // 2
        return np.concatenate([_probabilities(model, part, answers) for part in (sequences[:half], sequences[half:])])
