"""The connections: one writer with group commit, readers beside it.

SQLite: WAL with full durability.  One connection does all writing and checkpointing, for releases
3.7.0 to 3.51.2 have a race that can lose commits with more than one (sqlite.org, news of release
3.51.3); the readers are query-only.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from sqlalchemy import event
from sqlalchemy.exc import DatabaseError, DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from orchestrator.domain.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sqlalchemy.engine import Connection, ExceptionContext
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

T = TypeVar("T")

GROUP_MAX = 64
"""Units of work that share one transaction at most."""
READERS = 4
READ_WAIT_S = 5.0
"""How long a reader waits for a connection."""
BUSY_TIMEOUT_S = 2.0
"""How long a transaction waits for a lock that another process holds."""
CALM_S = 1.0
"""Trouble is over once nothing has failed for so long: some connections may work, others not."""
CLOSE_S = 2.0
"""How long what waits to be written has at the end."""

log = logging.getLogger(__name__)


class Database:
    """Read connections, and one writer that commits what is waiting in one transaction."""

    def __init__(self, url: str) -> None:
        self._writer_engine = sqlite_engine(url)
        self._reader_engine = sqlite_engine(url, query_only=True)
        self._path = Path(self._writer_engine.url.database or "")
        self._files: dict[str, os.stat_result] = {}

        @event.listens_for(self._writer_engine.sync_engine, "connect")
        def forget(*_: object) -> None:
            # A writer that had to connect anew may have made a -wal anew.
            self._files.pop("-wal", None)

        @event.listens_for(self._reader_engine.sync_engine, "handle_error")
        def connect_anew(context: ExceptionContext) -> None:
            # Else one that found another file in the place goes on to read that.
            context.is_disconnect = True
            context.invalidate_pool_on_disconnect = False

        self._reading = asyncio.Semaphore(READERS)
        self._queue: asyncio.Queue[_Unit[Any]] = asyncio.Queue()
        self._group: list[_Unit[Any]] = []
        self._writes, self._reads = _Trouble("writes"), _Trouble("reads")

    async def __aenter__(self) -> Self:
        self._files[""] = self._path.stat()
        self._writer = asyncio.create_task(self._write_forever(), name="store-writer")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Write what waits and close, within CLOSE_S + BUSY_TIMEOUT_S whatever the state."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._queue.join()
        with suppress(TimeoutError):
            async with asyncio.timeout(BUSY_TIMEOUT_S):
                # Readers first: the last connection to close checkpoints, and that must be the
                # writer's.
                await self._reader_engine.dispose()
                self._writer.cancel()
                await asyncio.gather(self._writer, return_exceptions=True)
                await self._writer_engine.dispose()
        left = [unit for unit in self._group if not unit.result.done()]
        while not self._queue.empty():
            left.append(self._queue.get_nowait())
        for unit in left:
            unit.fail(StoreUnavailable(_CLOSED))
        if left:
            log.error("%d writes were given up: %s", len(left), _CLOSED)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection with one consistent view; raises StoreUnavailable."""
        try:
            async with asyncio.timeout(READ_WAIT_S):
                await self._reading.acquire()
        except TimeoutError as error:
            self._reads.note(_CROWDED)
            raise StoreUnavailable(_CROWDED) from error
        try:
            async with self._reader_engine.begin() as connection:
                yield connection
            self._reads.note(None)
        except DBAPIError as error:
            self._reads.note(str(error.orig))
            raise StoreUnavailable(f"the database cannot be read: {error.orig}") from error
        finally:
            self._reading.release()

    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run ``work`` in a transaction that it may share with others; returns once committed.

        ``work`` runs a second time, alone, when something that shared its transaction failed.
        Whoever is cancelled meanwhile has it written all the same.  Raises what ``work`` raises;
        StoreUnavailable when the database cannot be written.
        """
        if self._writer.done():
            raise StoreUnavailable(_CLOSED)
        unit: _Unit[T] = _Unit(work, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(unit)
        return await unit.result

    async def _write_forever(self) -> None:
        while True:
            self._group = [await self._queue.get()]
            while len(self._group) < GROUP_MAX and not self._queue.empty():
                self._group.append(self._queue.get_nowait())
            await self._commit(self._group)
            for _ in self._group:
                self._queue.task_done()

    async def _commit(self, group: list[_Unit[Any]]) -> None:
        try:
            async with self._writer_engine.begin() as connection:
                results = [await unit.work(connection) for unit in group]
                self._check_files()
        except Exception as error:  # noqa: BLE001 - raised where the result is awaited
            why = _why_unavailable(error)
            if why is not None:
                self._writes.note(why)
                for unit in group:
                    unit.fail(StoreUnavailable(f"the database cannot be written: {why}"))
            elif len(group) > 1:
                for unit in group:
                    await self._commit([unit])
            else:
                group[0].fail(error)
        else:
            self._writes.note(None)
            for unit, result in zip(group, results, strict=True):
                unit.succeed(result)

    def _check_files(self) -> None:
        """Nobody else would ever see what is written to a file that its path leads to no more."""
        for suffix, if_deleted in _IF_DELETED.items():
            path = self._path.with_name(self._path.name + suffix)
            try:
                found = path.stat()
                # SQLite makes the -wal as it begins to write, and keeps it until the end.
                same = os.path.samestat(found, self._files.setdefault(suffix, found))
            except FileNotFoundError:
                same = suffix not in self._files
            if not same:
                raise OSError(
                    f"{path} is not the file any more that was opened: "
                    f"move that back before the daemon ends; if it was deleted, {if_deleted}"
                )


class _Trouble:
    """Told when it begins and when it ends, however often it is met meanwhile."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._since: float | None = None
        self._failed_at = 0.0

    def note(self, why: str | None) -> None:
        """Take note of why it failed now; None: it worked."""
        now = asyncio.get_running_loop().time()
        if why is not None:
            self._failed_at = now
            if self._since is None:
                self._since = now
                log.error("%s fail: %s", self._what, why)
        elif self._since is not None and now >= self._failed_at + CALM_S:
            log.warning("%s work again after %.1f s", self._what, now - self._since)
            self._since = None


_IF_DELETED = {
    "": "restart it on a backup",
    "-wal": "end it with SIGTERM, which saves what it holds, and start it again",
}
_CLOSED = "the database is closed"
_CROWDED = "the database is read by too many at once"


def _why_unavailable(error: Exception) -> str | None:
    """Why no write works now; None where the error is of one write alone.

    SQLITE_ERROR is a statement that SQLite does not understand.
    """
    match error:
        case OSError():
            return str(error)
        case DatabaseError(orig=orig) if (
            type(error) in (OperationalError, DatabaseError)
            and getattr(orig, "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR
        ):
            return str(orig)
        case _:
            return None


@dataclass(slots=True)
class _Unit(Generic[T]):
    """One piece of work and where its result is awaited."""

    work: Callable[[AsyncConnection], Awaitable[T]]
    result: asyncio.Future[T]

    def succeed(self, result: T) -> None:
        if not self.result.cancelled():
            self.result.set_result(result)

    def fail(self, error: Exception) -> None:
        if self.result.cancelled():
            log.error("a write failed after its caller had gone", exc_info=error)
        else:
            self.result.set_exception(error)


def sqlite_engine(url: str, *, query_only: bool = False) -> AsyncEngine:
    """An engine whose connections are in WAL mode; a writing one takes the lock at BEGIN."""
    engine = create_async_engine(
        url,
        pool_size=READERS if query_only else 1,
        # Readers wait in Database.read: on Python 3.11 and SQLAlchemy 2.0.46 the pool's own queue
        # swallows a cancellation now and then.
        max_overflow=-1 if query_only else 0,
        connect_args={"timeout": BUSY_TIMEOUT_S},
    )
    begin = "BEGIN" if query_only else "BEGIN IMMEDIATE"

    @event.listens_for(engine.sync_engine, "connect")
    def on_connect(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        # Else the driver begins transactions by itself, DEFERRED, and a read that turns into a
        # write loses updates.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        if query_only:
            cursor.execute("PRAGMA query_only = ON")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
