"""The connections: one writer with group commit, readers beside it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from sqlalchemy.exc import DBAPIError

from orchestrator.domain.errors import LeaseLost, RowsLocked, StoreUnavailable
from orchestrator.domain.pacing.backoff import backoff_s
from orchestrator.store.database.dialect import READERS
from orchestrator.store.database.sqlite import BUSY_TIMEOUT_S
from orchestrator.store.database.transaction import Transaction
from orchestrator.store.database.url import dialect_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.domain.decisions.invariants import Invariant
    from orchestrator.domain.model.lifecycle import State

T = TypeVar("T")

GROUP_MAX = 64
"""Units of work that share one transaction at most."""
TRIES = 3
"""How often a transaction is run whose connection was lost before its commit."""
CONTENDED_MAX_S = 8.0
"""How long a write is run again that other transactions are in the way of.

Less than a request may take: a client waits for 15 s.
"""
CONTENDED_BASE_S, CONTENDED_PAUSE_MAX_S = 0.02, 0.5
"""How long such a write waits before it runs again: at first, and at most."""
READ_WAIT_S = 3.0
"""How long a reader waits for a connection."""
CALM_S = 1.0
"""Trouble is over once nothing has failed for so long: some connections may work, others not."""
LISTEN_AGAIN_S = 5.0
CLOSE_S = 2.0
"""How long what waits to be written has at the end."""

log = logging.getLogger(__name__)
_SYSTEM_RANDOM = SystemRandom()


class Database:
    """Read connections, and one writer that commits what is waiting in one transaction."""

    def __init__(
        self, url: str, now: Callable[[], datetime], random: Random = _SYSTEM_RANDOM
    ) -> None:
        """``now`` is this machine's clock."""
        self.dialect = dialect_of(url)
        self.violations: Counter[Invariant] = Counter()
        """Writes that were refused for what they would have broken."""
        self.ended: Counter[State] = Counter()
        """Terminations that ended, by the state in which they did."""
        self._now = now
        self._random = random
        self._reading = asyncio.Semaphore(READERS)
        self._requested = asyncio.Semaphore(max(1, READERS - 1))
        """Reads that answer requests leave one connection to all others."""
        self._queue: asyncio.Queue[_Unit[Any]] = asyncio.Queue()
        self._group: list[_Unit[Any]] = []
        self._postponed: dict[_Unit[Any], asyncio.TimerHandle] = {}
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
        for timer in self._postponed.values():
            timer.cancel()
        waiting = [unit for unit in self._group if not unit.result.done()] + [*self._postponed]
        while not self._queue.empty():
            waiting.append(self._queue.get_nowait())
        left = dict.fromkeys(waiting)  # one that runs again is there twice
        for unit in left:
            unit.fail(StoreUnavailable(_CLOSED))
        if left:
            log.error("%d writes were given up: %s", len(left), _CLOSED)

    @asynccontextmanager
    async def read(self, *, for_request: bool = False) -> AsyncIterator[AsyncConnection]:
        """A connection with one consistent view; raises StoreUnavailable.

        Those that answer requests (``for_request``) cannot take all connections at once.
        """
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(READ_WAIT_S):
                    if for_request:
                        await held.enter_async_context(self._requested)
                    await held.enter_async_context(self._reading)
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

    async def write(
        self, work: Callable[[Transaction], Awaitable[T]], *, locks_from: str = ""
    ) -> T:
        """Run ``work`` in a transaction that it may share with others; returns once committed.

        ``work`` runs again when something that shared its transaction failed, or another replica
        was in its way.  Those that share a transaction run in the order of ``locks_from``, so that
        all replicas lock in one.  Whoever is cancelled meanwhile has it written all the same.
        Raises what ``work`` raises; StoreUnavailable when the database cannot be written: it is
        RowsLocked where another session keeps locked what ``work`` writes.
        """
        if self._writer.done():
            raise StoreUnavailable(_CLOSED)
        loop = asyncio.get_running_loop()
        unit: _Unit[T] = _Unit(
            work, loop.create_future(), locks_from, loop.time() + CONTENDED_MAX_S
        )
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
            self._group.sort(key=lambda unit: unit.locks_from)
            await self._commit(self._group)

    async def _commit(self, group: list[_Unit[Any]]) -> None:
        try:
            results = await self._transact(group)
        except Exception as error:  # noqa: BLE001 - raised where the result is awaited
            why, conflict = self.dialect.why_unavailable(error), self.dialect.is_conflict(error)
            locked = self.dialect.is_locked(error)
            if len(group) > 1 and (why is None or conflict or locked):
                for unit in group:
                    await self._commit([unit])
            elif conflict:
                self._postpone(group[0], error)
            elif why is not None:
                self._writes.note(why)
                unavailable = RowsLocked if locked else StoreUnavailable
                self._fail(group, unavailable(f"the database cannot be written: {why}"))
            else:
                self._fail(group, error)
        else:
            self._writes.note(None)
            for unit, result in zip(group, results, strict=True):
                unit.succeed(result)
                self._queue.task_done()

    def _fail(self, group: list[_Unit[Any]], error: Exception) -> None:
        for unit in group:
            unit.fail(error)
            self._queue.task_done()

    def _postpone(self, unit: _Unit[Any], error: Exception) -> None:
        """Run it again a moment later, and the others meanwhile."""
        loop = asyncio.get_running_loop()
        unit.conflicts += 1
        pause_s = backoff_s(
            unit.conflicts,
            base_s=CONTENDED_BASE_S,
            max_s=CONTENDED_PAUSE_MAX_S,
            jitter=self._random.random(),
        )
        if loop.time() + pause_s > unit.contends_until:
            log.error(
                "a write was given up: other transactions were in its way %d times: %s",
                unit.conflicts,
                getattr(error, "orig", error),
            )
            self._fail([unit], StoreUnavailable(_CONTENDED))
        else:
            self._postponed[unit] = loop.call_later(pause_s, self._queue_again, unit)

    def _queue_again(self, unit: _Unit[Any]) -> None:
        del self._postponed[unit]
        self._queue.put_nowait(unit)
        self._queue.task_done()  # of the time before

    async def _transact(self, group: list[_Unit[Any]]) -> list[Any]:
        tries = 0
        while True:
            tries += 1
            whole = False
            try:
                async with self.dialect.writers.begin() as connection:
                    transaction = Transaction(connection, self.dialect, self._now, self.ended)
                    results = [await unit.work(transaction) for unit in group]
                    await transaction.finish()
                    self.dialect.check()
                    whole = True
            except DBAPIError as error:
                # What fails in its commit may be committed all the same.
                if whole or tries == TRIES or not error.connection_invalidated:
                    raise
            else:
                transaction.committed()
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
_CONTENDED = "the database cannot be written: other transactions were in the way again and again"


@dataclass(slots=True, eq=False)
class _Unit(Generic[T]):
    """One piece of work and where its result is awaited."""

    work: Callable[[Transaction], Awaitable[T]]
    result: asyncio.Future[T]
    locks_from: str
    contends_until: float
    """By the event loop's clock."""
    conflicts: int = 0

    def succeed(self, result: T) -> None:
        if not self.result.cancelled():
            self.result.set_result(result)

    def fail(self, error: Exception) -> None:
        if self.result.cancelled():
            if not isinstance(error, (StoreUnavailable, LeaseLost)):  # which are told already
                log.error("a write failed after its caller had gone", exc_info=error)
        else:
            self.result.set_exception(error)
