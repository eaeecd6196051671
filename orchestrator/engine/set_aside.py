"""Has terminations that were set aside tried again once their time has come."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.engine.partition import Partition


class SetAside:
    """One partition's."""

    def __init__(self, partition: Partition) -> None:
        self.name = f"retries of what is set aside of {partition.name}"
        self.wake = asyncio.Event()
        self._partition = partition

    async def step(self) -> float:
        """Let the loops have those that are due; returns the seconds until the next is."""
        partition = self._partition
        now = partition.clock.now()
        at = await partition.store.set_aside_until(now)
        if at is None:
            return math.inf
        if at > now:
            return (at - now).total_seconds()
        await partition.store.take_up(now)
        partition.taken_up += 1
        partition.wakes.all()
        return 0.0
