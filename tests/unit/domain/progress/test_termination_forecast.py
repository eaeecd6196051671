"""History and forecast of a drain, from the acknowledgement until the job has stopped."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.errors import CloudErrorKind
from orchestrator.domain.forecasting.drain_history import DrainHistory
from orchestrator.domain.forecasting.duration_distribution import bucket, estimate
from orchestrator.domain.model.batch_job import InstanceCounters, JobState
from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.domain.model.instance_scan import InstanceScan
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.observation import CallAcknowledged, CallStarted, Observation
from orchestrator.domain.model.termination import EscalationLevel
from orchestrator.domain.progress.termination_forecast import current, with_forecast
from tests.support.termination_fields import with_fields
from tests.unit.domain.build import (
    NOW,
    POLICY,
    batch_read,
    call_failed,
    error,
    later,
    read,
    termination,
)

if TYPE_CHECKING:
    from orchestrator.domain.forecasting.duration_distribution import Durations
    from orchestrator.domain.model.termination import Termination

RUNNING, FAILED = JobState.RUNNING, JobState.FAILED
TENS = estimate({bucket(10): 100}, {})
ENDED = InstanceScan(run=1, occupying=60, waiting=20, captured=60, counted_at=NOW, ended_at=NOW)


def draining(**changes: Any) -> Termination:
    """Return a termination whose TerminateJob was acknowledged just now."""
    values: dict[str, Any] = {"evidence": 1, "run": 1, "acknowledged_at": NOW} | changes
    return termination(State.DRAINING, give_up_at=later(3600), **values)


def counted(
    live: int, failed: int = 0, *, at_s: float, next_action: str = "TERMINATING"
) -> Observation:
    counters = InstanceCounters(running=live, failed=failed)
    return read(RUNNING, counters, next_action=next_action, at=later(at_s))


def after(
    before: Termination, *seen: tuple[float, Observation], past_durations: Durations | None = None
) -> Termination:
    """Return ``before`` after these observations, each at its second."""
    for at_s, its in seen:
        decided = decide(before, its, later(at_s), POLICY).after
        before = with_forecast(before, decided, later(at_s), past_durations)
    return before


def after_counts(before: Termination, *shown: tuple[float, int], total: int = 100) -> Termination:
    seen = [(at_s, counted(live, total - live, at_s=at_s)) for at_s, live in shown]
    return after(before, *seen)


def lives(found: Termination) -> list[tuple[float, int]]:
    """Return the samples, in seconds since NOW."""
    assert found.drain.history is not None
    return [(at - NOW.timestamp(), live) for at, live in found.drain.history.samples]


# --- the history ---------------------------------------------------------------------------------


def test_a_drain_begins_when_its_call_was_acknowledged() -> None:
    """The instances that are FAILED by then are included if there was no earlier count."""
    assert lives(after_counts(draining(), (5, 90))) == [(0, 100), (5, 90)]


@pytest.mark.parametrize(
    ("capture", "live"),
    [
        (ENDED, 80),
        (replace(ENDED, occupying=10, waiting=0), 70),
        (replace(ENDED, run=2), 100),
        (replace(ENDED, ended_at=None), 100),
        (replace(ENDED, problem=ErrorDetail(code="C", message="m", advice=None)), 100),
        (None, 100),
    ],
)
def test_it_begins_with_what_was_captured_as_live(capture: InstanceScan | None, live: int) -> None:
    """Instances may have been FAILED for long when TerminateJob was sent."""
    assert lives(after_counts(draining(capture=capture), (5, 70)))[0] == (0, live)


def test_a_poll_that_counts_nothing_changes_nothing() -> None:
    before = after_counts(draining(), (5, 90))
    found = after(before, (7, batch_read(RUNNING, at=later(7))))
    assert (found.drain.history, found.drain.forecast) == (
        before.drain.history,
        before.drain.forecast,
    )
    assert after(draining(), (7, batch_read(RUNNING, at=later(7)))).drain.history is None


def test_each_count_is_in_the_history_and_the_end_is_forecast_once_there_is_progress() -> None:
    still = after_counts(draining(capture=ENDED), (5, 80))
    assert still.drain.forecast is not None
    assert (still.drain.forecast.made_at, still.drain.forecast.p50_at) == (later(5), None)
    moving = after_counts(still, (10, 60), (15, 40))
    assert lives(moving) == [(0, 80), (10, 60), (15, 40)]
    assert moving.drain.forecast is not None
    assert moving.drain.forecast.p50_at is not None
    assert later(20) < moving.drain.forecast.p50_at < later(30)


def test_past_durations_give_the_forecast_before_any_progress() -> None:
    seen = (5, counted(80, at_s=5))
    found = after(draining(), seen, past_durations=TENS)
    assert found.drain.forecast is not None
    assert found.drain.forecast.p50_at is not None
    assert later(7) < found.drain.forecast.p50_at < later(14)


def test_the_history_ends_when_the_job_has_stopped() -> None:
    stopped = after(
        after_counts(draining(), (5, 50)), (9, read(FAILED, InstanceCounters(failed=100)))
    )
    assert (stopped.state, stopped.drain.history, stopped.drain.forecast) == (
        State.SETTLING,
        None,
        None,
    )


def test_it_ends_when_the_job_is_not_called_after_all() -> None:
    """The request was not executed, so it had no effect."""
    sending = after(
        with_fields(after_counts(draining(), (5, 50)), terminate_after=NOW),
        (6, CallStarted()),
    )
    assert sending.drain.history is not None
    for kind in (CloudErrorKind.THROTTLED, CloudErrorKind.NOT_SENT):
        found = after(sending, (7, call_failed(error(kind))))
        assert (found.drain.history, found.drain.forecast) == (None, None)


def test_a_job_that_ignored_its_call_has_no_progress_before_the_next_call() -> None:
    """Its TerminateJob may have been lost: nothing shows a revival."""
    before = after_counts(draining(), (5, 50))
    runs_on = after(before, (70, counted(50, 50, at_s=70, next_action="")))
    assert runs_on.schedule.terminate_after == later(70)
    again = after(runs_on, (71, CallStarted()), (72, CallAcknowledged("r")))
    assert again.calls.acknowledged_at == later(72)
    assert lives(after_counts(again, (80, 50))) == [(0, 100), (5, 50)]
    stalled = after_counts(again, (80, 50), (1000, 50))
    assert stalled.drain.forecast is not None
    assert stalled.drain.forecast.stalled_since == later(5)


def test_a_revived_drain_restarts_with_its_next_call() -> None:
    finished = after(after_counts(draining(), (5, 50)), (8, batch_read(FAILED, at=later(8))))
    assert finished.evidence == 2
    revived = after_counts(finished, (20, 100))
    assert (revived.schedule.terminate_after, revived.drain.history, revived.drain.forecast) == (
        later(20),
        None,
        None,
    )
    untouched = after(revived, (25, counted(100, at_s=25, next_action="")))
    assert untouched.drain.history is None
    called = after(untouched, (30, CallStarted()), (31, CallAcknowledged("r")))
    assert lives(after_counts(called, (35, 90))) == [(31, 100), (35, 90)]


def test_a_stopped_drain_that_is_counted_live_restarts_then() -> None:
    """The time for which it was stopped is not part of its drain after the next TerminateJob."""
    stopped = after(draining(), (5, read(FAILED, InstanceCounters(failed=100), at=later(5))))
    doubted = after(
        stopped, (20, read(FAILED, InstanceCounters(running=3, failed=97), at=later(20)))
    )
    assert (doubted.state, doubted.drain.history) == (State.DRAINING, None)
    called = after(doubted, (21, CallStarted()), (22, CallAcknowledged("r")))
    live = read(FAILED, InstanceCounters(running=2, failed=98), at=later(25))
    assert lives(after(called, (25, live))) == [(22, 100), (25, 2)]


# --- forecasts ---------------------------------------------------------------------------------


def test_the_forecast_of_a_drain_lies_ahead() -> None:
    found = after_counts(draining(), (5, 90), (10, 80), (15, 70))
    for at_s in (15, 60, 600):
        now = current(found, None, None, later(at_s))
        assert now is not None
        assert now.p50_at is not None
        assert now.p50_at > later(at_s)


def test_a_callable_job_has_forecasts_of_its_turn_and_its_drain() -> None:
    queued = termination(terminate_after=NOW)
    found = current(queued, later(100), TENS, NOW)
    assert found is not None
    assert found.p50_at is not None
    assert later(105) < found.p50_at < later(115)
    assert current(queued, None, TENS, NOW) is None


def test_a_job_that_waits_for_a_poll_has_no_forecast() -> None:
    assert current(termination(), later(1), TENS, NOW) is None
    assert current(termination(State.HELD), later(1), TENS, NOW) is None


def test_a_job_with_a_later_start_begins_then() -> None:
    """The forecast does not depend on when it is requested."""
    tomorrow = later(86400)
    waiting = termination(not_before=tomorrow)
    first, second = (current(waiting, tomorrow, TENS, later(at_s)) for at_s in (0, 0.3))
    assert first is not None
    assert second is not None
    assert (first.p50_at, first.p90_at) == (second.p50_at, second.p90_at)
    assert first.p90_at is not None
    assert tomorrow < first.p90_at < later(86400 + 30)


def test_a_history_is_small() -> None:
    """It is read and written with each poll, so it must stay small whatever the job does."""
    found = draining()
    for number in range(500):
        found = after_counts(
            found, (number + 1.123456, 10_000_000 - number * 1000), total=10_000_000
        )
    assert isinstance(found.drain.history, DrainHistory)
    assert len(found.drain.history.samples) == 16


def test_a_job_left_to_manual_action_has_no_forecast() -> None:
    moving = after_counts(draining(), (10.0, 90), (20.0, 30))
    left = with_fields(
        moving,
        escalation_level=EscalationLevel.MANUAL,
        escalation_started_at=later(50),
        escalation_round=3,
    )
    still = after(left, (51.0, counted(30, 70, at_s=51.0))).drain.forecast
    assert still is not None
    assert (still.p50_at, still.rate_per_s, still.stalled_since) == (None, 0.0, later(20))
    on = after(left, (52.0, counted(10, 90, at_s=52.0))).drain.forecast
    assert on is not None
    assert on.p50_at is not None
    assert on.stalled_since is None, "instances have stopped since"
