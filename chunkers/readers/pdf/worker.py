"""The process that reads PDFs: requests on its standard input, answers on its standard output.

A request is a line of JSON (``size``, ``password``, ``max_pages``) and ``size`` bytes. An answer is one line of JSON:
the fields of a `PdfText`, or an ``error``.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import asdict

#: Bytes of memory that the process may take, where the system can limit them.
MEMORY = 2 * 2**30


def main() -> None:
    """Answers requests until there are no more."""
    from situate.chunkers.readers.pdf.reading import read_pdf
    from situate.errors import SituateError

    _limit_memory()
    answers = os.fdopen(os.dup(1), "wb")
    # PDFium and its codecs print to where the answers go.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        data = sys.stdin.buffer.read(request["size"])
        try:
            answer = asdict(read_pdf(data, request["password"], request["max_pages"]))
        except SituateError as error:
            answer = {"error": str(error)}
        except MemoryError:
            answer = {"error": f"it needs more than {MEMORY // 2**30} GiB of memory"}
        except Exception as error:  # noqa: BLE001 - a file that no one has foreseen must not end the others
            answer = {"error": f"the PDF cannot be read: {type(error).__name__}: {error}"}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
