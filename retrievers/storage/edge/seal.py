"""A closed shard's seal: what its files weighed, and their checksums, when it was closed properly.

The engine opens some truncated files without a word and a part of the points missing, and from a wrong number in the
file that maps ids to points it takes a wrong length for a memory request, which ends the process. A shard that was
closed is therefore sealed, and opened again only if its files are what they were. The seal is broken when the shard is
opened, so after a crash, when there is none, the engine's own recovery decides.

What could be read only at the price of opening slowly (vectors, payloads, graphs) is checked by its size and its
beginning; damage further inside gives wrong or unreadable values there, and harms nothing else.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from pathlib import Path

SEAL_FILE = "situate-seal.json"
_LOG = "wal"
#: How much of a file's beginning is checked, in bytes; those with this in their name are checked from end to end.
_HEAD, _WHOLE = 1 << 16, "id_tracker"


def write(shard: Path, points: int) -> None:
    """Seals a closed shard. Not sealing is no harm, so a full disk does not raise here."""
    with contextlib.suppress(OSError):
        (shard / SEAL_FILE).write_text(json.dumps({"points": points, "files": _described(shard)}))


def remove(shard: Path) -> None:
    """Breaks the seal."""
    (shard / SEAL_FILE).unlink(missing_ok=True)


def damage(shard: Path) -> str | None:
    """What is wrong with a sealed shard's files; None where nothing is, or where there is no seal."""
    try:
        files = json.loads((shard / SEAL_FILE).read_text())["files"]
        sealed = {name: (int(size), int(checksum)) for name, (size, checksum) in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not (shard / _LOG).is_dir():
        return "its write-ahead log is missing"
    try:
        found = _described(shard)
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"
    for name, (size, checksum) in sealed.items():
        if name not in found:
            return f"{name} is missing"
        if found[name][0] != size:
            return f"{name} has {found[name][0]} bytes, it had {size} when the store was closed"
        if found[name][1] != checksum:
            return f"{name} does not hold what it held when the store was closed"
    return None


def _described(shard: Path) -> dict[str, tuple[int, int]]:
    """Name -> size and checksum of every file but the log's."""
    files = (file for file in sorted(shard.rglob("*")) if file.is_file() and file.name != SEAL_FILE)
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
