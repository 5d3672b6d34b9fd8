"""Bytes as text, whatever their encoding."""

from __future__ import annotations

import codecs
import re
import unicodedata
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
#: The encodings that files are in: those of the web's standard and of DOS. Rare ones would be taken for them where a
#: text is short.
_LEGACY = (
    *(f"cp125{n}" for n in range(9)),
    *("cp437", "cp850", "cp852", "cp866", "cp874", "latin_1", "koi8_r", "koi8_u", "mac_roman", "mac_cyrillic"),
    *(f"iso8859_{n}" for n in (2, 5, 6, 7, 8, 9, 15)),
    *("shift_jis", "cp932", "euc_jp", "gb18030", "big5", "big5hkscs", "euc_kr", "cp949", "tis_620"),
)
#: Sequences by which text of seven bits changes to Japanese or Korean characters, and its encodings.
_ESCAPES = re.compile(rb"\x1b\$[@B(]|\x1b\$\)C")
_ESCAPED = ("iso2022_jp", "iso2022_jp_2", "iso2022_kr")
#: Encodings of two and four bytes, which a file without a byte order mark may be in.
_WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
#: White space, per character, that a text has.
_SPACE = 1 / 50
#: Signs that stand at no word, and are letters in another encoding.
_STRANGE = re.compile(r"(?<=[^\W\d_])[¦¨¬¯±´¶¸ˇ˘˛˙˝]|[¦¨¬¯±´¶¸ˇ˘˛˙˝](?=[^\W\d_])")
#: Bytes of lines with other characters than ASCII that the detector of encodings reads.
_SAMPLE = 65_536


class DecodingWarning(SituateWarning):
    """Bytes were replaced because they are no text in its encoding, or the encoding is a guess."""


def decoded(data: bytes, name: str = "the text", declared: str | None = None) -> str:
    """Bytes as text.

    The encoding is, in this order: that of the byte order mark; UTF-16 or UTF-32, which NUL bytes tell; ``declared``;
    ISO-2022, which its escapes tell; UTF-8; and the best guess of charset-normalizer among those that are in use. In a
    text that is UTF-8 for the most part, a byte that is not becomes U+FFFD. That, and an encoding that is a guess
    (Windows-1252 where nothing supports another), are reported in a `DecodingWarning`.

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
    if data.count(0) > len(data) * _NUL and (wide := _wide(data)):
        _say_guessed(name, wide.upper())
        return data.decode(wide, errors="replace")
    escaped = _ESCAPED if data.isascii() and _ESCAPES.search(data) else ()
    for encoding in filter(None, (_usable(declared), *escaped, "utf-8")):
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
        _say_guessed(name, encoding)
    return data.decode(encoding, errors="replace")


def decoded_text(data: bytes, name: str) -> str:
    """`decoded`, for a file whose name says that it is text.

    Raises:
        InputError: It is a picture, an archive, a program.
    """
    # Text has NUL bytes in UTF-16 and UTF-32 alone.
    marked = any(data.startswith(mark) for mark, _ in _MARKS)
    if not marked and data.count(0) > len(data) * _NUL and _wide(data) is None:
        raise InputError("it holds NUL bytes: save it as UTF-8, or name it after what it is")
    return decoded(data, name)


def _wide(data: bytes) -> str | None:
    """The encoding of two or four bytes in which the data are letters and spaces; None where there is none."""
    for encoding in _WIDE:
        # The last character of the sample may be cut.
        text = data[:_SAMPLE].decode(encoding, errors="replace")[:-1]
        spaces = sum(text.count(sign) for sign in " \n\t")
        odd = (c for c in text if unicodedata.category(c) in ("Cc", "Cn", "Co") and c not in "\t\n\r\f")
        if spaces > _SPACE * len(text) and "\ufffd" not in text and next(odd, None) is None:
            return encoding
    return None


def _say_replaced(name: str, replaced: int, encoding: str) -> None:
    warnings.warn(f"{name}: {replaced} bytes are no {encoding} and became U+FFFD", DecodingWarning, stacklevel=3)


def _say_guessed(name: str, encoding: str) -> None:
    warnings.warn(
        f"{name}: the encoding is not declared, and {encoding} is a guess: save it as UTF-8 where that is wrong",
        DecodingWarning,
        stacklevel=3,
    )


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
    found = from_bytes(sample, cp_isolation=list(_LEGACY))
    if not found:
        return "cp1252", False
    # The best one comes first.
    best = min(found, key=lambda match: len(_STRANGE.findall(str(match))))
    if not best.coherence and any("cp1252" in match.could_be_from_charset for match in found):
        return "cp1252", False
    rivals = [match for match in found if match is not best and str(match) != str(best)]
    return best.encoding, best.coherence > max((match.coherence for match in rivals), default=0.0)
