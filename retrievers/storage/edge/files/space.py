"""Room on the disk: checked before the engine writes.

The engine writes through memory maps, and a map that the disk has no room for ends the whole process with a signal
(SIGBUS) that cannot be caught. So a store stops growing while there is still room.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from situate.errors import DiskFullError

MEGABYTE = 1 << 20
#: Bytes that must stay free for writes that grow a store: the log and the files that the engine is about to extend.
RESERVE = 128 * MEGABYTE
#: Bytes that must stay free for deletions, which need a little, too.
RESERVE_TO_DELETE = 72 * MEGABYTE


def check_space(folder: Path, needed: int, *, grows: bool = True) -> None:
    """Raises where the disk of ``folder`` has no room for ``needed`` bytes and the reserve.

    Raises:
        DiskFullError: There is too little room.
    """
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return  # the folder is gone: the next operation reports it
    reserve = RESERVE if grows else RESERVE_TO_DELETE
    if free < needed + reserve:
        raise DiskFullError(
            f"the disk of {folder} is full: {free // MEGABYTE} MB are free, {(needed + reserve) // MEGABYTE} MB are "
            "needed to go on safely. Nothing was written; make room and try again"
        )


def check_copy(folder: Path) -> None:
    """Raises where the disk has no room for a copy of ``folder``."""
    size = 0
    for parent, _, files in os.walk(folder):
        size += sum(os.stat(os.path.join(parent, file)).st_blocks * 512 for file in files)
    check_space(folder, size)
