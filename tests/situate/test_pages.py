"""Pages of a document: where they begin, and on which a chunk stands."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from situate.chunkers import AutoChunker
from situate.types import Chunk, Document


@given(st.lists(st.text(alphabet="ab \n", max_size=30), min_size=1, max_size=12), st.data())
def test_a_chunk_tells_its_pages(pages: list[str], data: st.DataObject) -> None:
    starts = [sum(map(len, pages[:number])) for number in range(len(pages))]
    text = "".join(pages) + "end"
    page_of = [number for number, page in enumerate(pages, 1) for _ in page] + [len(pages)] * 3
    document = Document("d", text, {"page_starts": starts, "pages": len(pages), "year": 2020})
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    found = Chunk.of(document, 0, start, end).metadata
    first, last = page_of[start], page_of[end - 1]
    assert found == {
        "page": first,
        "pages": [first, last],
        "page_span": [start - starts[first - 1], end - starts[last - 1]],
        "year": 2020,
    }


@pytest.mark.parametrize("starts", [[], [1, 2], [0, 9, 3], [0, 99], ["0"], "0", None, [True], {"0": 1}])
def test_a_key_of_the_same_name_with_another_value_stays_as_it_is(starts: Any) -> None:
    document = Document("d", "Words on a page.", {"page_starts": starts, "page": "v"})
    (chunk,) = AutoChunker().split(document)
    assert document.page_starts == ()
    assert chunk.metadata == {"page_starts": starts, "page": "v"}
