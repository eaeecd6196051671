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
    clock is wrong, or jumps, does nothing early or late.  A step of the database's clock is noted
    in the database, and followed together with the times that are stored.
    """

    def __init__(self, machine: Clock) -> None:
        self._machine = machine
        self.set(machine.now(), read_at=machine.monotonic())

    def set(self, now: datetime, *, read_at: float, steps_s: int = 0) -> None:
        """Go on from ``now``, which it was when the monotonic clock showed ``read_at``.

        ``steps_s``: the sum of the noted steps by then.
        """
        self._database_now, self._read_at, self._steps_s = now, read_at, steps_s

    def step_s(self, now: datetime, *, read_at: float, steps_s: int) -> float:
        """By how many seconds the database's clock stepped that nobody has noted yet."""
        passed_s = read_at - self._read_at + steps_s - self._steps_s
        return (now - self._database_now).total_seconds() - passed_s

    def now(self) -> datetime:
        return self._database_now + timedelta(seconds=self._machine.monotonic() - self._read_at)

    def monotonic(self) -> float:
        return self._machine.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._machine.sleep(seconds)
