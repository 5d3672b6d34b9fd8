"""Untrusted input: JSON that another program wrote, and errors whose text may hold an API key."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from situate.errors import InputError, SituateError

#: Bytes (or characters) of JSON that are read, and how deeply its lists and objects may nest. Recursive code
#: (`json.dumps`, `copy.deepcopy`, `repr`) walks a value of this depth within Python's default recursion limit.
MAX_JSON_BYTES = 256 * 2**20
MAX_JSON_DEPTH = 100

#: Characters of an error's text that are kept, and those that are looked at.
MAX_MESSAGE = 500
_LOOKED_AT = 4_000

_KEY = "[key]"
# A name may be the end of another: openaiApiKey, PGPASSWORD.
_NAMES = (
    r"[a-z]{0,20}api[_ -]?keys?|[a-z]{0,20}(?:access|secret|private|account|subscription|functions)[_ -]?key"
    r"|[a-z]{0,20}(?:password|passwd)|(?:access|auth|id|refresh)?[_ -]?token"
    r"|auth(?:orization)?|(?:client[_ -]?)?secret|pwd|credentials?|signature|sig|(?:set-)?cookie"
)
_PREFIXES = (
    r"(?:sk|pk|rk|pa|xai|nvapi|hf|gsk|gh[opsu]|github_pat|glpat|xox[abeoprs]|jina|r8|pcsk|lsv2|pplx)[-_]"
    r"|AKIA|ASIA|AIza|eyJ|ya29\.|fw_(?=\w{16})"
)
#: What looks like a key, and what is written in its place.
_SECRETS = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END|\Z)", _KEY),
        # user:password@ of a URL
        (r"(?<=://)[^\s/]+@", f"{_KEY}@"),
        (r"(?<=[?&]key=)[^\s&\"']+", _KEY),
        # what stands between quotes, white space included
        (rf"(?<![a-z0-9])({_NAMES})([\"']?\s*[:=]\s*([\"']))(?:(?!\3).)+", rf"\1\2{_KEY}"),
        (r"\b(authorization\s*[:=]\s*)(?:token|api-?key|key|digest)\s+[^\s\"',;]+", rf"\1{_KEY}"),
        # Authorization: Bearer ..., and Basic ...
        (r"\b(bearer|basic)\s+[^\s\"',;]{4,}", rf"\1 {_KEY}"),
        # keys with a provider's prefix, masked ones ("sk-ab***yz") included
        (rf"(?<![a-z0-9])(?:{_PREFIXES})[-_a-z0-9.*+/=\u2026]{{4,}}", _KEY),
        # api_key=..., "token": "..."
        (rf"(?<![a-z0-9])({_NAMES})([\"']?\s*[:=]\s*[\"']?)(?!\[key\])[^\s\"'&,;)}}\]]+", rf"\1\2{_KEY}"),
        # the password is ..., API key provided: ..., where the value is no plain word
        (rf"(?<![a-z0-9])({_NAMES})((?:\s+\w{{1,12}})?:?\s+)(?=[^\s]*\d)[^\s\"',;]{{6,}}", rf"\1\2{_KEY}"),
        # long runs of letters and digits
        (r"(?<![a-z0-9])(?=[a-z]*\d)(?=\d*[a-z])[a-z0-9]{32,}(?![a-z0-9])", _KEY),
    )
)


class Secret:
    """A key that no ``repr``, ``str``, format or error shows; `reveal` gives it.

    Pickles with its text encoded, so that a log of pickled bytes does not show it. This is no encryption.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The key itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret('**********')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (base64.b85encode(self._text.encode("utf-8", "surrogatepass")),)


def load_json(
    data: str | bytes,
    what: str,
    error: type[SituateError] = InputError,
    *,
    max_bytes: int = MAX_JSON_BYTES,
    max_depth: int = MAX_JSON_DEPTH,
) -> Any:
    """The value of JSON that another program wrote.

    Args:
        data: JSON; bytes are UTF-8, UTF-16 or UTF-32.
        what: What holds it, for messages: "line 3 of notes.jsonl".
        error: The class of the error.
        max_bytes: Bytes, or characters of a str, that are read at most.
        max_depth: How deeply lists and objects may nest.

    Raises:
        SituateError: Of the class ``error``: ``data`` is too long, nested too deep or no JSON. No `RecursionError` and
            no `MemoryError` escapes.
    """
    if len(data) > max_bytes:
        raise error(f"{what} has {len(data):,} bytes of JSON, more than the {max_bytes:,} that are read")
    try:
        value = json.loads(data)
        deep = _nested_deeper(value, max_depth)
    except RecursionError:
        deep = True
    except MemoryError as problem:
        raise error(f"{what} holds JSON of {len(data):,} bytes that does not fit into memory") from problem
    except ValueError as problem:
        raise error(f"{what} is not JSON ({problem})") from problem
    if deep:
        raise error(f"{what} holds JSON nested deeper than {max_depth} levels, which is not read")
    return value


def safe_message(error: BaseException, limit: int = MAX_MESSAGE) -> str:
    """The error's class and text without what looks like a key: ``ValueError: ...``.

    For results, logs and warnings: clients of services quote keys, URLs and headers in their errors.
    """
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - another library's __str__ may fail, and its error is reported all the same
        text = "its text cannot be shown"
    return safe_text(f"{type(error).__name__}: {text}" if text else type(error).__name__, limit)


def safe_text(text: str, limit: int = MAX_MESSAGE) -> str:
    """At most ``limit`` characters of ``text``, on one line, without what looks like a key.

    Left out are provider keys (``sk-...``), bearer tokens, values of ``api_key=`` and the like, passwords and secrets
    in URLs, and runs of 32 and more letters and digits. Takes time linear in ``limit``.
    """
    if len(text) > _LOOKED_AT:
        # The last word may be the first half of a key, which no pattern knows.
        text = " ".join([*text[:_LOOKED_AT].split()[:-1], "..."])
    text = " ".join(text.split())
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _nested_deeper(value: Any, max_depth: int) -> bool:
    level = [value]
    for _ in range(max_depth):
        level = [
            inner
            for outer in level
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, list | dict)
        ]
        if not level:
            return False
    return True


def _unpickled(encoded: bytes) -> Secret:
    return Secret(base64.b85decode(encoded).decode("utf-8", "surrogatepass"))
