"""Decoder: a causal language model that says how likely continuations of texts are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal

import numpy as np

from situate.embedders.models.files import loading
from situate.embedders.models.resolve import LoadOptions, resolve_model
from situate.embedders.text.tokenizer import Ids, TextTokenizer
from situate.embedders.types import Vectors
from situate.errors import ConventionError, InputError
from situate.parameters import checked_parameters
from situate.threads import OwnedLock
from situate.vectors import check_finite

#: Rows of logits, each as long as the vocabulary, that are computed at once.
_LOGIT_ROWS = 512
#: Tokens that are read of a prompt where the model's configuration names no length, or a longer one.
_LONGEST = 8_192


@dataclass(frozen=True)
class LoadedDecoder:
    """The parts of a loaded decoder.

    Attributes:
        model: The transformers model.
        tokenizer: Its tokenizer, which reads control tokens in texts as plain text.
        chat: transformers' tokenizer, which knows the chat template.
        max_tokens: Tokens that are read at once.
    """

    model: Any
    tokenizer: TextTokenizer
    chat: Any
    max_tokens: int


@checked_parameters
class Decoder:
    """A causal language model of transformers, on one device, used by one thread at a time.

    `QueryLikelihoodModel` and `AnswerModel` share one that both are given.

    Cheap to construct; pickles as its configuration; loads the model for the first texts. Batches have a number of
    tokens, longest first; out of memory halves a batch.

    Args:
        model: A model folder or hub id.
        max_tokens: Tokens that are read at once; None: the model's own number, 8,192 at most.
        batch_tokens: Most tokens of one pass, padding included.
        device: "auto", or a torch device.
        dtype: Format to compute in; "auto" is bfloat16 on CUDA, else float32.
        revision: A branch, tag or commit of the hub's repository.
        trust_remote_code: Run the Python files of the model's repository.
        allow_pickle: Read pickled weights, which can run any code.

    Raises:
        InputError: ``max_tokens`` is less than 16, or ``batch_tokens`` less than 1.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        max_tokens: int | None = None,
        batch_tokens: int = 8192,
        device: str = "auto",
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
    ) -> None:
        if (max_tokens is not None and max_tokens < 16) or batch_tokens < 1:
            raise InputError(f"max_tokens={max_tokens} must be 16 or more, and batch_tokens={batch_tokens} 1 or more")
        self.model = os.fspath(model)
        self.max_tokens = max_tokens
        self.batch_tokens = batch_tokens
        self.device = device
        self.dtype = dtype
        self.load_options = LoadOptions(revision, trust_remote_code, allow_pickle)
        self._forget()

    def _forget(self) -> None:
        self._lock = OwnedLock("reranking")
        self._loaded: LoadedDecoder | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r}, device={self.device!r}, dtype={self.dtype!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_loaded")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    @property
    def loaded(self) -> LoadedDecoder:
        """The model, loaded at first use.

        Raises:
            ModelNotFoundError: There is no such model.
            ModelError: It cannot be loaded.
        """
        with self._lock:
            self._loaded = self._loaded or self._load()
            return self._loaded

    def log_likelihoods(self, beginnings: Sequence[Ids], continuations: Sequence[Ids]) -> list[Vectors]:
        """Per text, float32 ``[tokens of the continuation]``: each one's log-likelihood given all before it.

        Args:
            beginnings: Token ids, one at least each.
            continuations: Token ids that follow.

        Raises:
            NonFiniteVectorError: The model computed NaN or infinity.
            ModelError: It cannot be loaded.
        """
        texts = [np.concatenate(parts) for parts in zip(beginnings, continuations, strict=True)]
        # The logits of a place tell the next token, so that those of the last one are not needed.
        return self._in_batches([text[:-1] for text in texts], continuations)

    def next_log_likelihoods(self, beginnings: Sequence[Ids], tokens: Sequence[Ids]) -> list[Vectors]:
        """Per text, float32 ``[tokens]``: the log-likelihood of each of its tokens as the next one, of one pass.

        Args:
            beginnings: Token ids, one at least each.
            tokens: Per beginning the ids of tokens that may follow; as many for each.

        Raises:
            NonFiniteVectorError: The model computed NaN or infinity.
            ModelError: It cannot be loaded.
        """
        return self._in_batches(beginnings, tokens, alternatives=True)

    def _in_batches(
        self, sequences: Sequence[Ids], targets: Sequence[Ids], *, alternatives: bool = False
    ) -> list[Vectors]:
        model = self.loaded.model
        found: list[Vectors] = [np.zeros(0, dtype=np.float32)] * len(sequences)
        todo = [i for i, ids in enumerate(targets) if len(ids)]
        todo.sort(key=lambda i: -len(sequences[i]))
        start = 0
        while start < len(todo):
            rows = todo[start : start + max(1, self.batch_tokens // len(sequences[todo[start]]))]
            if not alternatives:
                rows = rows[: max(1, _LOGIT_ROWS // max(len(targets[i]) for i in rows))]
            with self._lock:  # one owner of the device
                batch = _batch(model, [sequences[i] for i in rows], [targets[i] for i in rows], alternatives)
            for i, values in zip(rows, batch, strict=True):
                check_finite(values, f"model {self.model!r} computed")
                found[i] = values
            start += len(rows)
        return found

    def _load(self) -> LoadedDecoder:
        resolved = resolve_model(self.model, self.load_options)
        resolved.check_safe(self.load_options)
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from situate.embedders.forward.chooser import check_complete
        from situate.embedders.local.devices import chosen_device

        device = chosen_device(self.device)
        fast = torch.bfloat16 if device.type == "cuda" else torch.float32
        options: dict[str, Any] = {
            "local_files_only": True,
            "trust_remote_code": self.load_options.trust_remote_code,
        }
        with loading("the tokenizer", resolved.path):
            chat: Any = AutoTokenizer.from_pretrained(str(resolved.path), **options)
        tokenizer = TextTokenizer.load(resolved.path, self.load_options)
        if tokenizer.backend is None:
            raise ConventionError(
                f"the tokenizer of {self.model!r} has no fast form (tokenizer.json), which a decoder needs here: make "
                "it with AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
            )
        tokenizer.backend.encode_special_tokens = True
        with loading("the model", resolved.path):
            models: Any = AutoModelForCausalLM  # whose types forget the loading info
            model, report = models.from_pretrained(
                str(resolved.path),
                dtype=fast if self.dtype == "auto" else getattr(torch, self.dtype),
                use_safetensors=None if self.load_options.allow_pickle else True,
                output_loading_info=True,
                **options,
            )
        check_complete(resolved.path, model, report["missing_keys"])
        longest = int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or _LONGEST)
        return LoadedDecoder(model.to(device).eval(), tokenizer, chat, min(self.max_tokens or _LONGEST, longest))


def _batch(model: Any, sequences: Sequence[Ids], targets: Sequence[Ids], alternatives: bool) -> list[Vectors]:
    """Of each sequence the log-likelihoods of its targets; on out of memory in halves.

    Args:
        sequences: What is read.
        targets: The tokens that follow its last places, or, with ``alternatives``, its last place.
    """
    import torch

    from situate.embedders.forward.cores import computing

    try:
        longest = max(map(len, sequences))
        keep = 1 if alternatives else max(map(len, targets))
        # Padded on the left, so that all sequences end together and the logits of the rest are not computed.
        ids = torch.zeros((len(sequences), longest), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        wanted = torch.zeros((len(targets), max(map(len, targets))), dtype=torch.int64)
        for row, (sequence, target) in enumerate(zip(sequences, targets, strict=True)):
            ids[row, longest - len(sequence) :] = torch.from_numpy(sequence)
            mask[row, longest - len(sequence) :] = 1
            wanted[row, wanted.shape[1] - len(target) :] = torch.from_numpy(target)
        inputs: dict[str, Any] = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
        known = signature(model.forward).parameters
        if "position_ids" in known:
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0).to(model.device)
        if "logits_to_keep" in known:
            inputs["logits_to_keep"] = keep
        with torch.inference_mode(), computing():
            logits = model(**inputs, use_cache=False).logits[:, -keep:].float().log_softmax(-1)
            wanted = wanted.to(logits.device)
            places = wanted[:, None, :] if alternatives else wanted[:, :, None]
            values = logits.gather(2, places).flatten(1).cpu().numpy()
        return [row[len(row) - len(target) :] for row, target in zip(values, targets, strict=True)]
    except (torch.OutOfMemoryError, MemoryError):
        if len(sequences) == 1:
            raise
    # After the handler, whose traceback keeps the failed pass's tensors.
    half = len(sequences) // 2
    parts = ((sequences[:half], targets[:half]), (sequences[half:], targets[half:]))
    return [values for part in parts for values in _batch(model, *part, alternatives)]
