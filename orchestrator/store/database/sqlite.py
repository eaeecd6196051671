"""SQLite: a file that one process uses."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import stat
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import aiosqlite
from sqlalchemy import URL, event, text
from sqlalchemy.exc import DatabaseError, DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import create_async_engine

from orchestrator.domain.errors import ConfigurationError
from orchestrator.store.database.aiosqlite_visits import visit_less
from orchestrator.store.database.dialect import READERS, pool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy.engine import Connection, ExceptionContext
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
    from sqlalchemy.pool import ConnectionPoolEntry

LONGEST_SUFFIX: Final = "-journal"
"""Longest suffix of the files that SQLite creates beside the database."""
BUSY_TIMEOUT_S = 2.0
"""Time that a transaction waits for a lock that another process holds."""

PRIVATE: Final = stat.S_IRUSR | stat.S_IWUSR
"""Mode of the files: they hold jobs, who had them terminated, and why."""
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_HEADER: Final = b"SQLite format 3\0"
_ONE_STATEMENT: Final = "one_statement"
"""Option of connections whose only statement needs no transaction around it."""
_ANOTHER_PATH: Final = (
    "give the path of a database of this program, or of a file that it may create"
)

log = logging.getLogger(__name__)

_PRAGMAS: Final = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA foreign_keys = ON;
"""


def unfit(path: Path) -> str | None:
    """Return why ``path`` cannot be a database; None if it can, or if nothing is there.

    Nothing is changed. The file is opened and closed, which releases the locks that SQLite holds
    for this process: call this before the first connection.
    """
    try:
        # Opening another kind of file may block, or act on a device.
        if not stat.S_ISREG(path.stat().st_mode):
            why = "it is not a regular file"
        else:
            with path.open("rb") as file:
                begins = file.read(len(_HEADER))
            if begins in (b"", _HEADER):
                return None
            why = "it is not an SQLite database"
    except OSError:  # SQLite reports the reason
        return None
    return f"database.url: {path} cannot be used: {why}; {_ANOTHER_PATH}"


class Sqlite:
    """A file that one process uses: WAL with full durability.

    One connection does all writing and checkpointing, because releases 3.7.0 to 3.51.2 have a race
    that can lose commits with more than one (sqlite.org, news of release 3.51.3). The readers are
    query-only.
    """

    shared = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = str(path)
        file = path.resolve()
        # SQLite puts its log beside the real file, after symbolic links.
        self._log = file.with_name(f"{file.name}-wal")
        self._files: dict[Path, os.stat_result] = {}
        self.writers = self._engine()
        self.readers = self._engine(query_only=True)
        self.one_statement_readers = self.readers.execution_options(**{_ONE_STATEMENT: True})

        @event.listens_for(self.readers.sync_engine, "handle_error")
        def reconnect(context: ExceptionContext) -> None:
            # Otherwise a connection that opened another file at the path would go on to read that.
            context.is_disconnect = True
            context.invalidate_pool_on_disconnect = False

    def upgrader(self) -> AsyncEngine:
        return self._engine()

    def _engine(self, *, query_only: bool = False) -> AsyncEngine:
        engine = create_async_engine(
            URL.create("sqlite+aiosqlite", database=self.name),
            **pool(READERS if query_only else 1),
            async_creator=self._connect,
        )

        pragmas = _PRAGMAS + ("PRAGMA query_only = ON;" if query_only else "")

        async def set_up(raw: aiosqlite.Connection) -> None:
            # Otherwise one text that is not UTF-8 fails the whole statement that reads it.
            raw.text_factory = partial(str, encoding="utf-8", errors="replace")
            await raw.executescript(pragmas)

        @event.listens_for(engine.sync_engine, "connect")
        def on_connect(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
            # Otherwise the driver begins transactions itself, DEFERRED, and a read that becomes a
            # write loses updates.
            connection.isolation_level = None
            connection.run_async(set_up)
            if not query_only:
                # This connection may create a new -wal.
                self._files.pop(self._log, None)

        @event.listens_for(engine.sync_engine, "begin")
        def on_begin(connection: Connection) -> None:
            if not connection.get_execution_options().get(_ONE_STATEMENT):
                connection.exec_driver_sql("BEGIN" if query_only else "BEGIN IMMEDIATE")

        return engine

    async def _connect(self) -> aiosqlite.Connection:
        connection = aiosqlite.connect(self.name, timeout=BUSY_TIMEOUT_S)
        connection._thread.daemon = True  # noqa: SLF001 - as SQLAlchemy does
        visit_less(connection)
        return await connection

    def prepare(self) -> None:
        """Make the files private; files that SQLite creates get the mode of the database file.

        Raises ConfigurationError for a file that is not a database, before it is changed.
        """
        if why := unfit(self._path):
            raise ConfigurationError([why])
        file = self._path.resolve()
        with suppress(OSError):  # it exists, or SQLite reports the reason
            os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE))
        for path in (file, self._log, file.with_name(f"{file.name}-shm")):
            try:
                if path.stat().st_mode & _OTHERS:
                    path.chmod(PRIVATE)
                    log.warning("%s was readable by other users: its mode is now 0600", path)
            except FileNotFoundError:
                continue
            except PermissionError:
                log.warning("%s is readable by other users: have its owner chmod 600 it", path)

    def check(self) -> None:
        """Raise OSError if a file of the database was moved, replaced or deleted after opening."""
        for path, if_deleted in ((self._path, _RESTORE), (self._log, _END)):
            try:
                found = path.stat()
                # SQLite creates the -wal with its first write, and keeps it until the end.
                same = os.path.samestat(found, self._files.setdefault(path, found))
            except FileNotFoundError:
                same = path not in self._files
            if not same:
                raise OSError(
                    f"{path} is no longer the file that was opened: move that file back before the "
                    f"daemon ends; if it was deleted, {if_deleted}"
                )

    def why_unavailable(self, error: Exception) -> str | None:
        match error:
            case OSError():
                return str(error)
            case DatabaseError(orig=orig) if (
                type(error) in (OperationalError, DatabaseError)
                # SQLITE_ERROR is a faulty statement, but for a missing table.
                and (
                    getattr(orig, "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR
                    or str(orig).startswith("no such table")
                )
            ):
                return str(orig)
            case _:
                return None

    def is_conflict(self, _error: Exception) -> bool:
        return False

    def is_locked(self, _error: Exception) -> bool:
        return False

    def advice(self, error: DBAPIError | OSError) -> str:
        if isinstance(error, OSError):
            return _DAMAGED
        # The lowest byte is the kind of error, the others give details.
        kind = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        return _SQLITE_ADVICE.get(kind, _ANOTHER_PATH)

    async def clock(self, _connection: AsyncConnection) -> None:
        return None

    async def order_commits(self, _connection: AsyncConnection) -> None:
        """Do nothing: BEGIN IMMEDIATE admits one transaction at a time."""

    async def before_upgrade(self, connection: AsyncConnection) -> None:
        # BEGIN IMMEDIATE blocks other processes. Without the check, damage would be found much
        # later, or never.
        found = (await connection.execute(text("PRAGMA quick_check(1)"))).scalar_one()
        if found != "ok":
            raise OSError(f"it is damaged: {found}")

    async def notify(self, _connection: AsyncConnection, _notice: str) -> None:
        """Do nothing: there is no other replica."""

    async def listen(self, _on_notice: Callable[[str], None], _heard: Callable[[], None]) -> None:
        await asyncio.Event().wait()


_DISK: Final = "see whether its disk is full or failing"
_DAMAGED: Final = "restore a backup, or save what can be read with the sqlite3 shell's .recover"
_SQLITE_ADVICE: Final = {
    sqlite3.SQLITE_BUSY: "another process holds its write lock: end that process, and start again",
    sqlite3.SQLITE_FULL: _DISK,
    sqlite3.SQLITE_IOERR: _DISK,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
}
_RESTORE: Final = "restart the daemon on a backup"
_END: Final = "end the daemon with SIGTERM, which saves what the file held, and start it again"
