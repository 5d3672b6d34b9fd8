"""`PdfReader`: PDFs read in a process of its own, with limits on time, memory and pages."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from situate.chunkers.readers.pdf.reading import PdfText
from situate.errors import InputError, MissingExtraError, SituateWarning
from situate.parameters import checked_parameters
from situate.types import PAGE_STARTS

#: Seconds and pages that a file may take, where the caller names no other limits.
SECONDS = 120.0
MAX_PAGES = 5_000
#: What of the environment the process needs to start.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "PYTHONHOME")


class UnreadPagesWarning(SituateWarning):
    """Pages of a PDF hold text that cannot be read: scans, and fonts that do not say which characters they show."""


@checked_parameters
@dataclass(frozen=True)
class PdfReader:
    """Reads PDFs, one at a time, in a process that is started with the first one and ends with `close`.

    PDF files come from anywhere, and the code that reads them is C++: a file that makes it hang, crash or take all
    memory ends that process, is named in the error, and the next file gets a new one.

    Attributes:
        password: Opens encrypted files; never shown.
        max_pages: The most pages that a file may have; None for no limit.
        seconds: The most time that a file may take; None for no limit.

    Raises:
        InputError: A limit is not positive.
    """

    password: str | None = field(default=None, repr=False)
    max_pages: int | None = MAX_PAGES
    seconds: float | None = SECONDS
    _worker: list[_Worker] = field(default_factory=list, init=False, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.max_pages is not None and self.max_pages < 1:
            raise InputError(f"max_pages={self.max_pages} must be 1 or more, or None for no limit")
        if self.seconds is not None and not self.seconds > 0:
            raise InputError(f"seconds={self.seconds} must be more than 0, or None for no limit")

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        return type(self), tuple(getattr(self, f.name) for f in fields(self) if f.init)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(self.password, self.max_pages, self.seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process; the next file starts a new one."""
        while self._worker:
            self._worker.pop().end()

    def __del__(self) -> None:
        self.close()

    def document(self, data: bytes, name: str = "the PDF") -> tuple[str, dict[str, Any]]:
        """A PDF's text as Markdown, and its metadata: ``format``, ``pages``, ``page_starts`` and, if known, ``title``.

        Pages whose text cannot be read are named in an `UnreadPagesWarning`.

        Args:
            data: The file.
            name: Its name, for the warning.

        Raises:
            InputError: As for `read`.
            MissingExtraError: pypdfium2 is not installed.
        """
        found = self.read(data)
        for pages, why in (
            (found.empty, "hold images and no text"),
            (found.unmapped, "have fonts without ToUnicode map"),
        ):
            if pages:
                warnings.warn(
                    f"{name}: {len(pages)} of {len(found.page_starts)} pages ({_listed(pages)}) {why} and are left "
                    "out: recognise their text (OCR) first",
                    UnreadPagesWarning,
                    stacklevel=2,
                )
        metadata = {"format": "markdown", "pages": len(found.page_starts), PAGE_STARTS: found.page_starts}
        return found.text, metadata | ({"title": found.title} if found.title else {})

    def read(self, data: bytes) -> PdfText:
        """The text of a PDF.

        Args:
            data: The file.

        Raises:
            InputError: It is no PDF, encrypted, broken, a scan, without text, too long, or takes too much time
                or memory.
            MissingExtraError: pypdfium2 is not installed.
        """
        if importlib.util.find_spec("pypdfium2") is None:
            raise MissingExtraError.of("pypdfium2", "documents", "reading PDF files")
        with self._lock:
            if self._worker and not self._worker[0].is_usable():
                self._worker.pop()
            if not self._worker:
                self._worker.append(_Worker())
            try:
                answer = self._worker[0].ask(data, self.password, self.max_pages, self.seconds)
            except BaseException:
                # After any error, an interrupt included, the process may hold half a request.
                self.close()
                raise
        if "error" in answer:
            raise InputError(answer["error"])
        return PdfText(**answer)


def _listed(pages: Sequence[int]) -> str:
    return ", ".join(map(str, pages[:5])) + (", ..." if len(pages) > 5 else "")


class _Worker:
    """The process that reads."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        # It imports what this process would, nothing from a folder of documents, and gets no keys of the environment.
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "situate.chunkers.readers.pdf.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**{name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}, "PYTHONPATH": path},
        )

    def is_usable(self) -> bool:
        """Whether it is alive, and this process's own: after a fork it is the parent's."""
        return self._owner == os.getpid() and self._process.poll() is None

    def ask(self, data: bytes, password: str | None, max_pages: int | None, seconds: float | None) -> dict[str, Any]:
        """The answer for a file.

        Raises:
            InputError: The process ended without one.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, stop) if seconds is not None else None
        if timer is not None:
            timer.start()
        try:
            request = {"size": len(data), "password": password, "max_pages": max_pages}
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.write(data)
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = b""
        finally:
            if timer is not None:
                timer.cancel()
        if not line.endswith(b"\n"):
            self.end()
            if late.is_set():
                raise InputError(f"it takes more than seconds={seconds:g}: pass a larger limit, or None")
            raise InputError("it ended the process that reads PDFs: the file is broken, or needs too much memory")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """Ends the process, if it is this process's own."""
        if self._owner != os.getpid():
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    # What was not sent yet cannot be sent any more.
                    continue
