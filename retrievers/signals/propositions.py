"""The statements of a chunk, each with a vector of its own (Dense X Retrieval, Chen et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass

from situate.parameters import checked_parameters
from situate.retrievers.signals.base import Batch, Values
from situate.retrievers.signals.questions import Questions, one_row_each


@checked_parameters
@dataclass(frozen=True)
class Propositions(Questions):
    """One vector per statement of ``context.propositions``, embedded as documents are.

    `situate.chunkers.PropositionSituator` writes them. A chunk's similarity is raised by its weight towards that of the
    nearest of its statements, where that is nearer.
    """

    kind = "propositions"

    def encode(self, batch: Batch) -> Values:
        """Per chunk float32 ``[propositions, dimension]``; chunks without propositions have no rows."""
        texts = [[proposition.text for proposition in chunk.context.propositions] for chunk in batch.chunks]
        return one_row_each(batch, texts, batch.embedder.embed_documents)
