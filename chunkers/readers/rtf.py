"""Rich Text Format as text."""

from __future__ import annotations

from typing import Any

from situate.errors import InputError, MissingExtraError


def read_rtf(data: bytes, name: str) -> tuple[str, dict[str, Any]]:
    """The words of an RTF file, without its pictures and objects.

    Raises:
        InputError: It is none.
        MissingExtraError: striprtf is not installed.
    """
    if not data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{\\rtf"):
        raise InputError("no RTF: it does not begin with {\\rtf")
    try:
        from striprtf.striprtf import rtf_to_text
    except ImportError as error:
        raise MissingExtraError.of("striprtf", "documents", "reading RTF files") from error
    # The file is ASCII, and names the encoding of its \'xx signs itself.
    text: str = rtf_to_text(data.decode("latin-1"), encoding="cp1252", errors="replace")  # type: ignore[no-untyped-call]
    # The format writes a character beyond the first 65,536 as two halves.
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.strip("\n"), {"format": "text"}
