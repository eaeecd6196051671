"""Time as one machine of the simulation shows it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation_kernel.loop import SimulatedLoop

TICK_S = 1e-6
"""Resolution of a clock: without it, time would never reach anything nearer than that."""
START = datetime(2027, 1, 15, 8, tzinfo=UTC)


class MachineClock:
    """Virtual time; ``ahead_s`` is the error of the machine's wall clock."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self.ahead_s = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self._loop.time() + self.ahead_s)

    def monotonic(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(seconds, TICK_S) if seconds > 0 else 0)
