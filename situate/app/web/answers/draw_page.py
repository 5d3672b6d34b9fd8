"""The program that draws a page of a PDF: what is drawn comes as JSON on standard input, PNG goes to standard output.

It runs apart from the application, within limits of time and memory, and imports nothing of it.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeAlias

#: Seconds of computing and bytes of memory; the longer side of an image in pixels.
SECONDS = 20
MEMORY = 2**31
PIXELS = 1_600
_MISSING = 3

#: Left, bottom, right and top, in points from the page's lower left corner.
Box: TypeAlias = tuple[float, float, float, float]


def _draw(path: str, number: int, texts: Sequence[str]) -> None:
    import pypdfium2
    from PIL import ImageDraw

    page = pypdfium2.PdfDocument(path)[number - 1]
    width, height = page.get_size()
    scale = min(2.0, PIXELS / max(width, height))
    image = page.render(scale=scale).to_pil().convert("RGB")
    boxes = _boxes(page.get_textpage(), texts)
    if boxes:
        shade = ImageDraw.Draw(image, "RGBA")
        for left, bottom, right, top in boxes:
            area = [left * scale, (height - top) * scale, right * scale, (height - bottom) * scale]
            shade.rectangle([area[0] - 1, area[1] - 1, area[2] + 1, area[3] + 1], fill=(255, 214, 0, 96))
    image.save(sys.stdout.buffer, "PNG")


def _boxes(page: Any, texts: Sequence[str]) -> list[Box]:
    """The boxes of the lines of the texts that stand on a page.

    Texts and page are compared by their letters and digits alone: a reader joins lines and hyphens and writes tables.
    """
    count = page.count_chars()
    letters: list[str] = []
    places: list[int] = []
    for place, character in enumerate(page.get_text_range(0, count)[:count]):
        for letter in _letters(character):
            letters.append(letter)
            places.append(place)
    whole = "".join(letters)
    boxes: list[Box] = []
    for text in texts:
        wanted = "".join(map(_letters, text))
        at = whole.find(wanted) if wanted else -1
        if at >= 0:
            boxes += _lines([page.get_charbox(place) for place in sorted(set(places[at : at + len(wanted)]))])
    return boxes


def _letters(text: str) -> str:
    return "".join(re.findall(r"[^\W_]", unicodedata.normalize("NFKC", text).casefold()))


def _lines(characters: Sequence[Box]) -> list[Box]:
    """Boxes of characters joined to those of lines."""
    lines: list[Box] = []
    for left, bottom, right, top in characters:
        if lines and bottom < lines[-1][3] and top > lines[-1][1] and left >= lines[-1][0]:
            before = lines[-1]
            lines[-1] = (before[0], min(before[1], bottom), max(before[2], right), max(before[3], top))
        else:
            lines.append((left, bottom, right, top))
    return lines


def _main() -> int:
    with suppress(ImportError, ValueError, OSError):  # Windows has no such limits
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    path, number, texts = json.loads(sys.stdin.read())
    try:
        _draw(path, number, texts)
    except ImportError:
        return _MISSING
    return 0


if __name__ == "__main__":
    sys.exit(_main())
