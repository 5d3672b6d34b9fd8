"""Encoder-decoders that answer true or false: about a pair (monoT5), about which of two passages is better (duoT5).

Nogueira et al. 2020, "Document Ranking with a Pretrained Sequence-to-Sequence Model"; Pradeep et al. 2021, "The
Expando-Mono-Duo Design Pattern for Text Ranking with Pretrained Sequence-to-Sequence Models".
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np

from situate.embedders.models.files import loading
from situate.embedders.models.resolve import LoadOptions, resolve_model
from situate.embedders.pairs.cross_encoder import PairScores
from situate.embedders.pairs.tokens import Pair
from situate.errors import InputError
from situate.parameters import checked_parameters
from situate.threads import OwnedLock
from situate.vectors import check_finite

#: A model of 512 tokens never reads a longer text to its end.
_LONGEST = 20_000

#: A query, a passage and another one.
Duel: TypeAlias = tuple[str, str, str]


@runtime_checkable
class DuelScorer(Protocol):
    """A scorer of which of two passages answers a query better; a server, say."""

    def compare(self, duels: Sequence[Duel]) -> PairScores:
        """Per duel the probability that the first passage is the better one, in order."""
        ...

    async def acompare(self, duels: Sequence[Duel]) -> PairScores:
        """`compare` without blocking the event loop."""
        ...


class _TrueOrFalse:
    """A T5 that reads a query with one or two passages and answers true or false.

    The score is the softmax of "true" against "false" as the first word of the answer, in [0, 1]. Passages beyond the
    model's length are cut, and the lost tokens are counted. Out of memory halves a batch.

    Args:
        model: A model folder or hub id; None for castorini's.
        true: The word of a relevant passage; "▁true" of castorini's monoT5.
        false: The word of an irrelevant one.
        max_tokens: Tokens that are read of a pair.
        batch_tokens: Most tokens of one pass, padding included.
        device: "auto", or a torch device.
        dtype: Format to compute in; T5 overflows in float16. "auto" is bfloat16 on CUDA, else float32.
        revision: A branch, tag or commit of the hub's repository.
        allow_pickle: Read pickled weights, which can run any code.
    """

    #: What stands before each passage.
    _labels: tuple[str, ...]
    _default: str

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
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
        self.model = os.fspath(self._default if model is None else model)
        self.true = true
        self.false = false
        self.max_tokens = max_tokens
        self.batch_tokens = batch_tokens
        self.device = device
        self.dtype = dtype
        self.load_options = LoadOptions(revision, allow_pickle=allow_pickle)
        self._forget()

    def _forget(self) -> None:
        self._lock = OwnedLock("reranking")
        self._loaded: tuple[Any, Any, list[int]] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r}, device={self.device!r}, dtype={self.dtype!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_loaded")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _answered(self, questions: Sequence[tuple[str, ...]]) -> PairScores:
        """Per question the probability of true."""
        ones = np.ones(len(questions), dtype=np.int64)
        if not questions:
            return PairScores(np.zeros(0, dtype=np.float32), ones, 0, 0)
        with self._lock:  # one owner of the device
            model, tokenizer, answers = self._loaded = self._loaded or self._load()
            sequences, lost = self._written(tokenizer, questions)
            scores = np.zeros(len(questions), dtype=np.float32)
            order = sorted(range(len(questions)), key=lambda i: -len(sequences[i]))
            start = 0
            while start < len(order):
                size = max(1, self.batch_tokens // len(sequences[order[start]]))
                rows = order[start : start + size]
                scores[rows] = _probabilities(model, [sequences[i] for i in rows], answers)
                start += size
        check_finite(scores, f"model {self.model!r} computed")
        return PairScores(scores, ones, sum(map(len, sequences)), lost)

    def _head(self, query: str) -> str:
        """What stands before the first passage."""
        return f"Query: {query} {self._labels[0]}"

    def _written(self, tokenizer: Any, questions: Sequence[tuple[str, ...]]) -> tuple[list[list[int]], int]:
        """Token ids of each question, and how many were left out.

        The query keeps at most half of the room, the passages share the rest; the question behind them is always read.
        """
        tail = tokenizer(" Relevant:")["input_ids"]
        labels = [tokenizer(f" {label}", add_special_tokens=False)["input_ids"] for label in self._labels[1:]]
        fixed = len(tail) + sum(map(len, labels))
        sequences: list[list[int]] = []
        lost = 0
        for query, *passages in questions:
            head = tokenizer(self._head(query[:_LONGEST]), add_special_tokens=False)["input_ids"]
            cut = head[: self.max_tokens // 2]
            bodies = [tokenizer(p[:_LONGEST], add_special_tokens=False)["input_ids"] for p in passages]
            rooms = _shared([len(body) for body in bodies], self.max_tokens - len(cut) - fixed)
            lost += len(head) - len(cut) + sum(len(body) - room for body, room in zip(bodies, rooms, strict=True))
            lost += sum(max(0, len(p) - _LONGEST) // 4 for p in passages)
            sequence = list(cut)
            for body, room, label in zip(bodies, rooms, [*labels, tail], strict=True):
                sequence += [*body[:room], *label]
            sequences.append(sequence)
        return sequences, lost

    def _load(self) -> tuple[Any, Any, list[int]]:
        resolved = resolve_model(self.model, self.load_options)
        resolved.check_safe(self.load_options)
        import torch
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        from situate.embedders.forward.chooser import check_complete
        from situate.embedders.local.devices import chosen_device

        device = chosen_device(self.device)
        fast = self.dtype == "bfloat16" or (self.dtype == "auto" and device.type == "cuda")
        with loading("the tokenizer", resolved.path):
            tokenizer: Any = AutoTokenizer.from_pretrained(str(resolved.path), local_files_only=True)
        tokenizer.model_max_length = 10**9  # the length is kept here, where what is lost is counted
        answers = [tokenizer.convert_tokens_to_ids(word) for word in (self.true, self.false)]
        if any(answer is None or answer == tokenizer.unk_token_id for answer in answers):
            raise InputError(
                f"model {self.model!r} has no tokens {self.true!r} and {self.false!r}: pass true= and false=, the "
                "answers that its model card names"
            )
        with loading("the model", resolved.path):
            model, loaded = AutoModelForSeq2SeqLM.from_pretrained(
                str(resolved.path),
                local_files_only=True,
                dtype=torch.bfloat16 if fast else torch.float32,
                use_safetensors=None if self.load_options.allow_pickle else True,
                output_loading_info=True,
            )
        check_complete(resolved.path, model, loaded["missing_keys"])
        return model.to(device).eval(), tokenizer, answers


@checked_parameters
class MonoT5Model(_TrueOrFalse):
    """A T5 reranker ("Query: ... Document: ... Relevant:" -> true or false), as a `PairScorer`."""

    _labels = ("Document:",)
    _default = "castorini/monot5-base-msmarco"
    #: What a score is.
    output = "probability"

    def score(self, pairs: Sequence[Pair]) -> PairScores:
        """One score per (query, passage), in order.

        Raises:
            ModelNotFoundError: There is no such model.
            InputError: The model's vocabulary has no such answers.
            NonFiniteVectorError: It computed NaN or infinity.
        """
        return self._answered(pairs)

    async def ascore(self, pairs: Sequence[Pair]) -> PairScores:
        """`score` in a thread."""
        return await asyncio.to_thread(self.score, pairs)


@checked_parameters
class QualityT5Model(_TrueOrFalse):
    """A T5 that judges a passage without a query ("Document: ... Relevant:"), as the scorer of a `PruningChunker`.

    QualT5 (Chang et al. 2024, "Neural Passage Quality Estimation for Static Pruning"): how likely a passage is to
    answer any query.
    """

    _labels = ("Document:",)
    _default = "pyterrier-quality/qt5-tiny"

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """Per text the probability that it is worth finding, in order.

        Raises:
            ModelNotFoundError: There is no such model.
            InputError: The model's vocabulary has no such answers.
            NonFiniteVectorError: It computed NaN or infinity.
        """
        scores: list[float] = self._answered([("", text) for text in texts]).scores.tolist()
        return scores

    def _head(self, query: str) -> str:
        return self._labels[0]

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What decides a score, as JSON values."""
        return {"model": self.model, "true": self.true, "false": self.false, "max_tokens": self.max_tokens}


@checked_parameters
class DuoT5Model(_TrueOrFalse):
    """A T5 that compares ("Query: ... Document0: ... Document1: ... Relevant:" -> is the first one better?)."""

    _labels = ("Document0:", "Document1:")
    _default = "castorini/duot5-base-msmarco"

    def compare(self, duels: Sequence[Duel]) -> PairScores:
        """Per (query, passage, passage) the probability that the first passage is the better one, in order.

        It is not one minus that of the two the other way round: ask both.

        Raises:
            ModelNotFoundError: There is no such model.
            InputError: The model's vocabulary has no such answers.
            NonFiniteVectorError: It computed NaN or infinity.
        """
        return self._answered(duels)

    async def acompare(self, duels: Sequence[Duel]) -> PairScores:
        """`compare` in a thread."""
        return await asyncio.to_thread(self.compare, duels)


def _shared(lengths: Sequence[int], room: int) -> list[int]:
    """The tokens read of each passage: the others use the rest of a short passage's share."""
    shares = [0] * len(lengths)
    for done, i in enumerate(sorted(range(len(lengths)), key=lambda i: lengths[i])):
        shares[i] = min(lengths[i], (room - sum(shares)) // (len(lengths) - done))
    return shares


def _probabilities(model: Any, sequences: Sequence[Sequence[int]], answers: list[int]) -> Any:
    """float32 ``[sequences]``; on out of memory in halves."""
    import torch

    from situate.embedders.forward.cores import computing

    try:
        longest = max(map(len, sequences))
        ids = torch.full((len(sequences), longest), int(model.config.pad_token_id or 0))
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        start = torch.full((len(sequences), 1), int(model.config.decoder_start_token_id or 0))
        with computing():
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
    # After the handler, whose traceback keeps the failed pass's tensors.
    half = len(sequences) // 2
    return np.concatenate([_probabilities(model, part, answers) for part in (sequences[:half], sequences[half:])])
