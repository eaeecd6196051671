"""The connections to the database: one writer with group commit, readers beside it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
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
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.domain.decisions.invariants import Invariant
    from orchestrator.domain.model.lifecycle import State

T = TypeVar("T")
Item = TypeVar("Item")

GROUP_MAX = 64
"""Maximum number of writes in one transaction."""
TRIES = 3
"""Maximum number of runs of a transaction whose connection is lost before its commit."""
CONTENDED_MAX_S = 8.0
"""Time for which a write that conflicts with other transactions is tried again.

Shorter than a request may take: a client waits for 15 s.
"""
CONTENDED_BASE_S, CONTENDED_PAUSE_MAX_S = 0.02, 0.5
"""First and longest pause before such a write runs again."""
READ_WAIT_S = 3.0
"""Longest wait of a read for a connection."""
CALM_S = 1.0
"""An outage ends after this long without a failure: some connections may still fail."""
LISTEN_AGAIN_S = 5.0
CLOSE_S = 2.0
"""Time that queued writes have when the database is closed."""

log = logging.getLogger(__name__)
_SYSTEM_RANDOM = SystemRandom()


class Database:
    """Read connections, and one writer that commits all waiting writes in one transaction."""

    def __init__(
        self, url: str, now: Callable[[], datetime], random: Random = _SYSTEM_RANDOM
    ) -> None:
        """Take this machine's clock as ``now``."""
        self.dialect = dialect_of(url)
        self.violations: Counter[Invariant] = Counter()
        """Writes that were refused, by the invariant that they would have broken."""
        self.ended: Counter[State] = Counter()
        """Terminations that ended, by their final state."""
        self._now = now
        self._random = random
        self._read_slots = asyncio.Semaphore(READERS)
        self._request_slots = asyncio.Semaphore(max(1, READERS - 1))
        """Reads that answer requests leave one connection to all other reads."""
        self._queue: asyncio.Queue[_WriteRequest[Any]] = asyncio.Queue()
        self._group: list[_WriteRequest[Any]] = []
        self._postponed: dict[_WriteRequest[Any], asyncio.TimerHandle] = {}
        self._writes = _OutageLog("database writes", _NO_WORK)
        self._reads = _OutageLog("database reads", _NO_WORK)
        self._notices = _OutageLog(
            "database notifications of other replicas", _LATE, level=logging.WARNING
        )

    async def __aenter__(self) -> Self:
        self.dialect.check()
        self._writer = asyncio.create_task(self._write_forever(), name="store-writer")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Write what is queued and close, within CLOSE_S + BUSY_TIMEOUT_S in any state."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._queue.join()
        with suppress(TimeoutError):
            async with asyncio.timeout(BUSY_TIMEOUT_S):
                self._writer.cancel()
                await asyncio.gather(self._writer, return_exceptions=True)
                # Close the readers first: on SQLite the last connection to close checkpoints, and
                # that must be the writer's.
                await self.dialect.readers.dispose()
                await self.dialect.writers.dispose()
        for timer in self._postponed.values():
            timer.cancel()
        waiting = [request for request in self._group if not request.result.done()]
        waiting += [*self._postponed]
        while not self._queue.empty():
            waiting.append(self._queue.get_nowait())
        dropped = dict.fromkeys(waiting)  # a request that runs again may be listed twice
        for request in dropped:
            request.fail(StoreUnavailable(_CLOSED))
        if dropped:
            log.error(
                "%d database writes may not have been made, since the daemon stops; the next "
                "start continues their work",
                len(dropped),
            )

    @asynccontextmanager
    async def read(
        self, *, for_request: bool = False, one_statement: bool = False
    ) -> AsyncIterator[AsyncConnection]:
        """Open a connection with one consistent snapshot; raises StoreUnavailable.

        Reads that answer requests (``for_request``) cannot take all connections at once. For
        ``one_statement`` there may be no transaction: another statement could see a later snapshot.
        """
        readers = self.dialect.one_statement_readers if one_statement else self.dialect.readers
        async with AsyncExitStack() as slots:
            try:
                async with asyncio.timeout(READ_WAIT_S):
                    if for_request:
                        await slots.enter_async_context(self._request_slots)
                    await slots.enter_async_context(self._read_slots)
            except TimeoutError as error:
                self._reads.record_result(_CROWDED)
                raise StoreUnavailable(_CROWDED) from error
            try:
                async with readers.begin() as connection:
                    yield connection
                self._reads.record_result(None)
            except (DBAPIError, OSError) as error:
                why = self.dialect.why_unavailable(error)
                if why is None:  # the statement is faulty
                    raise
                self._reads.record_result(why)
                raise StoreUnavailable(f"the database cannot be read: {why}") from error

    async def write(
        self, work: Callable[[Transaction], Awaitable[T]], *, lock_order: str = ""
    ) -> T:
        """Run ``work`` in a transaction that other writes may share; return once committed.

        ``work`` runs again if another write of its transaction failed, or if it conflicted with
        another replica. Writes that share a transaction run in the order of ``lock_order``, so that
        all replicas lock rows in the same order. If the caller is cancelled, the write is made
        anyway. Raises what ``work`` raises, and StoreUnavailable when the database cannot be
        written: its subclass RowsLocked if another session keeps the rows that ``work`` writes
        locked.
        """

        async def alone(transaction: Transaction, _: Sequence[None]) -> list[T]:
            return [await work(transaction)]

        return await self.write_item(alone, None, lock_order=lock_order)

    async def write_item(
        self,
        work: Callable[[Transaction, Sequence[Item]], Awaitable[Sequence[T]]],
        item: Item,
        *,
        lock_order: str = "",
    ) -> T:
        """Write an item as :meth:`write` does, in one run of ``work`` with those that also wait.

        ``work`` gets all items of the transaction that are to be written by it, and returns their
        results in the same order. If it fails, it runs again for each of them alone.
        """
        if self._writer.done():
            raise StoreUnavailable(_CLOSED)
        loop = asyncio.get_running_loop()
        request: _WriteRequest[T] = _WriteRequest(
            work, item, loop.create_future(), lock_order, loop.time() + CONTENDED_MAX_S
        )
        self._queue.put_nowait(request)
        return await request.result

    @asynccontextmanager
    async def listening(self, on_notice: Callable[[str], None]) -> AsyncIterator[None]:
        """Pass on notifications of other replicas; some of them, or all, may be lost."""
        task = asyncio.create_task(self._listen_forever(on_notice), name="store-listener")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task], timeout=CLOSE_S)

    async def _listen_forever(self, on_notice: Callable[[str], None]) -> None:
        while True:
            try:
                await self.dialect.listen(on_notice, lambda: self._notices.record_result(None))
            except Exception as error:  # noqa: BLE001 - retried; no wait depends on notifications
                self._notices.record_result(self.dialect.why_unavailable(error) or repr(error))
            await asyncio.sleep(LISTEN_AGAIN_S)

    async def _write_forever(self) -> None:
        while True:
            self._group = [await self._queue.get()]
            while len(self._group) < GROUP_MAX and not self._queue.empty():
                self._group.append(self._queue.get_nowait())
            self._group.sort(key=lambda request: request.lock_order)
            await self._commit(self._group)

    async def _commit(self, group: list[_WriteRequest[Any]]) -> None:
        try:
            results = await self._transact(group)
        except Exception as error:  # noqa: BLE001 - raised where the result is awaited
            why, conflict = self.dialect.why_unavailable(error), self.dialect.is_conflict(error)
            locked = self.dialect.is_locked(error)
            if len(group) > 1 and (why is None or conflict or locked):
                for request in group:
                    await self._commit([request])
            elif conflict:
                self._postpone(group[0], error)
            elif why is not None:
                self._writes.record_result(why)
                unavailable = RowsLocked if locked else StoreUnavailable
                self._fail(group, unavailable(f"the database cannot be written: {why}"))
            else:
                self._fail(group, error)
        else:
            self._writes.record_result(None)
            for request, result in zip(group, results, strict=True):
                request.succeed(result)
                self._queue.task_done()

    def _fail(self, group: list[_WriteRequest[Any]], error: Exception) -> None:
        for request in group:
            request.fail(error)
            self._queue.task_done()

    def _postpone(self, request: _WriteRequest[Any], error: Exception) -> None:
        """Run the request again after a pause; others run meanwhile."""
        loop = asyncio.get_running_loop()
        request.conflicts += 1
        pause_s = backoff_s(
            request.conflicts,
            base_s=CONTENDED_BASE_S,
            max_s=CONTENDED_PAUSE_MAX_S,
            jitter=self._random.random(),
        )
        if loop.time() + pause_s > request.retry_until:
            log.error(
                "a database write was not made: it conflicted with other transactions %d times: "
                "%s. Its loop tries again; a request is answered with status 503",
                request.conflicts,
                getattr(error, "orig", error),
            )
            self._fail([request], StoreUnavailable(_CONTENDED))
        else:
            self._postponed[request] = loop.call_later(pause_s, self._queue_again, request)

    def _queue_again(self, request: _WriteRequest[Any]) -> None:
        del self._postponed[request]
        self._queue.put_nowait(request)
        self._queue.task_done()  # for its previous place in the queue

    async def _transact(self, group: list[_WriteRequest[Any]]) -> list[Any]:
        tries = 0
        while True:
            tries += 1
            at_commit = False
            try:
                async with self.dialect.writers.begin() as connection:
                    transaction = Transaction(connection, self.dialect, self._now, self.ended)
                    results: list[Any] = []
                    for work, requests in groupby(group, lambda request: request.work):
                        results += await work(transaction, [each.item for each in requests])
                    await transaction.finish()
                    self.dialect.check()
                    at_commit = True
            except DBAPIError as error:
                # A commit that failed may have been applied.
                if at_commit or tries == TRIES or not error.connection_invalidated:
                    raise
            else:
                transaction.committed()
                return results


class _OutageLog:
    """Logs the start and the end of an outage, not each failure."""

    def __init__(self, subject: str, consequence: str, level: int = logging.ERROR) -> None:
        self._subject = subject
        self._consequence = consequence
        self._level = level
        self._since: float | None = None
        self._failed_at = 0.0

    def record_result(self, why: str | None) -> None:
        """Record one result: the reason of a failure, or None for a success."""
        now = asyncio.get_running_loop().time()
        if why is not None:
            self._failed_at = now
            if self._since is None:
                self._since = now
                line = "%s fail: %s; until they work again, %s"
                log.log(self._level, line, self._subject, why, self._consequence)
        elif self._since is not None and now >= self._failed_at + CALM_S:
            log.warning("%s work again after %.1f s", self._subject, now - self._since)
            self._since = None


_NO_WORK = (
    "work on jobs may stop and requests are answered with 503: see the database's server or disk"
)
_LATE = "changes by other replicas are noticed some seconds later; nothing is lost"
_CLOSED = "the database is closed"
_CROWDED = "the database is read by too many at once"
_CONTENDED = "the database cannot be written: conflicts with other transactions did not end"


@dataclass(slots=True, eq=False)
class _WriteRequest(Generic[T]):
    """One item to be written by ``work``, and the future on which its caller waits."""

    work: Callable[[Transaction, Sequence[Any]], Awaitable[Sequence[T]]]
    item: Any
    result: asyncio.Future[T]
    lock_order: str
    retry_until: float
    """End of its retries after conflicts, by the event loop's clock."""
    conflicts: int = 0

    def succeed(self, result: T) -> None:
        if not self.result.cancelled():
            self.result.set_result(result)

    def fail(self, error: Exception) -> None:
        if self.result.cancelled():
            if not isinstance(error, (StoreUnavailable, LeaseLost)):  # logged elsewhere
                log.error(
                    "a database write failed after its request had been given up; report this "
                    "traceback",
                    exc_info=error,
                )
        else:
            self.result.set_exception(error)
