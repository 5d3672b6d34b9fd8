"""The sizes and checksums of a closed shard's files, which are compared when it is opened again.

The engine opens some truncated files without an error and with a part of the points missing, and a wrong number in the
file that maps ids to points makes it allocate memory of a wrong length, which ends the process. So the sizes and
checksums are written when a shard is closed, and it is opened again only if its files match them. They are removed when
the shard is opened: after a crash there are none, and the engine's own recovery decides.

Vectors, payloads and graphs, which take long to read, are checked by their size and their beginning; damage further
inside gives wrong or unreadable values there, and affects nothing else.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from pathlib import Path

from situate.outside import load_json

CHECKSUMS_FILE = "situate-seal.json"
_LOG = "wal"
#: How much of a file's beginning is checked, in bytes; those with this in their name are checked from end to end.
_HEAD, _WHOLE = 1 << 16, "id_tracker"


def write(shard: Path, points: int) -> None:
    """Writes the checksums of a closed shard. A shard without them opens too, so a full disk does not raise here."""
    with contextlib.suppress(OSError):
        (shard / CHECKSUMS_FILE).write_text(json.dumps({"points": points, "files": _described(shard)}))


def remove(shard: Path) -> None:
    """Removes the checksums, before the files change."""
    (shard / CHECKSUMS_FILE).unlink(missing_ok=True)


def damage(shard: Path) -> str | None:
    """The first file that does not match its checksum, and how; None where all match, or there are no checksums."""
    try:
        files = load_json((shard / CHECKSUMS_FILE).read_bytes(), CHECKSUMS_FILE)["files"]
        known = {name: (int(size), int(checksum)) for name, (size, checksum) in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not (shard / _LOG).is_dir():
        return "its write-ahead log is missing"
    try:
        found = _described(shard)
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"
    for name, (size, checksum) in known.items():
        if name not in found:
            return f"{name} is missing"
        if found[name][0] != size:
            return f"{name} has {found[name][0]} bytes, it had {size} when the store was closed"
        if found[name][1] != checksum:
            return f"{name} has other content than when the store was closed"
    return None


def _described(shard: Path) -> dict[str, tuple[int, int]]:
    """Name -> size and checksum of every file but the log's."""
    files = (file for file in sorted(shard.rglob("*")) if file.is_file() and file.name != CHECKSUMS_FILE)
    return {
        file.relative_to(shard).as_posix(): (file.stat().st_size, _checksum(file))
        for file in files
        if file.relative_to(shard).parts[0] != _LOG
    }


def _checksum(file: Path) -> int:
    checksum = 0
    with file.open("rb") as blocks:
        while block := blocks.read(_HEAD):
            checksum = zlib.crc32(block, checksum)
            if _WHOLE not in file.name:
                break
    return checksum
