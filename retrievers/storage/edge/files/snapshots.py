"""Snapshots: a tar file that holds a whole store, or a store of one collection.

A snapshot has the layout of a store's folder, so unpacking one anywhere gives a store.
"""

from __future__ import annotations

import datetime as dt
import errno
import hashlib
import os
import shutil
import tarfile
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import httpx
from qdrant_client import models

from situate.errors import InputError, StorageError, StoreCorruptError
from situate.outside import safe_message, safe_text
from situate.retrievers.storage.edge.collection import Collection
from situate.retrievers.storage.edge.files.manifest import MANIFEST_FILE, CollectionEntry, Manifest

SNAPSHOTS = "snapshots"
SUFFIX = ".snapshot"
#: How folders end that a snapshot is made in.
SCRATCH = ".packing"
_DOWNLOAD_TIMEOUT = 60.0


def pack(target: Path, collections: Mapping[str, tuple[Collection, CollectionEntry]], aliases: dict[str, str]) -> None:
    """Writes a snapshot of the collections to ``target``; each is copied as it is at one moment.

    Raises:
        StorageError: It cannot be written; no part of it stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{uuid4().hex}{SCRATCH}")
    scratch.mkdir()
    try:
        for collection, entry in collections.values():
            collection.copy_to(scratch / "collections" / entry.folder)
        Manifest({name: entry for name, (_, entry) in collections.items()}, aliases).save(scratch)
        packed = scratch / target.name
        with tarfile.open(packed, "w:gz", compresslevel=1) as tar:  # the log is mostly empty
            tar.add(scratch / MANIFEST_FILE, MANIFEST_FILE)
            if collections:
                tar.add(scratch / "collections", "collections")
        with packed.open("rb") as file:
            os.fsync(file.fileno())
        packed.replace(target)
    except OSError as error:
        raise StorageError(f"the snapshot {target} cannot be written: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def unpack(snapshot: Path, folder: Path) -> Manifest:
    """Unpacks a snapshot into an empty folder.

    Raises:
        StoreCorruptError: It is damaged, or not a snapshot of an embedded store.
        StorageError: The disk has no room for it.
    """
    try:
        with tarfile.open(snapshot) as tar:
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(f"the snapshot {snapshot} cannot be unpacked in {folder}: {error.strerror}") from error
        raise StoreCorruptError(f"the snapshot {snapshot} cannot be unpacked: {error}") from error
    if not (folder / MANIFEST_FILE).is_file():
        raise StoreCorruptError(
            f"{snapshot} is no snapshot of an embedded store. A server's snapshot is recovered on a server, from where "
            "migrate() brings the collection here"
        )
    return Manifest.load(folder)


def describe(snapshot: Path, *, checksum: bool = False) -> models.SnapshotDescription:
    """A snapshot file's name, size and SHA-256."""
    stat = snapshot.stat()
    digest = None
    if checksum:
        with snapshot.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    return models.SnapshotDescription(
        name=snapshot.name,
        creation_time=dt.datetime.fromtimestamp(stat.st_mtime, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        size=stat.st_size,
        checksum=digest,
    )


def listed(folder: Path) -> list[Path]:
    """The snapshots in a folder, oldest first."""
    files = (file for file in folder.glob(f"*{SUFFIX}") if file.is_file()) if folder.is_dir() else iter(())
    return sorted(files, key=lambda file: (file.stat().st_mtime, file.name))


def named(folder: Path, name: str) -> Path:
    """The snapshot ``name`` in ``folder``.

    Raises:
        InputError: There is none; a name with a path never is one.
    """
    file = folder / name
    if Path(name).name != name or not file.is_file():
        raise InputError(f"there is no snapshot {name!r} in {folder}")
    return file


def new_name(stem: str) -> str:
    """A file name for a new snapshot; collection names hold no characters that files could not."""
    now = dt.datetime.now(dt.UTC)
    return f"{stem}-{now:%Y-%m-%d-%H-%M-%S}-{uuid4().hex[:8]}{SUFFIX}"


def fetch(location: str, folder: Path, api_key: str | None, checksum: str | None) -> Path:
    """The snapshot at ``location`` (a path, file:// or http(s) URL) as a local file, checked where a checksum is given.

    Raises:
        InputError: It is not there.
        StorageError: It cannot be downloaded; the message names the URL and never the key.
        StoreCorruptError: Its checksum is another.
    """
    scheme = urllib.parse.urlsplit(location).scheme
    if scheme in ("http", "https"):
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"download-{uuid4().hex}{SUFFIX}"
        headers = {} if api_key is None else {"api-key": api_key}
        try:
            with (
                # On a redirect httpx would send the key to another host.
                httpx.stream(
                    "GET", location, headers=headers, timeout=_DOWNLOAD_TIMEOUT, follow_redirects=api_key is None
                ) as r,
                file.open("wb") as out,
            ):
                r.raise_for_status()
                for block in r.iter_bytes():
                    out.write(block)
        except (httpx.HTTPError, OSError) as error:
            file.unlink(missing_ok=True)
            raise StorageError(
                f"the snapshot {safe_text(location)} cannot be downloaded: {safe_message(error)}"
            ) from None
    else:
        file = (
            Path(urllib.request.url2pathname(urllib.parse.urlsplit(location).path))
            if scheme == "file"
            else Path(location)
        )
        if not file.is_file():
            raise InputError(f"there is no snapshot {location}")
    if checksum is not None and describe(file, checksum=True).checksum != checksum.lower():
        raise StoreCorruptError(f"the snapshot {location} does not have the checksum {checksum}")
    return file
