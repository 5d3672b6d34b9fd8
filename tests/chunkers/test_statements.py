"""The statements of a text."""

from __future__ import annotations

import time

from situate.chunkers.statements import LONGEST, statement_spans

LEAVE = (
    "Parental leave is open to every employee. It is twelve weeks long and paid in full. "
    "The form is on the intranet.\n- Ask your manager first.\n- Pension contributions go on."
)


def test_statements_are_sentences_and_items_of_lists() -> None:
    assert [LEAVE[start:end] for start, end in statement_spans(LEAVE)] == [
        "Parental leave is open to every employee.",
        "It is twelve weeks long and paid in full.",
        "The form is on the intranet.",
        "- Ask your manager first.",
        "- Pension contributions go on.",
    ]
    assert statement_spans("...\n\n---") == []
    long = "word " * 500 + "x" * 1_000
    assert all(end - start <= LONGEST for start, end in statement_spans(long))
    assert "".join(long[start:end] for start, end in statement_spans(long)).replace(" ", "") == long.replace(" ", "")


def test_statements_take_linear_time() -> None:
    for text in ("\n" * 100_000, "\n - " * 30_000, "x" * 100_000, ". " * 50_000):
        started = time.process_time()
        statement_spans(text)
        assert time.process_time() - started < 3
