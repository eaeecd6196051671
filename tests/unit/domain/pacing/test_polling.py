"""Intervals between polls."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.domain.model.batch_job import InstanceCounters
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.pacing.polling import (
    PollPolicy,
    batch_due_at,
    batch_poll_interval_s,
    drain_poll_s,
    recount_after_s,
)

NOW = datetime(2026, 3, 1, tzinfo=UTC)
POLICY = PollPolicy()


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def running(live: int) -> InstanceCounters:
    return InstanceCounters(running=live, failed=100 - live)


def test_more_finishes_mean_more_batch_polls_within_bounds() -> None:
    intervals = [
        batch_poll_interval_s(POLICY, finishes_in_window=n) for n in (0, 5, 20, 80, 10_000)
    ]
    assert intervals == sorted(intervals, reverse=True)
    assert len(set(intervals)) > 3
    assert intervals[0] == POLICY.batch_max_interval_s
    assert intervals[-1] == POLICY.batch_min_interval_s


def test_a_settling_job_waits_for_a_batch_poll_that_others_need() -> None:
    planned = [(State.SETTLING, at(0)), (State.DRAINING, at(1.5))]
    assert batch_due_at(POLICY, planned, full=False, proofs_wait=False) == at(1.5)


def test_a_settling_job_alone_waits_no_longer_than_one_poll_interval() -> None:
    planned = [(State.SETTLING, at(0)), (State.SETTLING, at(1)), (State.DRAINING, at(60))]
    assert batch_due_at(POLICY, planned, full=False, proofs_wait=False) == at(
        POLICY.batch_max_interval_s
    )


def test_while_proofs_wait_no_more_finished_jobs_are_polled_for() -> None:
    planned = [(State.DRAINING, at(0)), (State.DRAINING, at(3))]
    assert batch_due_at(POLICY, planned, full=False, proofs_wait=True) == at(
        2 * POLICY.batch_max_interval_s
    )


@pytest.mark.parametrize("state", [State.QUEUED, State.HELD, State.SENDING])
def test_a_job_that_is_not_called_yet_waits_for_nothing(state: State) -> None:
    planned = [(State.DRAINING, at(-1)), (state, at(0))]
    assert batch_due_at(POLICY, planned, full=False, proofs_wait=True) == at(0)


@pytest.mark.parametrize("last_s", [0.5, 60])
def test_a_full_call_leaves_once_all_of_it_is_due(last_s: float) -> None:
    planned = [(State.SETTLING, at(0)), (State.DRAINING, at(last_s))]
    due_at = batch_due_at(POLICY, planned, full=True, proofs_wait=True)
    assert due_at == at(min(last_s, 2 * POLICY.batch_max_interval_s))


def test_a_long_drain_is_polled_less_often_up_to_a_bound() -> None:
    intervals_s = [
        drain_poll_s(POLICY, batch_interval_s=1.0, age_s=age_s) for age_s in (0, 100, 300, 10_000)
    ]
    assert intervals_s == [1.0, 2.0, 6.0, POLICY.drain_max_interval_s]


def test_counters_are_read_again_when_their_rate_says_that_all_has_stopped() -> None:
    assert recount_after_s(
        POLICY, before=running(60), before_at=at(0), after=running(40), after_at=at(4)
    ) == pytest.approx(8.0)


@pytest.mark.parametrize(
    ("before", "after", "wait_s"),
    [
        (None, 40, 2 * POLICY.recount_min_interval_s),
        (40, 40, 2 * POLICY.recount_min_interval_s),
        (40, 50, 2 * POLICY.recount_min_interval_s),
        (50, 1, POLICY.recount_min_interval_s),
        (50, 49, POLICY.drain_max_interval_s),
    ],
)
def test_counters_without_a_rate_and_bounds(before: int | None, after: int, wait_s: float) -> None:
    seconds = recount_after_s(
        POLICY,
        before=None if before is None else running(before),
        before_at=at(0),
        after=running(after),
        after_at=at(1),
    )
    assert seconds == wait_s
