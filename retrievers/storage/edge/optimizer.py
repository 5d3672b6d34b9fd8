"""Optimisation beside the running store: building HNSW graphs and removing deleted points while calls go on.

The engine's own `optimize()` holds the interpreter for seconds or minutes: no thread and no event loop runs meanwhile.
So it runs on a copy of the shard in a process of its own; writes go to the old shard and to a log, which is replayed
onto the optimised copy before it replaces the shard. Reads never wait, writes only while the copy is made and while the
last few entries of the log are replayed.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import qdrant_edge as edge

from situate.errors import StorageError
from situate.retrievers.storage.edge.files.checksums import CHECKSUMS_FILE
from situate.retrievers.storage.edge.files.folders import LABEL_FILE
from situate.retrievers.storage.edge.files.space import check_copy
from situate.retrievers.storage.edge.translate.config import named_vectors

logger = logging.getLogger(__name__)

#: The engine's own threshold, in KB of vectors, above which a segment is given an HNSW graph.
INDEXING_THRESHOLD_KB = 10_000

#: The engine's folder of the write-ahead log, and the bytes of a log that are read at once.
LOG_FOLDER = "wal"
_BLOCK = 1 << 16

#: A log of more points than this costs more memory than starting again later.
MAX_LOGGED_POINTS = 200_000

#: The optimising process. It needs the engine and nothing else, not even this package.
_WORKER = """
import ctypes, os, sys
if sys.platform == "linux":
    # The system ends this process when its parent dies; a thread could not, since the engine holds the interpreter.
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
    if os.getppid() != int(sys.argv[3]):
        sys.exit(1)
sys.path.insert(0, sys.argv[1])
import qdrant_edge
if hasattr(os, "nice"):
    os.nice(5)
shard = qdrant_edge.EdgeShard.load(sys.argv[2])
changed = shard.optimize()
shard.flush()
shard.close()
print("optimized" if changed else "unchanged")
"""


class OperationLog:
    """The operations that a shard was given since its copy was made.

    Attributes:
        overflow: There were too many operations to keep; the copy is useless then.
    """

    def __init__(self) -> None:
        self.operations: list[edge.UpdateOperation] = []
        self.points = 0
        self.overflow = False

    def add(self, operations: Sequence[edge.UpdateOperation], points: int) -> None:
        """Notes operations that change about ``points`` points."""
        if self.overflow:
            return
        self.points += points
        self.operations.extend(operations)
        if self.points > MAX_LOGGED_POINTS:
            self.overflow = True
            self.operations.clear()


class OptimizerProcess:
    """Optimises a closed shard's folder in another process; can be stopped from another thread."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False
        self._guard = threading.Lock()

    def run(self, folder: Path) -> bool:
        """Optimises the shard in ``folder``; False where nothing was to do.

        Raises:
            StorageError: The process failed or was stopped.
        """
        site = str(Path(edge.__file__).parent.parent)
        command = [sys.executable, "-I", "-c", _WORKER, site, str(folder), str(os.getpid())]
        with self._guard:
            if self._stopped:
                raise StorageError("optimisation was stopped")
            self._process = subprocess.Popen(  # noqa: S603 - our own program, our own folder
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        output, errors = self._process.communicate()
        if self._process.returncode != 0:
            lines = errors.strip().splitlines() or [f"exit status {self._process.returncode}"]
            raise StorageError(f"optimisation failed: {lines[-1]}")
        return output.strip() == "optimized"

    def stop(self) -> None:
        """Ends the process; `run` then raises."""
        with self._guard:
            self._stopped = True
            if self._process is not None and self._process.poll() is None:
                self._process.kill()


def can_run_beside() -> bool:
    """Whether this interpreter can start another one (a frozen program cannot)."""
    return bool(sys.executable) and os.path.exists(sys.executable) and not getattr(sys, "frozen", False)


def copy_shard(source: Path, target: Path) -> None:
    """Copies a flushed shard without its checksums and its label.

    The write-ahead log is copied too, although a flush leaves nothing in it to replay: it counts the operations. A
    shard with a new log counts from zero again, and after a crash the engine treats the log's entries as older than the
    segments, and skips them.
    """

    def left_out(folder: str, names: list[str]) -> list[str]:
        return [CHECKSUMS_FILE, LABEL_FILE] if Path(folder) == source else []

    check_copy(source)
    try:
        shutil.copytree(source, target, ignore=left_out, copy_function=_copy_without_holes)
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)
        raise StorageError(f"the shard {source} cannot be copied: {error}") from error


def _copy_without_holes(source: str, target: str) -> None:
    """Copies a file; the empty part of a log, nearly all of its 32 MB, takes no room in the copy."""
    if Path(source).parent.name != LOG_FOLDER:
        shutil.copyfile(source, target)
        return
    with open(source, "rb") as old, open(target, "wb") as new:
        while block := old.read(_BLOCK):
            if block.count(0) == len(block):
                new.seek(len(block), os.SEEK_CUR)
            else:
                new.write(block)
        new.truncate(old.tell())


def bytes_per_point(vectors: object) -> int:
    """About the size of a point's dense vectors; a multi vector counts as one row."""
    return max(1, sum(params.size * 4 for params in named_vectors(vectors).values()))
