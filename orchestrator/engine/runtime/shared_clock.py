"""Time that all replicas share: the database's clock."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.engine.ports import Clock


class SharedClock:
    """Wall time read from the database, advanced by the monotonic clock of this machine.

    A time that one replica plans is therefore due at the same moment for every replica, and a
    machine whose own clock is wrong, or jumps, does nothing early or late. A step of the database's
    clock is recorded in the database; each replica follows it together with the stored times.
    """

    def __init__(self, machine: Clock) -> None:
        self._machine = machine
        self.set(machine.now(), read_at=machine.monotonic())

    def set(self, now: datetime, *, read_at: float, steps_s: int = 0) -> None:
        """Continue from ``now``, the database's time when the monotonic clock showed ``read_at``.

        ``steps_s``: the sum of the recorded steps at that time, in seconds.
        """
        self._database_now, self._read_at, self._steps_s = now, read_at, steps_s

    def step_s(self, now: datetime, *, read_at: float, steps_s: int) -> float:
        """Return by how many seconds the database's clock stepped without a record of it yet."""
        passed_s = read_at - self._read_at + steps_s - self._steps_s
        return (now - self._database_now).total_seconds() - passed_s

    def now(self) -> datetime:
        """Return the shared wall time, aware and in UTC."""
        return self._database_now + timedelta(seconds=self._machine.monotonic() - self._read_at)

    def monotonic(self) -> float:
        """Return the monotonic time of this machine, in seconds."""
        return self._machine.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait by the clock of this machine."""
        await self._machine.sleep(seconds)
