"""A page of a PDF as an image, with a passage marked, drawn by a process of its own.

A PDF from a stranger is drawn by PDFium, which is compiled code: what crashes it, hangs it or eats memory ends that
process and not the application.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from situate.errors import InputError, MissingExtraError

#: Seconds for a page.
SECONDS = 20.0
#: The program that draws, and its exit status where PDFium is not installed.
_PROGRAM = Path(__file__).with_name("draw_page.py")
_MISSING = 3
#: Texts that are marked, and characters of each.
_TEXTS, _TEXT = 50, 20_000


async def page_image(pdf: Path, number: int, texts: Sequence[str] = ()) -> bytes:
    """A page as PNG.

    Args:
        pdf: The file.
        number: The page's number, from 1.
        texts: Texts of the page that are marked, where they are found on it.

    Raises:
        InputError: There is no such page, or the file cannot be drawn in time.
        MissingExtraError: pypdfium2 is not installed.
    """
    asked = json.dumps([str(pdf), number, [text[:_TEXT] for text in texts[:_TEXTS]]])
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        str(_PROGRAM),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(SECONDS):
            image, _ = await process.communicate(asked.encode())
    except TimeoutError:
        raise InputError(f"the page was not drawn in {SECONDS:g} seconds") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode == _MISSING:
        raise MissingExtraError.of("pypdfium2", "app", "showing pages of PDF files")
    if process.returncode:
        raise InputError("there is no such page, or the file cannot be drawn: its text can be read all the same")
    return image
