"""A closed shard's seal: what its files weighed when it was closed properly.

The engine opens some truncated files without a word and a part of the points missing. A shard that was closed is
therefore sealed, and opened again only if its files still have their sizes. The seal is broken by the first write, so
after a crash, when there is none, the engine's own recovery decides.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

SEAL_FILE = "situate-seal.json"
_LOG = "wal"


def write(shard: Path, points: int) -> None:
    """Seals a closed shard. Not sealing is no harm, so a full disk does not raise here."""
    with contextlib.suppress(OSError):
        (shard / SEAL_FILE).write_text(json.dumps({"points": points, "files": _sizes(shard)}))


def remove(shard: Path) -> None:
    """Breaks the seal."""
    (shard / SEAL_FILE).unlink(missing_ok=True)


def damage(shard: Path) -> str | None:
    """What is wrong with a sealed shard's files; None where nothing is, or where there is no seal."""
    try:
        files = json.loads((shard / SEAL_FILE).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not (shard / _LOG).is_dir():
        return "its write-ahead log is missing"
    found = _sizes(shard)
    for name, size in files.items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != size:
            return f"{name} has {found[name]} bytes, it had {size} when the store was closed"
    return None


def _sizes(shard: Path) -> dict[str, int]:
    return {
        file.relative_to(shard).as_posix(): file.stat().st_size
        for file in sorted(shard.rglob("*"))
        if file.is_file() and file.name != SEAL_FILE and file.relative_to(shard).parts[0] != _LOG
    }
