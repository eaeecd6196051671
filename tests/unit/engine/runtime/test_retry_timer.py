"""Pauses after failures in a row."""

from __future__ import annotations

from orchestrator.engine.runtime.retry_timer import RetryTimer
from tests.support.clock import ManualClock
from tests.support.partition_world import NoJitter


def timer_at(clock: ManualClock) -> RetryTimer:
    return RetryTimer(clock, NoJitter(), base_s=1.0, max_s=4.0)


def test_pauses_double_up_to_the_longest_until_something_works() -> None:
    timer = timer_at(ManualClock())
    assert timer.wait_s() <= 0
    assert [timer.failed() for _ in range(4)] == [1.0, 2.0, 4.0, 4.0]
    timer.worked()
    assert timer.failed() == 1.0


def test_a_pause_passes_with_the_clock() -> None:
    clock = ManualClock()
    timer = timer_at(clock)
    timer.failed()
    clock.advance(0.75)
    assert timer.wait_s() == 0.25
    clock.advance(0.25)
    assert timer.wait_s() <= 0


def test_a_pause_may_follow_another_one() -> None:
    timer = timer_at(ManualClock())
    assert timer.failed(after_s=60.0) == 61.0
    assert timer.wait_s() == 61.0
    assert timer.failed(after_s=60.0) == 62.0
