"""Clocks that pass only as a test lets them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
"""The time at which each of these clocks starts."""
_TICK_S = 1e-6
"""Resolution of these clocks, since every clock has one."""


class ManualClock:
    """Clock that tests advance; a sleeper wakes once its time has passed."""

    def __init__(self) -> None:
        self.passed_s = 0.0
        self.waits: asyncio.Queue[float] = asyncio.Queue()
        """Seconds of every sleep, in the order of their starts."""
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.passed_s)

    def monotonic(self) -> float:
        return self.passed_s

    def later(self, seconds: float) -> datetime:
        return self.now() + timedelta(seconds=seconds)

    async def sleep(self, seconds: float) -> None:
        self.waits.put_nowait(seconds)
        if seconds > _TICK_S:
            woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._sleepers.append((self.passed_s + seconds, woken))
            await woken

    def advance(self, seconds: float) -> None:
        self.passed_s += max(seconds, _TICK_S)
        due = [each for each in self._sleepers if each[0] <= self.passed_s + _TICK_S]
        self._sleepers = [each for each in self._sleepers if each not in due]
        for _, woken in due:
            if not woken.done():
                woken.set_result(None)


class SelfAdvancingClock(ManualClock):
    """Clock that a sleep advances at once, by the time that it would have taken."""

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)
