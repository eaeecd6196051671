"""The one way a loop runs: a step, a wait that a wake-up shortens, and no silent death."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from orchestrator.domain.errors import LeaseLost, StoreUnavailable
from orchestrator.domain.pacing.backoff import backoff_s

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from orchestrator.engine.ports import Clock

FAILURE_BASE_S = 0.5
FAILURE_MAX_S = 5.0
FAILING_AFTER = 3
"""Failures in a row after which a loop counts as failing: some three seconds."""
IDLE_MAX_S = 5.0
"""A loop with nothing to do looks again after this: a wake-up only shortens the wait."""

_LOGGED_ELSEWHERE = (StoreUnavailable, LeaseLost)

log = logging.getLogger(__name__)


class Loop(Protocol):
    """A loop: what it does once, and what wakes it."""

    name: str
    wake: asyncio.Event

    async def step(self) -> float:
        """Do what is due; returns the seconds until there is more to do."""


async def run_until(
    stop: asyncio.Event,
    steps: Loop,
    clock: Clock,
    random: Random,
    failing: dict[str, Exception],
) -> None:
    """Run a loop until ``stop``; failures are logged when they begin and when they end.

    While it fails again and again, ``failing`` holds its last error by its name.

    That the database cannot be used, or a lease was lost, is not: that is told once for all loops.
    It ends between two steps, for a step that is cancelled may pass over it: up to Python 3.11
    ``asyncio.wait_for``, and with it a database pool's queue, does.
    """
    failures, logged = 0, False
    while not stop.is_set():
        steps.wake.clear()
        try:
            wait_s = min(await steps.step(), IDLE_MAX_S)
        except Exception as error:  # noqa: BLE001 - told, and tried again
            failures += 1
            if failures >= FAILING_AFTER and not isinstance(error, LeaseLost):
                failing[steps.name] = error
            if not logged and not isinstance(error, _LOGGED_ELSEWHERE):
                logged = True
                log_failure(error, "%s fails and is tried again until it works", steps.name)
            wait_s = backoff_s(
                failures, base_s=FAILURE_BASE_S, max_s=FAILURE_MAX_S, jitter=random.random()
            )
            await _wait(clock, wait_s, stop)
        else:
            if logged:
                log.warning("%s works again after %d failures", steps.name, failures)
            failures, logged = 0, False
            failing.pop(steps.name, None)
            if wait_s > 0:
                await _wait(clock, wait_s, stop, steps.wake)


def log_failure(error: Exception, what: str, *args: object) -> None:
    """Log what failed, with a traceback."""
    log.error(what, *args, exc_info=error)


async def _wait(clock: Clock, seconds: float, *events: asyncio.Event) -> None:
    """Return after ``seconds``, or with the first of ``events``."""
    waits: list[asyncio.Future[object]] = [asyncio.ensure_future(clock.sleep(seconds))]
    waits += [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


class Background:
    """Calls under way beside a loop: counted, awaited at the end, loud when they fail."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.ensure_future(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except _LOGGED_ELSEWHERE:
            pass
        except Exception as error:  # noqa: BLE001 - told
            log_failure(error, "%s failed", self._name)

    async def end(self, within_s: float) -> bool:
        """Wait until nothing is under way, and cut off what still is then; False if something was.

        Nothing may be started any more.
        """
        if not self._tasks:
            return True
        _, late = await asyncio.wait(self._tasks, timeout=within_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        return not late
