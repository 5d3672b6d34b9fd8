"""Two encoders in one space: whether one model's queries find another one's documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from situate.embedders.types import Vectors
from situate.errors import ConventionError

if TYPE_CHECKING:
    from situate.embedders.embedder import Embedder

#: Questions, and passages that answer them.
QUESTIONS = {
    "Which river flows through Paris?": "The river Seine flows through Paris on its way to the sea.",
    "How long does it take to boil an egg?": "Boil an egg for eight minutes until its yolk is firm.",
    "Why do leaves turn red in autumn?": "In autumn leaves lose their chlorophyll and turn red.",
    "When may an employer end a contract?": "An employer may end the contract with a notice of three months.",
    "What causes a high fever in children?": "A high fever in children is often caused by a virus.",
    "How do I reset my password?": "Open the settings and choose reset to get a new password.",
    "How fast does light travel?": "Light travels 300,000 kilometres in a second.",
    "Who painted the ceiling of the chapel?": "Michelangelo painted the ceiling of the Sistine chapel.",
}
#: Of the questions, those that find their passage first in a pair of one space. Unrelated spaces find one by chance,
#: and five once in 800.
FOUND = 5


def check_dimensions(documents: Embedder, queries: Embedder, dimension: int) -> None:
    """Whether two encoders' vectors can be compared at all. Loads no weights.

    Args:
        documents: The embedder of documents.
        queries: The embedder of queries.
        dimension: Length of a document's vector.

    Raises:
        ConventionError: Their vectors differ in length, or are compared otherwise.
    """
    if dimension != queries.dimension:
        raise ConventionError(
            f"query_model {queries.model!r} makes vectors of {queries.dimension} numbers and {documents.model!r} of "
            f"{dimension}: name the query model that was trained with it (dimensions= cuts both)"
        )
    if documents.similarity != queries.similarity:
        raise ConventionError(
            f"query_model {queries.model!r} compares vectors by {queries.similarity} and {documents.model!r} by "
            f"{documents.similarity}: name the query model that was trained with it"
        )


def check_space(documents: Embedder, queries: Embedder, passages: Sequence[Vectors], asked: Sequence[Vectors]) -> None:
    """Whether the vectors of `QUESTIONS` find those of their passages, which is so only where the spaces are one.

    Args:
        documents: The embedder of the passages.
        queries: The embedder of the questions.
        passages: float32 ``[tokens, dimension]`` of each passage, or ``[1, dimension]``.
        asked: The same of each question.

    Raises:
        ConventionError: Fewer than `FOUND` do.
    """
    scores = np.array([[(each @ passage.T).max(1).sum() for passage in passages] for each in asked])
    found = int((scores.argmax(1) == np.arange(len(scores))).sum())
    if found < FOUND:
        raise ConventionError(
            f"query_model {queries.model!r} finds {found} of {len(scores)} known passages among the "
            f"{'token ' if len(passages[0]) > 1 else ''}vectors of {documents.model!r}, a pair of one space at least "
            f"{FOUND}: name the query model that was trained with it, or leave query_model out"
        )
