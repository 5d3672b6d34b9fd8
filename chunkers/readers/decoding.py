"""Bytes as text, whatever their encoding."""

from __future__ import annotations

import codecs
import warnings

from situate.errors import InputError, SituateWarning

#: Byte order marks, longest first: UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
#: NUL bytes, per byte, that make a text none.
_NUL = 1 / 1000
#: Bytes of lines with other characters than ASCII that the detector of encodings reads.
_SAMPLE = 65_536


class DecodingWarning(SituateWarning):
    """Bytes were replaced because they are no text in its encoding, or the encoding is a guess."""


def decoded(data: bytes, name: str = "the text", declared: str | None = None) -> str:
    """Bytes as text.

    The encoding is, in this order: that of the byte order mark; ``declared``; UTF-8; and the best guess of
    charset-normalizer. In a text that is UTF-8 for the most part, a byte that is not becomes U+FFFD. That, and an
    encoding that is a guess (Windows-1252 where nothing supports another), are reported in a `DecodingWarning`.

    Args:
        data: The bytes.
        name: The file's name, for the warning.
        declared: The encoding that the file names itself.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            text = data.decode(encoding, errors="replace")
            if replaced := text.count("\ufffd") - data.decode(encoding, errors="ignore").count("\ufffd"):
                _say_replaced(name, replaced, encoding.removesuffix("-sig").upper())
            return text
    for encoding in filter(None, (_usable(declared), "utf-8")):
        try:
            return data.decode(encoding)
        except UnicodeError:
            continue
    text = data.decode("utf-8", errors="replace")
    replaced = text.count("\ufffd")
    if len(text) - len(text.encode("ascii", errors="ignore")) - replaced > replaced:
        _say_replaced(name, replaced, "UTF-8")
        return text
    encoding, sure = _detected(data)
    if not sure:
        warnings.warn(
            f"{name}: the encoding is not declared, and {encoding} is a guess: save it as UTF-8 where that is wrong",
            DecodingWarning,
            stacklevel=2,
        )
    return data.decode(encoding, errors="replace")


def decoded_text(data: bytes, name: str) -> str:
    """`decoded`, for a file whose name says that it is text.

    Raises:
        InputError: It is a picture, an archive, a program.
    """
    # Text has NUL bytes in UTF-16 and UTF-32 alone, which begin with a mark.
    if data.count(0) > len(data) * _NUL and not any(data.startswith(mark) for mark, _ in _MARKS):
        raise InputError("it holds NUL bytes: save it as UTF-8, or name it after what it is")
    return decoded(data, name)


def _say_replaced(name: str, replaced: int, encoding: str) -> None:
    warnings.warn(f"{name}: {replaced} bytes are no {encoding} and became U+FFFD", DecodingWarning, stacklevel=3)


def _usable(declared: str | None) -> str | None:
    """The codec for a declared encoding; None where the declaration cannot be true."""
    try:
        name = codecs.lookup(declared or "").name
    except LookupError:
        return None
    # Browsers read Latin-1 and ASCII as Windows-1252, which holds them. A declaration that could be read as ASCII is
    # not in UTF-16, and no file is in the encodings of domain names or of Python's own literals.
    name = {"iso8859-1": "cp1252", "ascii": "cp1252"}.get(name, name)
    return (
        name
        if name.startswith(("iso", "cp", "koi", "mac", "gb", "big5", "euc", "shift", "utf-8", "tis", "kz"))
        else None
    )


def _detected(data: bytes) -> tuple[str, bool]:
    """The likeliest encoding, and whether the language of the text supports it."""
    from charset_normalizer import from_bytes

    sample = b"\n".join(line for line in data.split(b"\n") if not line.isascii())[:_SAMPLE]
    found = from_bytes(sample)
    best = found.best()
    if best is None:
        return "cp1252", False
    if not best.coherence and any("cp1252" in match.could_be_from_charset for match in found):
        return "cp1252", False
    rivals = [match for match in found if match is not best and str(match) != str(best)]
    return best.encoding, best.coherence > max((match.coherence for match in rivals), default=0.0)
