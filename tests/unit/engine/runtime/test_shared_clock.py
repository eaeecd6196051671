"""Wall time is the database's, wherever a replica runs."""

from __future__ import annotations

from datetime import timedelta

from orchestrator.engine.runtime.shared_clock import SharedClock
from tests.unit.engine.support import NOON, ManualClock


class WrongClock(ManualClock):
    """One whose wall time is not to be relied on."""

    ahead = timedelta(0)

    def now(self):
        return super().now() + self.ahead


def test_it_goes_on_from_what_it_was_told_whatever_the_machine_shows() -> None:
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
