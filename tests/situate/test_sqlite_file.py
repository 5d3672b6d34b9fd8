"""A SQLite file that threads and processes share."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from situate.errors import DiskFullError, StorageError, StoreCorruptError
from situate.sqlite_file import SqliteFile

SCHEMA = ("CREATE TABLE IF NOT EXISTS things (key TEXT PRIMARY KEY, value TEXT)",)


@pytest.fixture
def file(tmp_path: Path) -> SqliteFile:
    return SqliteFile(tmp_path / "folder" / "things.db", SCHEMA, "store of things", "delete it")


def put(file: SqliteFile, values: dict[str, str]) -> None:
    with file.open() as connection:
        connection.executemany("INSERT INTO things VALUES (?, ?)", values.items())


def test_rows_are_found_by_any_number_of_keys(file: SqliteFile) -> None:
    values = {str(i): str(i * i) for i in range(2_500)}
    put(file, values)
    for twin in (file, pickle.loads(pickle.dumps(file)), copy.deepcopy(file)):
        with twin.open() as connection:
            keys = [*values, "missing"]
            assert dict(twin.rows(connection, "SELECT key, value FROM things", keys)) == values


def test_a_new_file_is_its_owners_alone_and_an_old_ones_mode_stays(file: SqliteFile) -> None:
    put(file, {"a": "1"})
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    file.path.chmod(0o644)
    put(file, {"b": "2"})
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o644


def test_an_error_rolls_back(file: SqliteFile) -> None:
    def fail() -> None:
        with file.open() as connection:
            connection.execute("INSERT INTO things VALUES ('a', '1')")
            connection.execute("SELECT * FROM missing")

    with pytest.raises(StorageError, match="no such table: missing"):
        fail()
    put(file, {"a": "2"})


def test_threads_write_side_by_side(file: SqliteFile) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: put(file, {str(i): "x"}), range(40)))
    with file.open() as connection:
        assert connection.execute("SELECT count(*) FROM things").fetchone()[0] == 40


def test_damage_and_a_folder_that_cannot_be_made_are_named(file: SqliteFile, tmp_path: Path) -> None:
    file.path.parent.mkdir()
    file.path.write_bytes(b"no database " * 1_000)
    with pytest.raises(StoreCorruptError, match=r"no store of things or is damaged .* delete it"), file.open():
        pass
    (tmp_path / "plain").write_text("a file")
    with pytest.raises(StorageError, match=r"store of things .* cannot be used"):
        put(SqliteFile(tmp_path / "plain" / "x.db", SCHEMA, "store of things", "delete it"), {})


def test_a_full_disk_is_told_from_other_faults_and_nothing_is_written(file: SqliteFile) -> None:
    put(file, {"a": "1"})
    # SQLite's own limit stands for a disk's end: it refuses a page as it does there.
    small = dataclasses.replace(file, schema=("PRAGMA max_page_count = 4", *file.schema))
    with pytest.raises(DiskFullError, match=r"the disk of the store of things '.*things\.db' is full"):
        put(small, {"b": "x" * 100_000})
    with file.open() as connection:
        assert connection.execute("SELECT key FROM things").fetchall() == [("a",)]
