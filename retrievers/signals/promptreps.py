"""Sparse vectors by a prompt, of a decoder that was not trained for them (PromptReps, Zhuang et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from situate.embedders.promptreps import PromptRepsEmbedder
from situate.errors import InputError
from situate.retrievers.signals.base import model_of
from situate.retrievers.signals.sparse import Sparse


@dataclass(frozen=True)
class PromptReps(Sparse):
    """The logits of one word that represents a passage or a query: the sparse half of PromptReps.

    The dense half is the index's embedder, ``Embedder(model, prompts="promptreps")``, which shares the weights.

    Attributes:
        model: A `PromptRepsEmbedder`, or a decoder's name.
        options: Further arguments of `PromptRepsEmbedder`, where ``model`` is a name.

    Raises:
        InputError: As for `Sparse`; or ``query_by`` is "tokens", which is for models that weigh documents alone.
    """

    kind = "promptreps"
    model: PromptRepsEmbedder | str  # type: ignore[assignment]  # in place of the model of Sparse

    def __post_init__(self) -> None:
        if self.model is None:  # its default in `Sparse`
            raise InputError("the 'promptreps' signal needs model: the decoder that is asked")
        super().__post_init__()
        if self.query_by != "model":
            raise InputError(f"query_by={self.query_by!r} of {self.name!r}: the prompt is asked of queries, too")

    @cached_property
    def embedder(self) -> PromptRepsEmbedder:  # type: ignore[override]  # likewise
        """The model; loaded by the first text."""
        return model_of(PromptRepsEmbedder, self.model, self.options, PromptRepsEmbedder)
