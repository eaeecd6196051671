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

    from sqlalchemy.engine import Connection
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
CLOSE_S = 2.0
"""How long what waits to be written has at the end."""

log = logging.getLogger(__name__)


class Database:
    """Read connections, and one writer that commits what is waiting in one transaction."""

    def __init__(self, url: str) -> None:
        self._writer_engine = sqlite_engine(url)
        self._reader_engine = sqlite_engine(url, query_only=True)
        self._path = Path(self._writer_engine.url.database or "")
        self._reading = asyncio.Semaphore(READERS)
        self._queue: asyncio.Queue[_Unit[Any]] = asyncio.Queue()
        self._group: list[_Unit[Any]] = []
        self._failing_since: float | None = None

    async def __aenter__(self) -> Self:
        self._file = self._path.stat()
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
            raise StoreUnavailable("the database is read by too many at once") from error
        try:
            async with self._reader_engine.begin() as connection:
                yield connection
        except DBAPIError as error:
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
                self._check_file()
        except Exception as error:  # noqa: BLE001 - raised where the result is awaited
            why = _why_unavailable(error)
            if why is not None:
                self._note(why)
                for unit in group:
                    unit.fail(StoreUnavailable(f"the database cannot be written: {why}"))
            elif len(group) > 1:
                for unit in group:
                    await self._commit([unit])
            else:
                group[0].fail(error)
        else:
            self._note(None)
            for unit, result in zip(group, results, strict=True):
                unit.succeed(result)

    def _check_file(self) -> None:
        """Nobody else would ever see what is written to a file that its path leads to no more."""
        try:
            same = os.path.samestat(self._path.stat(), self._file)
        except FileNotFoundError:
            same = False
        if not same:
            raise OSError(
                f"{self._path} is not the file any more that was opened: "
                "put that back before the daemon ends, or what it holds is lost"
            )

    def _note(self, why: str | None) -> None:
        """Tell when writes begin to fail, and when they work again."""
        now = asyncio.get_running_loop().time()
        if why is None and self._failing_since is not None:
            log.warning("writes work again after %.1f s", now - self._failing_since)
            self._failing_since = None
        elif why is not None and self._failing_since is None:
            log.error("writes fail: %s", why)
            self._failing_since = now


_CLOSED = "the database is closed"


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
