"""The wall time of every replica is the database's."""

from __future__ import annotations

from datetime import timedelta

from orchestrator.engine.runtime.shared_clock import SharedClock
from tests.support.clock import NOON, ManualClock


class WrongClock(ManualClock):
    """A clock whose wall time is wrong."""

    ahead = timedelta(0)

    def now(self):
        return super().now() + self.ahead


def test_it_continues_from_the_time_that_was_set_and_ignores_the_machine_clock() -> None:
    machine = WrongClock()
    clock = SharedClock(machine)
    assert clock.now() == NOON
    machine.ahead = timedelta(hours=1)
    machine.advance(2.0)
    assert clock.now() == NOON + timedelta(seconds=2)
    clock.set(NOON + timedelta(seconds=30), read_at=1.5)
    assert clock.now() == NOON + timedelta(seconds=30.5)
    machine.ahead = -timedelta(hours=1)
    machine.advance(1.0)
    assert clock.now() == NOON + timedelta(seconds=31.5)
