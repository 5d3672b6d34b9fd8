"""The length of a call's path: files entered, calls made and the deepest stack of one call, own code only.

``python -m benchmarks.walk`` prints the table of docs/design.md; ``--files`` lists the files of each call, in the order
in which they are entered.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import situate
from situate import Document, Embedder, Index
from situate.integrations.llama_index import SituateRetriever

ROOT = Path(situate.__file__).resolve().parent.parent
ROOMS = ("situate", "chunkers", "embedders", "retrievers", "integrations")
#: Files entered and deepest stack: before the rooms had folders, and the goal.
BEFORE = {
    "Index.search": (34, 16, 18, 10),
    "Index.add": (41, 20, 22, 12),
    "LlamaIndex retrieve": (41, 18, 22, 12),
    "Embedder.embed_queries": (16, 12, 9, 8),
}


@dataclass
class Walk:
    """The files that one call enters.

    Attributes:
        files: In the order in which they are entered.
        calls: Python functions of the package that were called.
        deepest: Most of them on one stack.
    """

    files: list[str] = field(default_factory=list)
    calls: int = 0
    deepest: int = 0


def walk(call: Callable[[], Any]) -> Walk:
    """Run ``call`` once and count, in other threads until it returns."""
    result = Walk()
    own: dict[str, str | None] = {}

    def name_of(frame: FrameType) -> str | None:
        file = frame.f_code.co_filename
        if file not in own:
            path = Path(file).resolve()
            inside = path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ROOMS
            own[file] = str(path.relative_to(ROOT)) if inside else None
        return own[file]

    def profile(frame: FrameType, event: str, argument: object) -> None:
        if event != "call" or (name := name_of(frame)) is None:
            return
        result.calls += 1
        if name not in result.files:
            result.files.append(name)
        depth, above = 0, frame
        while above is not None:
            depth += name_of(above) is not None
            above = above.f_back
        result.deepest = max(result.deepest, depth)

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return result


def walks() -> dict[str, Walk]:
    """The four calls of the table, warm."""
    embedder = Embedder()
    text = "# Leave\n\nThere are thirty days of leave a year.\n\n## Sick leave\n\nA certificate is due on day four."
    with Index(embedder) as index:
        index.add([Document("warm", text)])
        index.search("How many days are there?")
        retriever = SituateRetriever(index)
        retriever.retrieve("When is a certificate due?")
        return {
            "Index.search": walk(lambda: index.search("How many days of leave?")),
            "LlamaIndex retrieve": walk(lambda: retriever.retrieve("Who gets leave?")),
            "Embedder.embed_queries": walk(lambda: embedder.embed_queries(["What is due?"])),
            # Last: a search after a write measures the collection anew.
            "Index.add": walk(lambda: index.add([Document("new", text.replace("thirty", "28"))])),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", action="store_true", help="also list the files that each call enters")
    arguments = parser.parse_args()
    print("| call | files: before, now, goal | deepest stack: before, now, goal | calls |")
    print("| --- | --- | --- | --- |")
    found = walks()
    for name, walked in found.items():
        files, stack, files_goal, stack_goal = BEFORE[name]
        print(
            f"| `{name}` | {files}, **{len(walked.files)}**, {files_goal} | "
            f"{stack}, **{walked.deepest}**, {stack_goal} | {walked.calls} |"
        )
    if arguments.files:
        for name, walked in found.items():
            print(f"\n{name}\n  " + "\n  ".join(walked.files))


if __name__ == "__main__":
    main()
