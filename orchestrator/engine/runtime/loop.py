"""Runner of every loop: a step, then a wait that a wake-up shortens; failures are logged."""

from __future__ import annotations

import asyncio
import logging
import math
from enum import StrEnum, auto
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from orchestrator.domain.errors import LeaseLost, StoreUnavailable
from orchestrator.engine.runtime.retry_timer import RetryTimer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from orchestrator.engine.ports import Clock

    OnStep = Callable[["LoopKind", float, bool], None]
    """Callback that gets the kind of loop, the seconds of a step, and whether the step failed."""

K = TypeVar("K")

FAILURE_BASE_S = 0.5
FAILURE_MAX_S = 5.0
FAILING_AFTER = 3
"""Failures in a row after which a loop counts as failing: about a second of pauses."""
PAUSE_S = 5.0
"""Pause of background tasks after the database could not be used (``BackgroundTasks.pause_s``)."""
IDLE_MAX_S = 5.0
"""Longest wait of a loop before its next step while its partition has work.

A wake-up only shortens it.
"""

_LOGGED_ELSEWHERE = (StoreUnavailable, LeaseLost)

log = logging.getLogger(__name__)


class LoopKind(StrEnum):
    """Name of a loop in ``/metrics``, the same in every partition."""

    ESCALATOR = auto()
    INSTANCE_READER = auto()
    JOB_POLLER = auto()
    JOB_TERMINATOR = auto()
    LEASE_MANAGER = auto()
    MACHINE_POLLER = auto()
    REVIVAL_WATCHER = auto()
    SET_ASIDE_RETRIER = auto()
    SINGLE_JOB_POLLER = auto()


UNWOKEN_S: Final = {LoopKind.JOB_POLLER: 0.25, LoopKind.SINGLE_JOB_POLLER: 0.25}
"""Seconds after a step without work in which a wake-up does not begin the next step.

A step of these loops reads hundreds of rows, and every decision of the partition wakes one of them.
"""


class Loop(Protocol):
    """A loop: its kind, a name for the log, one step, and the event that wakes it."""

    kind: LoopKind
    name: str
    wake: asyncio.Event

    async def step(self) -> float:
        """Do what is due; return the seconds until there is more to do."""


async def run_until(
    stop: asyncio.Event,
    loop: Loop,
    clock: Clock,
    random: Random,
    failing: dict[str, Exception],
    *,
    on_step: OnStep = lambda *_: None,
    has_work: Callable[[], bool] = lambda: True,
) -> None:
    """Run a loop until ``stop``; log a series of failures when it begins and when it ends.

    While ``has_work`` returns False, the loop steps only when it is woken.

    After FAILING_AFTER failures in a row, ``failing`` holds the last error under the loop's name
    until a step works. ``on_step`` gets the time of each step; calls in flight beside the loop are
    not part of it. A step that raises LeaseLost has not failed.

    StoreUnavailable and LeaseLost are not logged here: the database and the lease manager log them
    once for all loops.

    ``stop`` ends the loop between two steps. Cancelling a step would not be reliable: a cancelled
    step may swallow the cancellation, as ``asyncio.wait_for``, and with it the queue of a database
    pool, does up to Python 3.11.
    """
    retry, logged = RetryTimer(clock, random, base_s=FAILURE_BASE_S, max_s=FAILURE_MAX_S), False
    while not stop.is_set():
        loop.wake.clear()
        began_at = clock.monotonic()
        try:
            wait_s = await loop.step()
        except Exception as error:  # noqa: BLE001 - logged, and tried again
            pause_s, failed = retry.failed(), not isinstance(error, LeaseLost)
            on_step(loop.kind, clock.monotonic() - began_at, failed)
            if failed and retry.failures >= FAILING_AFTER:
                failing[loop.name] = error
            if not logged and not isinstance(error, _LOGGED_ELSEWHERE):
                logged = True
                log_failure(
                    error,
                    "%s has an internal error and is repeated until it works; report this "
                    "traceback",
                    loop.name,
                )
            await _wait(clock, pause_s, stop)
        else:
            on_step(loop.kind, clock.monotonic() - began_at, False)
            if logged:
                log.warning("%s works again after %d failures", loop.name, retry.failures)
            retry.worked()
            logged = False
            failing.pop(loop.name, None)
            if wait_s > 0:
                wait_s = min(wait_s, IDLE_MAX_S) if has_work() else math.inf
                await _wait_for_wake(loop, wait_s, clock, stop)


async def _wait_for_wake(loop: Loop, seconds: float, clock: Clock, stop: asyncio.Event) -> None:
    """Return after ``seconds``, at ``stop``, or once the loop is woken and UNWOKEN_S is over."""
    unwoken_s = min(seconds, UNWOKEN_S.get(loop.kind, 0.0))
    if unwoken_s > 0:
        await _wait(clock, unwoken_s, stop)
    if seconds > unwoken_s:
        await _wait(clock, seconds - unwoken_s, stop, loop.wake)


def log_failure(error: Exception, what: str, *args: object) -> None:
    """Log a failure at level ERROR, with its traceback."""
    log.error(what, *args, exc_info=error)


async def _wait(clock: Clock, seconds: float, *events: asyncio.Event) -> None:
    """Return after ``seconds``, or with the first of ``events``."""
    waits: list[asyncio.Future[object]] = [asyncio.ensure_future(event.wait()) for event in events]
    if seconds < math.inf:
        waits.append(asyncio.ensure_future(clock.sleep(seconds)))
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


class BackgroundTasks(Generic[K]):
    """API calls in flight beside a loop: their failures are logged, and a stop waits for them."""

    def __init__(self, name: str, clock: Clock, wake: asyncio.Event) -> None:
        """Name the calls for the log; ``wake`` is set at the end of each."""
        self.under_way: set[K] = set()
        """What the calls in flight are for."""
        self._name = name
        self._clock = clock
        self._wake = wake
        self._resume_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    def pause_s(self) -> float:
        """Return the seconds until a result may be stored again; 0 or less means now."""
        return self._resume_at - self._clock.monotonic()

    def start(self, key: K, work: Callable[[], Awaitable[None]]) -> None:
        """Run ``work`` for ``key`` in a task of its own."""
        self.under_way.add(key)
        task = asyncio.ensure_future(self._guarded(key, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, key: K, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except StoreUnavailable:
            self._resume_at = self._clock.monotonic() + PAUSE_S
        except LeaseLost:
            pass
        except Exception as error:  # noqa: BLE001 - logged
            log_failure(error, "%s had an internal error; report this traceback", self._name)
        finally:
            self.under_way.discard(key)
            self._wake.set()

    async def drain(self, timeout_s: float) -> bool:
        """Wait until all tasks have ended, and cancel those that have not after ``timeout_s``.

        Return whether all ended by themselves. No task may be started after this call.
        """
        if not self._tasks:
            return True
        _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        return not late
