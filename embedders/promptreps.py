"""PromptRepsEmbedder: sparse vectors out of the logits of a prompt's answer.

Zhuang et al. 2024, "PromptReps: Prompting Large Language Models to Generate Dense and Sparse Representations for
Zero-Shot Document Retrieval", https://arxiv.org/abs/2404.18424.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from situate.embedders.build import build_encoder
from situate.embedders.models.prompts import PromptFamily
from situate.embedders.models.settings import EmbedderSettings
from situate.embedders.profile import ModelProfile
from situate.embedders.types import DType, Encoded, Role, SpanText, SparseVector, Vectors, checked_texts
from situate.errors import InputError
from situate.parameters import checked_parameters
from situate.threads import renew_after_fork
from situate.vectors import check_finite

if TYPE_CHECKING:
    from situate.embedders.local.encoder import Encoder
    from situate.embedders.local.output_layer import OutputLayer

_WORD = re.compile(r"[^\W_]+")
_FUNCTION_WORDS = """
a about after all also an and any are as at be been before but by can could did do does for from had has have he her his
how i if in into is it its may me more most my no not of on one or other our over she should so some such than that the
their them then there these they this those to under up us was we were what when where which while who why will with
would you your
"""
#: English words that say nothing about a text.
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


@checked_parameters
class PromptRepsEmbedder:
    """Sparse vectors of a decoder that was not trained for them: a weight for each token of the text's own words.

    The model is asked for one word that represents the text. A token weighs ``log(1 + max(0, logit))``, its logit as
    that word's beginning. Words are lower-cased, as the prompt asks, and function words are left out. The dense vector
    of the same prompt is that of ``Embedder(model, prompts="promptreps")``, which shares the weights in memory; each
    reads the text once.

    Args:
        model: A model folder or a hub id.
        prompts: The prompt, as for an `Embedder`: one template, of which the last token is pooled.
        max_active: Most numbers of a vector that are kept, the largest; None for all.
        ignored: Words that get no weight, in any case.
        max_tokens: Tokens that a text is cut to, the prompt included; None for the model's own.
        device: "auto", or a torch device.
        dtype: Format of the weights. "auto" is the fastest that the hardware computes in; "float32" is exact.
        revision: A branch, tag or commit of the hub's repository.
        trust_remote_code: Run the Python files of the model's repository.

    Raises:
        InputError: The prompt averages several templates, or pools something else than its last token; or ``ignored``
            is no collection of words.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        prompts: PromptFamily | str | Mapping[str, Any] = "promptreps",
        max_active: int | None = 128,
        ignored: Collection[str] = FUNCTION_WORDS,
        max_tokens: int | None = None,
        device: str = "auto",
        dtype: DType = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        family = PromptFamily.of(prompts)
        if family is None:
            raise InputError("prompts=None: a PromptRepsEmbedder asks by a prompt; leave prompts out for its own")
        if len(family.templates) > 1 or len(family.query_templates) > 1 or family.masked or family.echoes:
            raise InputError(f"the prompts {family.name!r} have no single last token, whose logits are the vector")
        if max_active is not None and max_active < 1:
            raise InputError(f"max_active is {max_active}: keep at least 1, or None for all")
        if isinstance(ignored, str) or not all(isinstance(word, str) for word in ignored):
            raise InputError(f"ignored is {ignored!r}: give a collection of words")
        self.max_active = max_active
        self.ignored = frozenset(word.lower() for word in ignored)
        self._settings = EmbedderSettings(
            model=os.fspath(model),
            prompts=family,
            max_tokens=max_tokens,
            device=device,
            dtype=dtype,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
        self._forget()

    def _forget(self) -> None:
        self.renew()
        renew_after_fork(self)
        self._profile_ = ModelProfile(self._settings)
        self._encoder_: Any = None
        self._output_layer_: OutputLayer | None = None

    def renew(self) -> None:
        """A new lock, as a forked copy may be held."""
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock" and name[-1] != "_"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __repr__(self) -> str:
        return f"PromptRepsEmbedder({self._settings.model!r})"

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What decides a vector, as JSON values."""
        return {
            **self._profile_.fingerprint(self._encoder),
            "max_active": self.max_active,
            "ignored": sorted(self.ignored),
        }

    def embed_queries(self, texts: Sequence[str]) -> list[SparseVector]:
        """One vector per query.

        Raises:
            InputError: ``texts`` is one string, or holds something that is none.
            NonFiniteVectorError: The model computed NaN or infinity.
            ConventionError: The model's folder has no output layer.
            ModelError: The model cannot be used.
        """
        return self._embed(texts, "query")

    async def aembed_queries(self, texts: Sequence[str]) -> list[SparseVector]:
        """`embed_queries` without blocking the event loop."""
        return await self._aembed(texts, "query")

    def embed_documents(self, texts: Sequence[str]) -> list[SparseVector]:
        """One vector per document. Errors as in `embed_queries`."""
        return self._embed(texts, "document")

    async def aembed_documents(self, texts: Sequence[str]) -> list[SparseVector]:
        """`embed_documents` without blocking the event loop."""
        return await self._aembed(texts, "document")

    def _embed(self, texts: Sequence[str], role: Role) -> list[SparseVector]:
        wanted = checked_texts(texts)
        return self._weighed(wanted, self._encoder.encode(self._written(wanted, role), role=role))

    async def _aembed(self, texts: Sequence[str], role: Role) -> list[SparseVector]:
        wanted = checked_texts(texts)
        encoder = await asyncio.to_thread(lambda: self._encoder)
        encoded = await encoder.aencode(self._written(wanted, role), role=role)
        return await asyncio.to_thread(self._weighed, wanted, encoded)

    def _written(self, texts: Sequence[str], role: Role) -> list[SpanText]:
        family = self._profile_.family
        return [family.query_text(text) if role == "query" else family.document_text(text) for text in texts]

    @property
    def _encoder(self) -> Encoder:
        with self._lock:
            if self._encoder_ is None:
                # A logit is a product with the state as it is, not with its direction.
                family = dataclasses.replace(self._profile_.family, normalize=False)
                self._encoder_ = build_encoder(self._settings, family, self._profile_.resolved)
            encoder: Encoder = self._encoder_
            return encoder

    @property
    def _output_layer(self) -> OutputLayer:
        from situate.embedders.local.output_layer import OutputLayer

        with self._lock:
            if self._output_layer_ is None:
                self._output_layer_ = OutputLayer.load(self._encoder.folder.path, self._settings.load_options)
            return self._output_layer_

    def _weighed(self, texts: Sequence[str], encoded: Sequence[Encoded]) -> list[SparseVector]:
        return [self._vector(self._ids(text), each.vectors[0]) for text, each in zip(texts, encoded, strict=True)]

    def _ids(self, text: str) -> NDArray[np.int64]:
        """The tokens of the text's words, each word by itself, as the answer to the prompt would begin."""
        words = dict.fromkeys(word for word in _WORD.findall(text.lower()) if word not in self.ignored)
        found = self._encoder.tokenizer.encode_batch(list(words), add_special_tokens=False)
        return np.unique(np.array([token for each in found for token in each.ids], dtype=np.int64))

    def _vector(self, ids: NDArray[np.int64], state: Vectors) -> SparseVector:
        logits = self._output_layer.logits(state, ids) if len(ids) else np.zeros(0, dtype=np.float32)
        check_finite(logits, f"model {self._settings.model!r} computed")
        weights = np.log1p(np.maximum(logits, 0)).astype(np.float32)
        best = np.flatnonzero(weights)
        if self.max_active is not None:
            # Of equal weights the token with the smaller id stays, in every run.
            best = np.sort(best[np.argsort(-weights[best], kind="stable")[: self.max_active]])
        return SparseVector(ids[best], weights[best])
