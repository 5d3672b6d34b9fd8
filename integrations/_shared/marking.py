"""A passage's place and marks in the metadata of both frameworks' documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from situate.integrations._shared.origin import HIGHLIGHT_KEY, MATCHED_KEY, WHERE_KEY
from situate.retrievers.marks import Highlight, Mark
from situate.retrievers.types import Hit
from situate.retrievers.where import Where


def place_metadata(hit: Hit, offset: int = 0) -> dict[str, Any]:
    """The metadata of a found passage: its place, its marks where it has been highlighted, what of it matched.

    Args:
        hit: The passage.
        offset: Characters that stand before the passage in the text of the framework's document.
    """
    metadata: dict[str, Any] = {WHERE_KEY: hit.where.to_dict()}
    if (found := hit.highlight) is not None:
        metadata[HIGHLIGHT_KEY] = [
            {"start": offset + mark.start, "end": offset + mark.end, "score": mark.score, "text": text}
            for mark, text in zip(found.marks, found.spans, strict=True)
        ]
    statement = hit.proposition
    matched = {
        "question": hit.question,
        "answer": hit.answer,
        "level": hit.level,
        "proposition": statement and statement.text,
    }
    if any(matched.values()):
        metadata[MATCHED_KEY] = {name: text for name, text in matched.items() if text}
    return metadata


def read_where(metadata: Mapping[str, Any]) -> Where | None:
    """The place in a found passage's metadata; None where there is none."""
    values = metadata.get(WHERE_KEY)
    return Where.from_dict(values) if isinstance(values, Mapping) else None


def read_highlight(metadata: Mapping[str, Any], text: str) -> Highlight | None:
    """The marks in a found passage's metadata, over its text; None where it was not highlighted."""
    marks = metadata.get(HIGHLIGHT_KEY)
    if marks is None:
        return None
    return Highlight(text, tuple(Mark(mark["start"], mark["end"], mark["score"]) for mark in marks))
