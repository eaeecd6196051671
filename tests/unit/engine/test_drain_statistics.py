"""Statistics of how long drains of one partition take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orchestrator.domain.decisions.decision import Decision
from orchestrator.domain.model.lifecycle import Event, State
from orchestrator.engine import drain_statistics
from orchestrator.engine.drain_statistics import (
    FOLLOWED_MAX,
    RECALCULATE_AFTER_S,
    STOPPED_MAX,
    DrainStatistics,
)
from tests.unit.domain.build import NOW, later, termination

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.domain.forecasting.duration_distribution import Durations


def begun(number: int, at_s: float = 0) -> Decision:
    after = termination(State.DRAINING, id=f"trm_{number}", acknowledged_at=later(at_s))
    return Decision(after=after, event=Event.CALL_ACKNOWLEDGED)


def stopped(number: int, at_s: float) -> Decision:
    after = termination(State.SETTLING, id=f"trm_{number}", observed_at=later(at_s))
    return Decision(after=after, event=Event.SEEN_STOPPED)


def learnt_of(decisions: Iterable[Decision], at_s: float) -> Durations | None:
    made = DrainStatistics()
    for each in decisions:
        made.on_decision(each)
    return made.durations(later(at_s))


def half_s(durations: Durations | None) -> float:
    assert durations is not None
    return durations.rest(0).quantile_s(0.5)


def test_nothing_is_known_before_one_job_has_stopped() -> None:
    assert learnt_of([], 100) is None
    assert learnt_of([begun(1)], 100) is None
    gone = termination(State.NOT_FOUND, id="trm_1")
    assert learnt_of([begun(1), Decision(after=gone, event=Event.SEEN_MISSING)], 100) is None


def test_a_duration_is_from_the_acknowledgement_until_the_job_is_read_stopped() -> None:
    drains = [each for number in range(50) for each in (begun(number), stopped(number, 10))]
    assert half_s(learnt_of(drains, 20)) == pytest.approx(10, rel=0.2)


def test_a_call_that_is_made_again_is_counted_from_then_on() -> None:
    drains = [
        each
        for number in range(50)
        for each in (begun(number), begun(number, 60), stopped(number, 70))
    ]
    assert half_s(learnt_of(drains, 80)) == pytest.approx(10, rel=0.2)


def test_running_drains_raise_the_estimate() -> None:
    """Otherwise the first jobs of a bulk to stop would stand for all of it."""
    quick = [begun(0), stopped(0, 5)]
    slow = [begun(number) for number in range(1, 100)]
    assert half_s(learnt_of(quick + slow, 60)) > 2 * half_s(learnt_of(quick, 60))


def test_jobs_that_had_stopped_before_the_takeover_are_not_counted() -> None:
    assert learnt_of([stopped(1, 5)], 10) is None


def test_it_is_recomputed_only_at_intervals() -> None:
    made = DrainStatistics()
    for each in (begun(1), stopped(1, 10)):
        made.on_decision(each)
    first = made.durations(NOW)
    for each in (begun(2), stopped(2, 1000)):
        made.on_decision(each)
    assert made.durations(later(RECALCULATE_AFTER_S - 1)) is first
    assert half_s(made.durations(later(RECALCULATE_AFTER_S))) > half_s(first)


def test_it_stays_small_and_forgets_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(
        drain_statistics,
        "estimate",
        lambda stopped, draining: seen.append((sum(stopped.values()), sum(draining.values()))),
    )
    made = DrainStatistics()
    for number in range(5 * STOPPED_MAX):
        made.on_decision(begun(number))
        made.on_decision(stopped(number, 10 if number < 4 * STOPPED_MAX else 100))
    for number in range(2 * FOLLOWED_MAX):
        made.on_decision(begun(number))
    made.durations(NOW)
    ((known, followed),) = seen
    assert known < STOPPED_MAX
    assert followed == FOLLOWED_MAX
