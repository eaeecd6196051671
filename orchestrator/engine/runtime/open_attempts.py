"""Attempts without a result: those whose request is in flight, and those left behind."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from orchestrator.domain.errors import CloudError
from orchestrator.domain.model.attempt import AttemptResult
from orchestrator.engine.runtime.loop import BackgroundTasks

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Collection, Iterator
    from contextlib import AbstractAsyncContextManager

    from orchestrator.domain.pacing.quota import Permit
    from orchestrator.engine.ports import Clock
    from orchestrator.engine.runtime.rate_limiter import RateLimiter

K = TypeVar("K")
Written = TypeVar("Written")


class OpenAttempts(Generic[K]):
    """Write-ahead record of one loop's calls; it closes attempts whose result nothing will write.

    An attempt is *under way* from the write before its request until the write of its result. An
    open attempt that is not is an *orphan*: its process ended, its partition was taken over, or a
    write raised that may have been committed.
    """

    def __init__(
        self,
        name: str,
        clock: Clock,
        wake: asyncio.Event,
        close: Callable[[Collection[K]], Awaitable[None]],
    ) -> None:
        """Name the calls for the log; ``close`` closes all open attempts but those it is given.

        ``wake`` is set at the end of each call.
        """
        self.calls = BackgroundTasks[K](name, clock, wake)
        self._clock = clock
        self._close = close
        self._may_have_orphans = True
        self._times_resumed = 0

    async def close_orphans(self, times_resumed: int) -> None:
        """Close the attempts whose result nothing will write, if there may be one.

        ``times_resumed``: as in ``Partition``; until then, the orphans of terminations that no
        loop reads stay open.
        """
        if self._may_have_orphans or times_resumed != self._times_resumed:
            self._may_have_orphans, self._times_resumed = False, times_resumed
            with self._orphaned_on_error():
                await self._close(self.calls.under_way)

    async def start(
        self,
        key: K,
        limiter: RateLimiter,
        *,
        guard: AbstractAsyncContextManager[None],
        write: Callable[[], Awaitable[Written | None]],
        send: Callable[[], Awaitable[str]],
        finish: Callable[[Written, str | CloudError, AttemptResult], Awaitable[None]],
    ) -> None:
        """Write the attempt for ``key``, then send its request beside the loop.

        ``write`` runs within ``guard``, and returns None if there is nothing to send. ``send``
        returns the RequestId. ``finish`` gets what was written, the RequestId or error, and the
        result to write.
        """
        permit, written = limiter.take(), None
        try:
            with self._orphaned_on_error():
                async with guard:
                    written = await write()
        finally:
            if written is None:
                limiter.put_back()
        if written is not None:
            self.calls.start(key, partial(self._send, limiter, permit, send, finish, written))

    async def _send(
        self,
        limiter: RateLimiter,
        permit: Permit,
        send: Callable[[], Awaitable[str]],
        finish: Callable[[Written, str | CloudError, AttemptResult], Awaitable[None]],
        written: Written,
    ) -> None:
        with self._orphaned_on_error():
            answer: str | CloudError
            try:
                answer = await limiter.send(permit, send)
            except CloudError as error:
                answer = error
            await finish(written, answer, AttemptResult.of(answer, self._clock.now()))

    @contextmanager
    def _orphaned_on_error(self) -> Iterator[None]:
        """Have orphans closed if the block raises: a commit that raised may have been applied."""
        try:
            yield
        except BaseException:
            self._may_have_orphans = True
            raise
