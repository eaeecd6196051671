"""The connections: one writer with group commit, readers beside it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from sqlalchemy.exc import DBAPIError

from orchestrator.domain.errors import LeaseLost, StoreUnavailable
from orchestrator.store.dialect import READERS
from orchestrator.store.sqlite import BUSY_TIMEOUT_S
from orchestrator.store.transaction import Transaction
from orchestrator.store.url import dialect_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.domain.invariants import Invariant

T = TypeVar("T")

GROUP_MAX = 64
"""Units of work that share one transaction at most."""
TRIES = 3
"""How often a transaction is run that failed for what another one did meanwhile."""
READ_WAIT_S = 3.0
"""How long a reader waits for a connection."""
CALM_S = 1.0
"""Trouble is over once nothing has failed for so long: some connections may work, others not."""
LISTEN_AGAIN_S = 5.0
CLOSE_S = 2.0
"""How long what waits to be written has at the end."""

log = logging.getLogger(__name__)


class Database:
    """Read connections, and one writer that commits what is waiting in one transaction."""

    def __init__(self, url: str, now: Callable[[], datetime]) -> None:
        """``now`` is this machine's clock."""
        self.dialect = dialect_of(url)
        self.violations: Counter[Invariant] = Counter()
        """Writes that were refused for what they would have broken."""
        self._now = now
        self._reading = asyncio.Semaphore(READERS)
        self._queue: asyncio.Queue[_Unit[Any]] = asyncio.Queue()
        self._group: list[_Unit[Any]] = []
        self._writes, self._reads = _Trouble("writes"), _Trouble("reads")
        self._notices = _Trouble("notices of other replicas")

    async def __aenter__(self) -> Self:
        self.dialect.check()
        self._writer = asyncio.create_task(self._write_forever(), name="store-writer")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Write what waits and close, within CLOSE_S + BUSY_TIMEOUT_S whatever the state."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._queue.join()
        with suppress(TimeoutError):
            async with asyncio.timeout(BUSY_TIMEOUT_S):
                self._writer.cancel()
                await asyncio.gather(self._writer, return_exceptions=True)
                # Readers first: on SQLite the last connection to close checkpoints, and that must
                # be the writer's.
                await self.dialect.readers.dispose()
                await self.dialect.writers.dispose()
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
            async with self.dialect.readers.begin() as connection:
                yield connection
            self._reads.note(None)
        except (DBAPIError, OSError) as error:
            why = self.dialect.why_unavailable(error) or str(getattr(error, "orig", error))
            self._reads.note(why)
            raise StoreUnavailable(f"the database cannot be read: {why}") from error
        finally:
            self._reading.release()

    async def write(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run ``work`` in a transaction that it may share with others; returns once committed.

        ``work`` runs again when something that shared its transaction failed, or another replica
        was in its way.  Whoever is cancelled meanwhile has it written all the same.  Raises what
        ``work`` raises; StoreUnavailable when the database cannot be written.
        """
        if self._writer.done():
            raise StoreUnavailable(_CLOSED)
        unit: _Unit[T] = _Unit(work, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(unit)
        return await unit.result

    @asynccontextmanager
    async def listening(self, on_notice: Callable[[str], None]) -> AsyncIterator[None]:
        """Pass on what other replicas tell; some of it may be lost, now and then all."""
        task = asyncio.create_task(self._listen_forever(on_notice), name="store-listener")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task], timeout=CLOSE_S)

    async def _listen_forever(self, on_notice: Callable[[str], None]) -> None:
        while True:
            try:
                await self.dialect.listen(on_notice, lambda: self._notices.note(None))
            except Exception as error:  # noqa: BLE001 - tried again; each wait has an end without it
                self._notices.note(self.dialect.why_unavailable(error) or str(error))
            await asyncio.sleep(LISTEN_AGAIN_S)

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
            results = await self._transact(group)
        except Exception as error:  # noqa: BLE001 - raised where the result is awaited
            why = self.dialect.why_unavailable(error)
            if len(group) > 1 and (why is None or self.dialect.is_conflict(error)):
                for unit in group:
                    await self._commit([unit])
            elif why is not None:
                self._writes.note(why)
                for unit in group:
                    unit.fail(StoreUnavailable(f"the database cannot be written: {why}"))
            else:
                group[0].fail(error)
        else:
            self._writes.note(None)
            for unit, result in zip(group, results, strict=True):
                unit.succeed(result)

    async def _transact(self, group: list[_Unit[Any]]) -> list[Any]:
        tries = 0
        while True:
            tries += 1
            whole = False
            try:
                async with self.dialect.writers.begin() as connection:
                    transaction = Transaction(connection, self.dialect, self._now)
                    results = [await unit.work(transaction) for unit in group]
                    await transaction.finish()
                    self.dialect.check()
                    whole = True
            except DBAPIError as error:
                # What fails in its commit may be committed all the same.
                if whole or tries == TRIES or not self.dialect.may_retry(error):
                    raise
            else:
                return results


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


_CLOSED = "the database is closed"
_CROWDED = "the database is read by too many at once"


@dataclass(slots=True)
class _Unit(Generic[T]):
    """One piece of work and where its result is awaited."""

    work: Callable[[Transaction], Awaitable[T]]
    result: asyncio.Future[T]

    def succeed(self, result: T) -> None:
        if not self.result.cancelled():
            self.result.set_result(result)

    def fail(self, error: Exception) -> None:
        if self.result.cancelled():
            if not isinstance(error, (StoreUnavailable, LeaseLost)):  # which are told already
                log.error("a write failed after its caller had gone", exc_info=error)
        else:
            self.result.set_exception(error)
