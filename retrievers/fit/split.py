"""Which questions choose, and which judge."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from situate.retrievers.fit.questions import Question

#: Documents from which on they are split whole into those that are fitted on and those that are held back.
_DOCUMENTS = 10
#: Characters by which fewer documents are split.
_STRETCH = 2_000


def held_back(questions: Sequence[Question], seed: int) -> NDArray[np.bool_]:
    """bool ``[questions]``: whether each is held back; all of one document are, or none, where there are enough."""
    several = len({question.document_id for question in questions}) >= _DOCUMENTS
    places = [
        (question.document_id, 0 if several or not question.spans else question.spans[0][0] // _STRETCH)
        for question in questions
    ]
    groups = sorted(set(places))
    chosen = np.random.default_rng(seed).permutation(len(groups))[: len(groups) // 2]
    held = {groups[place] for place in chosen.tolist()}
    return np.array([place in held for place in places], dtype=bool)
