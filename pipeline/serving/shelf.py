"""Bytes by name in one SQLite file of bounded size, least recently used first to go.

The file survives a kill at any moment, and several processes may use it. One that is damaged or
of another kind is set aside and begun anew; where the disk is full or refuses, nothing is kept.
Neither is ever raised: a lost result is only computed again.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

FILE = "results.sqlite3"
ASIDE = "results.set-aside.sqlite3"

_APPLICATION = 0x4C41424C  # "LABL"
_FORMAT = 1
_WAIT_SECONDS = 0.5  # for another process
_PAGE_BYTES = 4_096
_SPARE_PAGES = 16  # that balancing the table and both its indexes may take for a moment
_LOG_LIMIT = f"journal_size_limit = {4 << 20}"  # bytes of the write-ahead log beside the file
_TABLE = """
    CREATE TABLE IF NOT EXISTS entries (
        name TEXT PRIMARY KEY, used INTEGER NOT NULL, checksum INTEGER NOT NULL,
        rows BLOB NOT NULL, picture BLOB
    )"""
_INDEX = "CREATE INDEX IF NOT EXISTS by_use ON entries (used)"
_NEXT = "(SELECT COALESCE(MAX(used), 0) + 1 FROM entries)"

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Entry:
    """What is kept under a name."""

    rows: bytes
    picture: bytes | None

    @property
    def size_bytes(self) -> int:
        """Of both."""
        return len(self.rows) + len(self.picture or b"")

    @property
    def checksum(self) -> int:
        """SQLite does not notice a bit that flips on disk."""
        return zlib.crc32(self.picture or b"", zlib.crc32(self.rows))


class Shelf:
    """The file in a folder.

    Parameters
    ----------
    folder : Path
        Is made where there is none.
    most_bytes : int
        Of the file; the write-ahead log beside it takes up to 4 MiB more.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._path = folder / FILE
        self._most_pages = most_bytes // _PAGE_BYTES
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._inode = 0
        self._is_closed = self._is_warned = False
        self._ask(lambda database: None, None)

    def get(self, name: str) -> Entry | None:
        """What is kept under a name, used from now on; None if there is nothing sound."""
        entry = self._ask(lambda database: _get(database, name), None)
        if entry is not None:
            self.touch(name)
        return entry

    def touch(self, name: str) -> None:
        """Count a name as the last one used."""
        order = f"UPDATE entries SET used = {_NEXT} WHERE name = ? AND used < {_NEXT} - 1"
        self._ask(lambda database: database.execute(order, (name,)).close(), None)

    def put(self, name: str, entry: Entry) -> None:
        """Keep an entry; a picture that is there stays where the new one has none."""
        self._ask(lambda database: _put(database, name, entry, self._most_pages), None)

    def used_bytes(self) -> int:
        """What the entries take of the file."""
        return self._ask(_used_pages, 0) * _PAGE_BYTES

    def close(self) -> None:
        """Close the file; whoever asks afterwards finds nothing."""
        with self._lock:
            self._is_closed = True
            self._let_go()

    def _ask(self, question: Callable[[sqlite3.Connection], _T], otherwise: _T) -> _T:
        with self._lock:
            if self._is_closed:
                return otherwise
            try:
                answer = self._asked(question, otherwise)
                self._is_warned = False
                return answer
            except (sqlite3.OperationalError, OSError) as error:  # full, locked, not allowed…
                if not self._is_warned:
                    _log.warning("results are kept in memory only: %s: %s", self._path, error)
                self._is_warned = True
            return otherwise

    def _asked(self, question: Callable[[sqlite3.Connection], _T], otherwise: _T) -> _T:
        try:
            return question(self._opened())
        except sqlite3.OperationalError:
            raise  # nothing is wrong with what the file holds
        except sqlite3.DatabaseError as error:
            self._set_aside(str(error))
            return otherwise

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch()
            self._inode = self._path.stat().st_ino
            try:
                self._database = _open(self._path, self._most_pages)
            except _ForeignError as error:
                self._set_aside(str(error))
                return self._opened()
        return self._database

    def _set_aside(self, reason: str) -> None:
        """Rename the file that was opened; raises OSError if that is not allowed."""
        opened = self._inode
        self._let_go()
        with suppress(FileNotFoundError):
            if opened != self._path.stat().st_ino:
                return  # another process has begun anew
            for ending in ("", "-wal", "-shm"):
                aside = self._path.with_name(ASIDE + ending)
                aside.unlink(missing_ok=True)
                with suppress(FileNotFoundError):
                    self._path.with_name(FILE + ending).replace(aside)
            _log.warning("%s is set aside as %s: %s", self._path, ASIDE, reason)

    def _let_go(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


class _ForeignError(Exception):
    """A database of another program, or another version of this one."""


def _open(path: Path, most_pages: int) -> sqlite3.Connection:
    database = sqlite3.connect(
        path, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        if _kind(database) != (_APPLICATION, _FORMAT):
            _begin(database)
        for setting in ("journal_mode = WAL", "synchronous = NORMAL", _LOG_LIMIT):
            database.execute(f"PRAGMA {setting}").close()
        if _number(database, "page_count") > most_pages:  # the bound was larger once
            with _writing(database):
                _make_room(database, most_pages)
            database.executescript("PRAGMA incremental_vacuum").close()  # execute() takes one page
    except BaseException:
        database.close()
        raise
    return database


def _kind(database: sqlite3.Connection) -> tuple[int, int]:
    return _number(database, "application_id"), _number(database, "user_version")


def _begin(database: sqlite3.Connection) -> None:
    """Make the tables, unless another process has done so meanwhile."""
    database.execute(f"PRAGMA page_size = {_PAGE_BYTES}").close()
    database.execute("PRAGMA auto_vacuum = INCREMENTAL").close()
    with _writing(database):
        kind = _kind(database)
        if kind == (_APPLICATION, _FORMAT):
            return
        with closing(database.execute("SELECT COUNT(*) FROM sqlite_master")) as found:
            is_empty = found.fetchone()[0] == 0
        if kind != (0, 0) or not is_empty:
            raise _ForeignError(f"it is of kind {kind[0]:#x}, version {kind[1]}")
        for order in (
            _TABLE, _INDEX,
            f"PRAGMA application_id = {_APPLICATION}", f"PRAGMA user_version = {_FORMAT}",
        ):  # fmt: skip
            database.execute(order).close()


@contextmanager
def _writing(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE").close()
    try:
        yield
    except BaseException:
        if database.in_transaction:  # SQLite itself goes back where the disk is full
            database.rollback()
        raise
    database.commit()


def _get(database: sqlite3.Connection, name: str) -> Entry | None:
    asked = "SELECT checksum, rows, picture FROM entries WHERE name = ?"
    with closing(database.execute(asked, (name,))) as found:
        row = found.fetchone()
    if row is None:
        return None
    entry = Entry(row[1], row[2])
    if not isinstance(entry.rows, bytes) or entry.checksum != row[0]:
        raise sqlite3.DatabaseError("an entry does not match its checksum")
    return entry


def _put(database: sqlite3.Connection, name: str, entry: Entry, most_pages: int) -> None:
    needed = entry.size_bytes // (_PAGE_BYTES - 4) + _SPARE_PAGES
    if needed > most_pages // 2:
        return
    with _writing(database):
        older = None if entry.picture is not None else _get(database, name)
        if older is not None and older.picture is not None:
            entry = Entry(entry.rows, older.picture)
            needed = entry.size_bytes // (_PAGE_BYTES - 4) + _SPARE_PAGES
        database.execute("DELETE FROM entries WHERE name = ?", (name,)).close()
        _make_room(database, most_pages - needed)
        database.execute(
            f"INSERT INTO entries VALUES (?, {_NEXT}, ?, ?, ?)",
            (name, entry.checksum, entry.rows, entry.picture),
        ).close()


def _make_room(database: sqlite3.Connection, pages: int) -> None:
    """Delete what was used least recently until the entries take so many pages at most."""
    oldest = "DELETE FROM entries WHERE used = (SELECT MIN(used) FROM entries)"
    while _used_pages(database) > pages:
        with closing(database.execute(oldest)) as deleted:
            if deleted.rowcount == 0:
                return


def _used_pages(database: sqlite3.Connection) -> int:
    return _number(database, "page_count") - _number(database, "freelist_count")


def _number(database: sqlite3.Connection, pragma: str) -> int:
    with closing(database.execute(f"PRAGMA {pragma}")) as found:
        return int(found.fetchone()[0])
