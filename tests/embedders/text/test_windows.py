"""Windows: every token once, as central as can be."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from situate.embedders.text.windows import windows
from situate.errors import InputError


@given(tokens=st.integers(0, 500), capacity=st.integers(1, 120), overlap=st.integers(0, 150))
def test_every_token_is_owned_once_and_read_within_capacity(tokens: int, capacity: int, overlap: int) -> None:
    plan = windows(tokens, capacity, overlap)
    assert [plan[0].own_start, plan[-1].own_end] == [0, tokens]
    assert all(a.own_end == b.own_start for a, b in pairwise(plan))
    assert all(w.start <= w.own_start <= w.own_end <= w.end <= w.start + capacity for w in plan)
    assert all(b.end - b.start - (plan[-1].end - plan[-1].start) in (0, 1) for b in plan)


@given(tokens=st.integers(1, 500), capacity=st.integers(2, 120), overlap=st.integers(0, 150))
def test_neighbours_share_the_overlap_and_no_window_is_wasted(tokens: int, capacity: int, overlap: int) -> None:
    plan = windows(tokens, capacity, overlap)
    shared = min(overlap, capacity // 2)
    assert all(a.end - b.start == shared for a, b in pairwise(plan))
    assert len(plan) == 1 or (len(plan) - 1) * (capacity - shared) + shared < tokens


@given(tokens=st.integers(1, 300), capacity=st.integers(2, 60), overlap=st.integers(0, 40))
def test_each_token_is_taken_where_it_stands_most_centrally(tokens: int, capacity: int, overlap: int) -> None:
    plan = windows(tokens, capacity, overlap)

    def off_centre(token: int, number: int) -> float:
        window = plan[number]
        return abs(token + 0.5 - (window.start + window.end) / 2)

    for token in range(tokens):
        holding = [n for n, w in enumerate(plan) if w.start <= token < w.end]
        owner = next(n for n in holding if plan[n].own_start <= token < plan[n].own_end)
        # Windows whose lengths differ by one token have centres half a token apart.
        assert off_centre(token, owner) <= min(off_centre(token, n) for n in holding) + 1


@pytest.mark.parametrize(("capacity", "overlap"), [(0, 0), (-3, 0), (4, -1)])
def test_impossible_windows_are_refused(capacity: int, overlap: int) -> None:
    with pytest.raises(InputError):
        windows(10, capacity, overlap)
