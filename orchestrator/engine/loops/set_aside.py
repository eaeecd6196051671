"""Retries of terminations that were set aside, or whose rows were locked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from orchestrator.engine.runtime.loop import LoopKind

if TYPE_CHECKING:
    from orchestrator.engine.partition import Partition

LOCKED_AGAIN_S = 1.0
"""Pause before terminations are tried again whose rows another session has locked."""


class SetAsideRetrier:
    """Loop of one partition that gives terminations set aside back to the other loops."""

    kind = LoopKind.SET_ASIDE_RETRIER

    def __init__(self, partition: Partition) -> None:
        self.name = f"set-aside retrier of {partition.name}"
        self.wake = partition.wakeups.set_aside
        self._partition = partition

    async def step(self) -> float:
        """Give back the terminations that are due; return the seconds until the next one is."""
        partition = self._partition
        if await partition.store.forget_unlocked():
            self._wake_loops()
        now = partition.clock.now()
        at = await partition.store.set_aside_until(now)
        if at is None:
            return math.inf
        if at > now:
            return (at - now).total_seconds()
        if not await partition.store.retry_set_aside(now):
            return LOCKED_AGAIN_S
        self._wake_loops()
        return 0.0

    def _wake_loops(self) -> None:
        self._partition.times_resumed += 1
        self._partition.wakeups.all()
