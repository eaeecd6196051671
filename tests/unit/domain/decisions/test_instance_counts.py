"""Counts that contradict what is known, undocumented states, and jobs without instances."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.domain.decisions import invariants
from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.errors import CloudError, CloudErrorKind
from orchestrator.domain.model.batch_job import (
    InstanceCounters,
    JobState,
    JobSubmitted,
    TaskSubmitted,
)
from orchestrator.domain.model.instance_scan import InstanceScan
from orchestrator.domain.model.lifecycle import Event, State
from orchestrator.domain.model.observation import CallAcknowledged, CallStarted, ReadFailed
from orchestrator.domain.model.termination import PollKind, Termination
from tests.support.termination_fields import with_fields
from tests.unit.domain.build import (
    LIVE,
    NOW,
    POLICY,
    STOPPED,
    batch_read,
    call_failed,
    later,
    read,
    termination,
)

if TYPE_CHECKING:
    from orchestrator.domain.decisions.decision import Policy

FAILED, RUNNING, SUCCEED = JobState.FAILED, JobState.RUNNING, JobState.SUCCEED
CANCELLED, PAUSED = JobState("CANCELLED"), JobState("PAUSED")
THREE, NONE = InstanceCounters(failed=3), InstanceCounters()
TEN = (TaskSubmitted(name="a", instances=4), TaskSubmitted(name="b", instances=6))


def draining(**known: Any) -> Termination:
    return termination(State.DRAINING, acknowledged_at=NOW, give_up_at=later(3600), **known)


@pytest.mark.parametrize(
    "known",
    [
        {"instances": LIVE},
        {"instances_submitted": 10},
        {"capture": InstanceScan(run=1, tasks=TEN)},
        {"capture": InstanceScan(run=1, occupying=4)},
        {"capture": InstanceScan(run=1, occupying=2, waiting=2)},
        {"tasks": read(FAILED).tasks * 4},
    ],
    ids=str,
)
@pytest.mark.parametrize("state", [FAILED, SUCCEED, CANCELLED])
def test_fewer_instances_than_are_known_prove_nothing(
    known: dict[str, Any], state: JobState
) -> None:
    few = replace(read(state, THREE, at=later(1)), tasks=())
    before = draining(poll_kind=PollKind.SINGLE, **known)
    after = decide(before, few, later(1), POLICY).after
    assert after.state is State.DRAINING
    assert after.problem is not None
    assert after.problem.code == "Client.CountTooLow"
    enough = decide(before, replace(few, instances=STOPPED), later(1), POLICY)
    assert enough.event is Event.SEEN_STOPPED


@pytest.mark.parametrize(
    ("before", "state", "event"),
    [
        (termination(), FAILED, None),
        (
            termination(State.SENDING, outcome_unknown=True, first_sent_at=NOW),
            SUCCEED,
            Event.CALL_NOT_EXECUTED,
        ),
    ],
    ids=["queued", "outcome unknown"],
)
def test_a_job_that_had_finished_before_a_call_is_compared_with_its_submission(
    before: Termination, state: JobState, event: Event | None
) -> None:
    first = decide(before, batch_read(state), NOW, POLICY)
    assert (first.event, first.after.schedule.poll_kind, first.after.schedule.next_poll_at) == (
        None,
        PollKind.SUBMIT_INFO,
        NOW,
    )
    submitted = JobSubmitted(observed_at=NOW, job_id="job-1", tasks=TEN)
    known = decide(first.after, submitted, later(1), POLICY).after
    assert (known.drain.instances_submitted, known.schedule.poll_kind) == (10, PollKind.SINGLE)
    short = decide(known, read(state, THREE), later(2), POLICY)
    assert short.event is event
    assert short.after.schedule.terminate_after is not None, "it is terminated"
    whole = decide(known, read(state, STOPPED), later(2), POLICY)
    assert whole.event is Event.SEEN_STOPPED


def test_a_job_with_live_instances_is_not_compared_with_its_submission() -> None:
    """It is terminated, also while DescribeJobSubmitInfo does not answer."""
    before = termination(State.SENDING, outcome_unknown=True, first_sent_at=NOW)
    live = decide(before, read(SUCCEED, LIVE), NOW, POLICY)
    assert live.event is Event.CALL_NOT_EXECUTED
    assert live.after.schedule.terminate_after is not None


def test_where_the_submission_may_not_be_read_the_counters_are_taken_alone() -> None:
    """One answer is not enough for that."""
    known, at_s = (
        with_fields(termination(), poll_kind=PollKind.SUBMIT_INFO),
        0.0,
    )
    forbidden = ReadFailed(CloudError(CloudErrorKind.UNAUTHORIZED, "Unauthorized", "no"))
    while known.schedule.poll_kind is PollKind.SUBMIT_INFO:
        known = decide(known, forbidden, later(at_s), POLICY).after
        assert known.schedule.next_poll_at is not None
        at_s = (known.schedule.next_poll_at - NOW).total_seconds()
    assert 60 <= at_s <= 125
    counted = decide(known, read(FAILED, STOPPED), later(at_s), POLICY)
    assert counted.event is Event.SEEN_STOPPED


# --- jobs that were called, whose capture did not read what they were submitted as ---------------

COMPARES = replace(POLICY, reads_submit_info=True)
AT_ITS_END = later(30)


def stopped(instances: InstanceCounters, **known: Any) -> Termination:
    """Return a job at the end of its settle window."""
    return termination(
        State.SETTLING,
        acknowledged_at=NOW,
        give_up_at=later(3600),
        settle_until=AT_ITS_END,
        job_state=FAILED,
        instances=instances,
        poll_kind=PollKind.SINGLE,
        **known,
    )


@pytest.mark.parametrize("known", [{}, {"capture": InstanceScan(run=1, ended_at=NOW)}], ids=str)
@pytest.mark.parametrize(("counted", "event"), [(THREE, None), (STOPPED, Event.SETTLED)])
def test_a_job_is_verified_once_it_is_compared_with_its_submission(
    known: dict[str, Any], counted: InstanceCounters, event: Event | None
) -> None:
    seen = read(FAILED, counted, at=AT_ITS_END)
    asks = decide(stopped(counted, **known), seen, AT_ITS_END, COMPARES)
    assert (asks.event, asks.after.schedule.poll_kind, asks.after.schedule.next_poll_at) == (
        None,
        PollKind.SUBMIT_INFO,
        AT_ITS_END,
    )
    submitted = JobSubmitted(observed_at=later(31), job_id="job-1", tasks=TEN)
    compared = decide(asks.after, submitted, later(31), COMPARES)
    assert compared.event is event
    if event is None:
        assert (compared.after.schedule.poll_kind, compared.after.schedule.next_poll_at) == (
            PollKind.SINGLE,
            later(31),
        )
        denied = decide(compared.after, read(FAILED, THREE, at=later(32)), later(32), COMPARES)
        assert denied.event is Event.SEEN_LIVE_AGAIN
        assert denied.why is not None
        assert "at least 10" in denied.why


@pytest.mark.parametrize(
    ("known", "policy"),
    [
        ({}, POLICY),
        ({"instances_submitted": 10}, COMPARES),
        ({"capture": InstanceScan(run=1, tasks=TEN)}, COMPARES),
    ],
    ids=["quota is short", "read before", "captured"],
)
def test_no_submission_is_read_where_it_is_known_or_its_quota_is_wanted(
    known: dict[str, Any], policy: Policy
) -> None:
    seen = read(FAILED, STOPPED, at=AT_ITS_END)
    assert decide(stopped(STOPPED, **known), seen, AT_ITS_END, policy).event is Event.SETTLED


@pytest.mark.parametrize("kind", CloudErrorKind)
def test_a_submission_that_cannot_be_read_keeps_no_job_from_being_verified(
    kind: CloudErrorKind,
) -> None:
    """It is retried for a minute, but not if the account may not make the request."""
    now, failure = AT_ITS_END, ReadFailed(CloudError(kind, "Some.Code", "why"))
    decision = decide(stopped(STOPPED), read(FAILED, STOPPED, at=now), now, COMPARES)
    asked = 0
    while decision.event is None:
        before = decision.after
        if before.schedule.poll_kind is PollKind.SUBMIT_INFO:
            asked += 1
            now += timedelta(seconds=1)
            decision = decide(before, failure, now, COMPARES)
        else:
            assert before.schedule.next_poll_at is not None
            now = max(now, before.schedule.next_poll_at)
            decision = decide(before, batch_read(FAILED, at=now), now, COMPARES)
    assert decision.event is Event.SETTLED
    if kind in (CloudErrorKind.REFUSED, CloudErrorKind.UNAUTHORIZED):
        assert asked == 1
    else:
        assert asked > 5
        assert later(90) <= now <= later(100)


# --- undocumented states ----------------------------------------------------------------------


def test_a_word_that_is_not_documented_is_kept_as_it_is() -> None:
    assert (CANCELLED.value, CANCELLED.documented, CANCELLED.finished) == (
        "CANCELLED",
        False,
        False,
    )
    assert all(state.documented for state in JobState)
    before = draining(job_state=RUNNING, observed_at=NOW)
    after = decide(before, batch_read(PAUSED, at=later(5)), later(5), POLICY).after
    assert (after.job.state, after.job.observed_at) == (PAUSED, later(5))


def test_where_the_state_is_not_documented_the_counters_decide() -> None:
    before = draining(job_state=RUNNING)
    polled = decide(before, batch_read(CANCELLED), later(1), POLICY)
    assert (polled.event, polled.after.schedule.poll_kind) == (None, PollKind.SINGLE)
    live = decide(polled.after, read(CANCELLED, LIVE), later(2), POLICY)
    assert (live.event, live.after.schedule.poll_kind, live.after.evidence) == (
        None,
        PollKind.SINGLE,
        0,
    )
    stopped = decide(live.after, read(CANCELLED, STOPPED), later(3), POLICY)
    assert (stopped.event, stopped.after.evidence) == (Event.SEEN_STOPPED, 3)
    invariants.check(live.after, stopped, later(3))
    settled = decide(stopped.after, read(CANCELLED, STOPPED, at=later(40)), later(40), POLICY)
    assert settled.event is Event.SETTLED


def test_a_job_in_a_state_that_is_not_documented_is_called_if_instances_live() -> None:
    known = termination(poll_kind=PollKind.SINGLE, instances_submitted=10)
    assert decide(known, read(PAUSED, LIVE), NOW, POLICY).after.schedule.terminate_after == NOW
    assert decide(known, read(CANCELLED, STOPPED), NOW, POLICY).event is Event.SEEN_STOPPED


@pytest.mark.parametrize(("state", "left"), [(FAILED, 2), (CANCELLED, 1)])
def test_evidence_of_a_finished_job_is_kept_only_while_it_reads_finished(
    state: JobState, left: int
) -> None:
    """Level 2 says that the job reads SUCCEED or FAILED."""
    before = termination(
        State.SETTLING,
        job_state=state,
        instances=STOPPED,
        settle_until=later(30),
        evidence=3,
    )
    denied = decide(before, read(state, LIVE), later(5), POLICY)
    assert (denied.event, denied.after.evidence) == (Event.SEEN_LIVE_AGAIN, left)


def test_a_word_that_changes_while_the_job_settles_has_its_instances_counted() -> None:
    settling = termination(
        State.SETTLING, job_state=FAILED, instances=STOPPED, settle_until=later(30), evidence=3
    )
    doubtful = decide(settling, batch_read(CANCELLED), later(5), POLICY)
    assert (
        doubtful.event,
        doubtful.after.schedule.poll_kind,
        doubtful.after.schedule.next_poll_at,
    ) == (
        None,
        PollKind.SINGLE,
        later(5),
    )
    same = decide(doubtful.after, read(CANCELLED, STOPPED, at=later(5)), later(5), POLICY).after
    assert (
        decide(same, batch_read(CANCELLED), later(10), POLICY).after.schedule.poll_kind
        is PollKind.BATCH
    )


def settling(*, job_end_time: str) -> Termination:
    return termination(
        State.SETTLING,
        job_state=FAILED,
        job_end_time=job_end_time,
        instances=STOPPED,
        settle_until=later(30),
        evidence=3,
    )


def test_an_end_time_that_is_lost_while_the_job_settles_has_its_instances_counted() -> None:
    doubtful = decide(settling(job_end_time="E1"), batch_read(FAILED), later(5), POLICY)
    assert (doubtful.event, doubtful.after.schedule.poll_kind) == (None, PollKind.SINGLE)


@pytest.mark.parametrize(
    ("end_time", "event"),
    [
        ("2026-11-24T10:00:00Z", None),
        ("2026-11-24T10:00:00.000Z", None),
        ("2026-11-24T18:00:00+08:00", None),
        ("2026-11-24T10:00:01Z", Event.SEEN_LIVE_AGAIN),
        ("yesterday", Event.SEEN_LIVE_AGAIN),
    ],
)
def test_an_end_time_that_is_written_in_another_way_is_the_same(
    end_time: str, event: Event | None
) -> None:
    seen = batch_read(FAILED, at=later(5), end_time=end_time)
    known = settling(job_end_time="2026-11-24T10:00:00Z")
    assert decide(known, seen, later(5), POLICY).event is event


def test_the_first_count_is_not_the_last_one_however_short_the_window() -> None:
    stopped = decide(draining(settle_s=0.0), read(FAILED, STOPPED, at=later(1)), later(1), POLICY)
    assert (stopped.event, stopped.after.schedule.settle_until) == (Event.SEEN_STOPPED, later(1))
    batch_read_stopped = decide(
        stopped.after, batch_read(FAILED, at=later(1.5)), later(1.5), POLICY
    )
    assert (batch_read_stopped.event, batch_read_stopped.after.schedule.poll_kind) == (
        None,
        PollKind.SINGLE,
    )
    counted = read(FAILED, STOPPED, at=later(2))
    assert decide(batch_read_stopped.after, counted, later(2), POLICY).event is Event.SETTLED


def test_a_next_action_that_is_not_documented_hinders_no_proof_and_no_call() -> None:
    stopped = decide(draining(), read(FAILED, STOPPED, next_action="WHATEVER"), later(1), POLICY)
    assert (stopped.event, stopped.after.job.next_action) == (Event.SEEN_STOPPED, "WHATEVER")
    doubt = termination(State.SENDING, outcome_unknown=True, give_up_at=later(3600))
    runs = decide(doubt, read(RUNNING, LIVE, next_action="WHATEVER"), later(1), POLICY)
    assert runs.event is Event.CALL_NOT_EXECUTED


# --- instances that run again, and none at all ----------------------------------------------------


def test_an_instance_that_runs_again_under_a_finished_job_is_terminated_again() -> None:
    settling = termination(
        State.SETTLING,
        job_state=FAILED,
        instances=STOPPED,
        settle_until=later(30),
        evidence=3,
        run=1,
        give_up_at=later(3600),
    )
    one = InstanceCounters(running=1, failed=9)
    again = decide(settling, read(FAILED, one, at=later(30)), later(30), POLICY)
    assert (again.event, again.after.schedule.terminate_after, again.after.calls.run) == (
        Event.SEEN_LIVE_AGAIN,
        later(30),
        2,
    )
    still = decide(again.after, batch_read(FAILED), later(31), POLICY).after
    assert still.schedule.terminate_after == later(30), "that it reads finished is nothing new"


def test_a_job_without_instances_backs_off_and_ends_in_its_own_words() -> None:
    known, at_s, reads = termination(poll_kind=PollKind.SINGLE, instances_submitted=0), 0.0, 0
    known = decide(known, read(FAILED, NONE), NOW, POLICY).after
    assert known.schedule.terminate_after == NOW
    known = decide(known, CallStarted(), NOW, POLICY).after
    known = decide(known, CallAcknowledged("r"), NOW, POLICY).after
    while not known.state.final:
        reads += 1
        assert known.schedule.next_poll_at is not None
        at_s = (known.schedule.next_poll_at - NOW).total_seconds()
        known = decide(known, read(FAILED, NONE, at=later(at_s)), later(at_s), POLICY).after
    assert (known.state, known.evidence) == (State.UNVERIFIED, 2)
    assert reads < 80
    assert known.problem is not None
    assert "the cloud counts no task instance of the job" in known.problem.message


def test_a_job_that_succeeded_without_an_instance_had_finished() -> None:
    before = termination(poll_kind=PollKind.SINGLE, instances_submitted=0)
    decision = decide(before, read(SUCCEED, NONE), NOW, POLICY)
    assert (decision.event, decision.after.evidence) == (Event.SEEN_STOPPED, 2)
    assert decision.after.state is State.ALREADY_FINISHED
    invariants.check(before, decision, NOW)


def test_a_job_that_stays_in_use_has_that_error_at_its_deadline() -> None:
    in_use = CloudError(CloudErrorKind.STATE_CONFLICT, "ResourceInUse.Job", "The job is in use.")
    again = termination(State.SENDING, acknowledged_at=later(-60), give_up_at=later(60))
    known = decide(again, call_failed(in_use), NOW, POLICY).after
    for at_s in (10, 30, 60):
        known = decide(known, read(RUNNING, LIVE, at=later(at_s)), later(at_s), POLICY).after
    assert known.state is State.UNVERIFIED
    assert known.problem is not None
    assert known.problem.message.endswith("; last error: ResourceInUse.Job: The job is in use.")
