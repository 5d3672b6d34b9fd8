"""kill -9 at random moments of adding, replacing, deleting and optimising."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from situate.chunkers import Document
from tests.conftest import FULL
from tests.retrievers.index.crash_writer import IDS, open_index, text_of

ROUNDS = 200 if FULL else 3


class Ledger:
    """The possible contents of the store, by begun and acknowledged operations."""

    def __init__(self) -> None:
        #: Document -> the revisions of which one must be there; None among them: it may be gone.
        self.allowed: dict[str, set[int | None]] = {name: {None} for name in IDS}

    def read(self, lines: list[str]) -> int:
        """Read a killed writer's output; returns the number of acknowledged operations."""
        acknowledged = 0
        for line in lines:
            word, _, rest = line.partition(" ")
            if word not in ("begin", "done"):
                continue
            what, _, names = rest.partition(" ")
            revision = None if what == "delete" else int(what)
            for name in names.split("|"):
                if word == "done":
                    self.allowed[name] = {revision}
                else:
                    self.allowed[name] = self.allowed[name] | {revision}
            acknowledged += word == "done"
        return acknowledged


def test_kill_at_random_moments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = str(tmp_path / "store")
    ledger = Ledger()
    acknowledged = interrupted = 0
    choice = random.Random(20)
    for number in range(ROUNDS):
        output = tmp_path / f"output-{number}"
        with output.open("w") as lines:
            writer = subprocess.Popen(
                [sys.executable, "-m", "tests.retrievers.index.crash_writer", store, str(number + 1)],
                stdout=lines,
                stderr=subprocess.PIPE,
            )
        with writer:
            _wait_for(output, writer)
            # The moment is what is random here: how long the writer has been writing when it is killed.
            try:
                writer.wait(choice.uniform(0.0, 0.6))
            except subprocess.TimeoutExpired:
                writer.send_signal(signal.SIGKILL)
            _, errors = writer.communicate()
        assert writer.returncode == -signal.SIGKILL, errors.decode()[-2000:]
        # The kill may cut the last line short; the operation that it would have begun has not begun then, and one
        # that it would have acknowledged counts as begun.
        said = [line.rstrip("\n") for line in output.read_text().splitlines(keepends=True) if line.endswith("\n")]
        acknowledged += ledger.read(said)
        interrupted += sum(len(revisions) > 1 for revisions in ledger.allowed.values())
        with open_index(store) as index:
            for name, revisions in ledger.allowed.items():
                chunks = index.get_chunks([name])
                texts = {revision: text_of(name, revision) for revision in revisions if revision is not None}
                if not chunks:
                    assert None in revisions, f"{name} was acknowledged and is lost (round {number})"
                    found = None
                else:
                    # One whole revision, each of its chunks once, in order.
                    found = next((r for r, text in texts.items() if text[: chunks[0].end] == chunks[0].text), None)
                    assert found is not None, f"{name} holds none of the revisions {sorted(texts)} (round {number})"
                    whole = index.chunker.split(Document(name, texts[found]))
                    assert [chunk.text for chunk in chunks] == [chunk.text for chunk in whole]
                ledger.allowed[name] = {found}
            assert index.count() == sum(len(index.get_chunks([name])) for name in IDS)
    with capsys.disabled():
        print(f" [{ROUNDS} kills, {acknowledged} operations acknowledged, {interrupted} documents caught in between]")
    assert acknowledged > 0


def _wait_for(output: Path, writer: subprocess.Popen[bytes]) -> None:
    """Until the writer has opened the store, or has died of it."""
    while writer.poll() is None and "open" not in output.read_text():
        try:
            writer.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
