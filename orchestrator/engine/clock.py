"""The time that all replicas share."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.engine.ports import Clock


class SharedClock:
    """Wall time as the database told it last, moved on by this machine's monotonic clock.

    So what one replica plans is due at the same moment for every other, and a machine whose own
    clock is wrong, or jumps, does nothing early or late.
    """

    def __init__(self, machine: Clock) -> None:
        self._machine = machine
        self.set(machine.now(), told_at=machine.monotonic())

    def set(self, now: datetime, *, told_at: float) -> None:
        """Go on from ``now``, which it was when the monotonic clock showed ``told_at``."""
        self._told, self._told_at = now, told_at

    def now(self) -> datetime:
        return self._told + timedelta(seconds=self._machine.monotonic() - self._told_at)

    def monotonic(self) -> float:
        return self._machine.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._machine.sleep(seconds)
