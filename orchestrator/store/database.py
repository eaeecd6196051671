"""The connections: one writer with group commit, readers beside it.

SQLite: WAL with full durability.  One connection does all writing and checkpointing, for releases
3.7.0 to 3.51.2 have a race that can lose commits with more than one (sqlite.org, news of release
3.51.3); the readers are query-only.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
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
BUSY_TIMEOUT_S = 10

log = logging.getLogger(__name__)


class Database:
    """Read connections, and one writer that commits what is waiting in one transaction."""

    def __init__(self, url: str) -> None:
        self._writer_engine = sqlite_engine(url)
        self._reader_engine = sqlite_engine(url, query_only=True)
        self._queue: asyncio.Queue[_Unit[Any]] = asyncio.Queue()
        self._writer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._writer = asyncio.create_task(self._write_forever(), name="store-writer")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._writer is not None:
            await self._queue.join()
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        # Readers first: the last connection to close checkpoints, and that must be the writer's.
        await self._reader_engine.dispose()
        await self._writer_engine.dispose()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection with one consistent view; raises StoreUnavailable."""
        try:
            async with self._reader_engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            raise StoreUnavailable(f"the database cannot be read: {error.orig}") from error
        except PoolTimeoutError as error:
            raise StoreUnavailable("the database is read by too many at once") from error

    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run ``work`` in a transaction that it may share with others; returns once committed.

        ``work`` runs a second time, alone, when something that shared its transaction failed.
        Raises what ``work`` raises; StoreUnavailable when the database cannot be written.
        """
        unit = _Unit(work=work, result=asyncio.get_running_loop().create_future())
        self._queue.put_nowait(unit)
        return await asyncio.shield(unit.result)

    async def _write_forever(self) -> None:
        while True:
            group = [await self._queue.get()]
            while len(group) < GROUP_MAX and not self._queue.empty():
                group.append(self._queue.get_nowait())
            await self._commit(group)
            for _ in group:
                self._queue.task_done()

    async def _commit(self, group: list[_Unit[Any]]) -> None:
        try:
            async with self._writer_engine.begin() as connection:
                results = [await unit.work(connection) for unit in group]
        except Exception as error:  # noqa: BLE001 - raised where the result is awaited
            if len(group) > 1:
                for unit in group:
                    await self._commit([unit])
            else:
                group[0].fail(error)
        else:
            for unit, result in zip(group, results, strict=True):
                unit.succeed(result)


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
        elif isinstance(error, DBAPIError) and not isinstance(error, IntegrityError):
            unavailable = StoreUnavailable(f"the database cannot be written: {error.orig}")
            unavailable.__cause__ = error
            self.result.set_exception(unavailable)
        else:
            self.result.set_exception(error)


def sqlite_engine(url: str, *, query_only: bool = False) -> AsyncEngine:
    """An engine whose connections are in WAL mode; a writing one takes the lock at BEGIN."""
    engine = create_async_engine(url, pool_size=READERS if query_only else 1, max_overflow=0)
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
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")
        if query_only:
            cursor.execute("PRAGMA query_only = ON")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
