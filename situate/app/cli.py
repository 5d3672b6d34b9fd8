"""`main`: the command `situate`, its errors and its exit codes."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any, NoReturn

from situate.errors import GenerationError, InputError, MissingExtraError, ModelError, SituateError, StorageError
from situate.outside import safe_message
from situate.retrievers.marks import printable

#: What the exit codes say; `situate --help` and the docs show them.
EXIT_CODES = {
    0: "done",
    1: "done, but nothing was found, some documents were refused, or doctor sees something red",
    2: "wrong usage: an option, a configuration, a file, a missing extra",
    3: "the embedding model cannot be used",
    4: "the store cannot be used: locked by another process, damaged, built with another model, no server, no room",
    5: "the language model failed",
    130: "interrupted; what was stored until then is whole",
}
_CODES: tuple[tuple[type[SituateError], int], ...] = (
    (InputError, 2),
    (MissingExtraError, 2),
    (ModelError, 3),
    (StorageError, 4),
    (GenerationError, 5),
)
_EXTRA = ("typer", "rich", "pydantic_settings", "yaml", "mcp", "fastapi", "starlette", "uvicorn")


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command that ``arguments`` (by default those of the process) name, and exit."""
    warnings.showwarning = _say_warning  # type: ignore[assignment]  # only the message is shown
    # Warnings of other libraries are for programmers.
    warnings.simplefilter("ignore")
    for category in _own_warnings():
        warnings.simplefilter("always", category)
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """`main` without the exit: the exit code."""
    try:
        from situate.app.commands import app
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRA:
            raise
        _say(str(MissingExtraError.of(package.replace("_", "-"), "app", "the command line")))
        return 2
    import typer

    # Typer brings a click of its own; its errors about options are this one and its descendants.
    wrong_usage: Any = typer.BadParameter.__mro__[2]
    try:
        code: Any = app(arguments, prog_name="situate", standalone_mode=False)
    except typer.Abort:
        return 130
    except KeyboardInterrupt:
        return 130
    except wrong_usage as error:
        error.show()
        return 2
    except SituateError as error:
        _say(str(error))
        return next((code for kind, code in _CODES if isinstance(error, kind)), 1)
    except BrokenPipeError:
        # The reader of the output has gone (`| head`): no error, and no second one when the interpreter flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        _say(safe_message(error))
        return 2
    return code if isinstance(code, int) else 0


def _own_warnings() -> tuple[type[Warning], ...]:
    from situate.chunkers.readers.decoding import DecodingWarning
    from situate.chunkers.readers.files import SkippedFilesWarning
    from situate.errors import SituateWarning

    return SituateWarning, SkippedFilesWarning, DecodingWarning


def _say(message: str) -> None:
    # A file's name may hold control characters, which must not steer the terminal.
    sys.stderr.write(f"situate: {printable(message)}\n")


def _say_warning(message: Warning | str, *_: Any) -> None:
    sys.stderr.write(f"situate: warning: {printable(str(message))}\n")
