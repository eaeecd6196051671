"""The one way a loop runs: a step, a wait that a wake-up shortens, and no silent death."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, Protocol

from orchestrator.domain.backoff import backoff_s

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from orchestrator.engine.ports import Clock

FAILURE_BASE_S = 0.5
FAILURE_MAX_S = 15.0
IDLE_MAX_S = 5.0
"""A loop with nothing to do looks again after this: a wake-up only shortens the wait."""

log = logging.getLogger(__name__)


class Steps(Protocol):
    """A loop: what it does once, and what wakes it."""

    name: str
    wake: asyncio.Event

    async def step(self) -> float:
        """Do what is due; returns the seconds until there is more to do."""


async def run_forever(steps: Steps, clock: Clock, random: Random) -> None:
    """Run a loop until cancelled; failures are logged when they begin and when they end."""
    failures = 0
    while True:
        steps.wake.clear()
        try:
            wait_s = await steps.step()
        except Exception:
            failures += 1
            if failures == 1:
                log.exception("%s fails; it is tried again until it works", steps.name)
            wait_s = backoff_s(
                failures, base_s=FAILURE_BASE_S, max_s=FAILURE_MAX_S, jitter=random.random()
            )
        else:
            if failures:
                log.warning("%s works again after %d failures", steps.name, failures)
            failures = 0
        if wait_s > 0:
            await _wait(steps.wake, min(wait_s, IDLE_MAX_S), clock)


async def _wait(wake: asyncio.Event, seconds: float, clock: Clock) -> None:
    waits = [asyncio.ensure_future(wake.wait()), asyncio.ensure_future(clock.sleep(seconds))]
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
        except Exception:
            log.exception("%s failed", self._name)

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


def until(later: float, now: float) -> float:
    """Seconds from ``now`` to ``later``, never negative; infinite stays so."""
    return later if math.isinf(later) else max(0.0, later - now)
