"""Decisions on each observation: every transition of the table, in every way it can happen."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.errors import NOT_EXECUTED, CloudError, CloudErrorKind, IllegalTransition
from orchestrator.domain.model.batch_job import InstanceCounters, JobSeen, JobState
from orchestrator.domain.model.lifecycle import LIVE_STATES, TRANSITIONS, Event, State
from orchestrator.domain.model.observation import (
    BatchReadFailed,
    CallAcknowledged,
    CallFailed,
    CallInterrupted,
    CallStarted,
    JobUnlisted,
    Observation,
    ReadFailed,
    Withdrawn,
)
from orchestrator.domain.model.termination import OnSubmitted, PollKind, Termination
from orchestrator.domain.model.unconfirmed import ANSWERS_WITHOUT_OTHER_SOURCE, Unconfirmed, Verdict
from tests.support.termination_fields import with_fields
from tests.unit.domain.build import (
    LIVE,
    NOW,
    POLICY,
    STOPPED,
    batch_read,
    call_failed,
    error,
    later,
    machines,
    read,
    termination,
)

if TYPE_CHECKING:
    from datetime import datetime

FAILED, RUNNING, SUBMITTED = JobState.FAILED, JobState.RUNNING, JobState.SUBMITTED

TERMINATING = read(RUNNING, LIVE, next_action="TERMINATING")


def unknown_outcome(**changes: Any) -> Termination:
    return termination(
        State.SENDING,
        outcome_unknown=True,
        first_sent_at=NOW,
        poll_kind=PollKind.SINGLE,
        give_up_at=later(3600),
        **changes,
    )


def overdue(state: State, *, by_s: float = 0) -> Termination:
    return termination(state, outcome_unknown=state is State.SENDING, give_up_at=later(-by_s))


def called(state: State) -> Termination:
    """Return a termination whose TerminateJob was acknowledged some time ago."""
    return termination(state, acknowledged_at=later(-5), evidence=1, give_up_at=later(3595))


def settling(*, settle_until: datetime | None = None) -> Termination:
    return termination(
        State.SETTLING,
        job_state=FAILED,
        job_end_time="E1",
        instances=STOPPED,
        settle_until=settle_until or later(30),
        evidence=3,
    )


def twice(verdict: Verdict) -> Unconfirmed:
    """Return a verdict that one more answer confirms."""
    return Unconfirmed(
        verdict=verdict,
        since=later(-600),
        last_at=NOW,
        until=NOW,
        answers=ANSWERS_WITHOUT_OTHER_SOURCE - 1,
        sources=("DescribeJob",),
    )


CHECKED: dict[str, Any] = {"instances_submitted": 10}
FEWER = InstanceCounters(failed=9)

CASES: list[tuple[str, Termination, Observation, Event]] = [
    ("call", termination(terminate_after=NOW), CallStarted(), Event.CALL_STARTED),
    (
        "revived call",
        termination(State.DRAINING, terminate_after=NOW),
        CallStarted(),
        Event.CALL_STARTED,
    ),
    ("accepted", termination(State.SENDING), CallAcknowledged("r"), Event.CALL_ACKNOWLEDGED),
    (
        "seen terminating",
        unknown_outcome(),
        read(RUNNING, LIVE, next_action="TERMINATING"),
        Event.CALL_ACKNOWLEDGED,
    ),
    ("stopped in doubt", unknown_outcome(), read(FAILED), Event.CALL_ACKNOWLEDGED),
    ("untouched", unknown_outcome(), read(RUNNING, LIVE), Event.CALL_NOT_EXECUTED),
    ("succeeded in doubt", unknown_outcome(**CHECKED), read(JobState.SUCCEED), Event.SEEN_STOPPED),
    ("submitted in doubt", unknown_outcome(), read(SUBMITTED, LIVE), Event.SEEN_SUBMITTED),
    ("submitted", termination(), batch_read(SUBMITTED), Event.SEEN_SUBMITTED),
    (
        "submitted, not to be held",
        termination(on_submitted=OnSubmitted.REFUSE),
        batch_read(SUBMITTED),
        Event.CALL_REFUSED,
    ),
    ("left submitted", termination(State.HELD), batch_read(RUNNING), Event.SEEN_TERMINABLE),
    ("finished before", termination(**CHECKED), read(FAILED), Event.SEEN_STOPPED),
    ("finished while held", termination(State.HELD, **CHECKED), read(FAILED), Event.SEEN_STOPPED),
    *[
        (
            f"stopped in {state} after an earlier call",
            called(state),
            read(FAILED),
            Event.CALL_ACKNOWLEDGED,
        )
        for state in (State.QUEUED, State.HELD, State.SENDING)
    ],
    (
        "stuck",
        termination(State.DRAINING, instances=LIVE, acknowledged_at=later(-60)),
        read(FAILED, LIVE),
        Event.ESCALATED,
    ),
    ("stopped", termination(State.DRAINING), read(FAILED), Event.SEEN_STOPPED),
    ("revived", settling(), batch_read(RUNNING), Event.SEEN_LIVE_AGAIN),
    ("ran again unseen", settling(), batch_read(FAILED, end_time="E2"), Event.SEEN_LIVE_AGAIN),
    ("counted live again", settling(), read(FAILED, LIVE, at=later(30)), Event.SEEN_LIVE_AGAIN),
    ("counted fewer", settling(), read(FAILED, FEWER, at=later(30)), Event.SEEN_LIVE_AGAIN),
    ("settled", settling(), read(FAILED, at=later(30)), Event.SETTLED),
    (
        "deleted while settling",
        replace(settling(), unconfirmed=twice(Verdict.MISSING)),
        JobUnlisted(),
        Event.SETTLED,
    ),
    *[
        (
            f"not readable any more, {kind}",
            replace(settling(settle_until=later(-3660)), unconfirmed=twice(Verdict.UNREADABLE)),
            ReadFailed(error(kind)),
            Event.GAVE_UP,
        )
        for kind in (CloudErrorKind.UNAUTHORIZED, CloudErrorKind.OUTCOME_UNKNOWN)
    ],
    ("withdrawn", termination(), Withdrawn(), Event.WITHDRAWN),
    ("withdrawn while held", termination(State.HELD), Withdrawn(), Event.WITHDRAWN),
    *[
        (
            f"unknown in {t.state}",
            replace(t, unconfirmed=twice(Verdict.MISSING)),
            ReadFailed(error(CloudErrorKind.JOB_NOT_FOUND)),
            Event.SEEN_MISSING,
        )
        for t in (
            termination(),
            termination(State.HELD),
            unknown_outcome(),
            termination(State.DRAINING),
        )
    ],
    *[
        (
            f"no read allowed in {t.state}",
            replace(t, unconfirmed=twice(Verdict.FORBIDDEN)),
            ReadFailed(error(kind)),
            Event.CALL_REFUSED,
        )
        for t in (termination(), termination(State.HELD), unknown_outcome())
        for kind in (CloudErrorKind.UNAUTHORIZED, CloudErrorKind.REFUSED)
    ],
    *[
        (
            f"deadline in {state}",
            replace(overdue(state, by_s=60), unconfirmed=twice(Verdict.UNREADABLE)),
            ReadFailed(error(kind)),
            Event.GAVE_UP,
        )
        for state in (State.QUEUED, State.HELD, State.SENDING, State.DRAINING)
        for kind in (CloudErrorKind.OUTCOME_UNKNOWN, CloudErrorKind.THROTTLED)
    ],
    ("deadline, still live", overdue(State.DRAINING), read(RUNNING, LIVE), Event.GAVE_UP),
    ("deadline, still held", overdue(State.HELD), read(SUBMITTED, LIVE), Event.GAVE_UP),
    ("deadline, still queued", overdue(State.QUEUED), read(RUNNING, LIVE), Event.GAVE_UP),
    (
        "call made again conflicts",
        termination(State.SENDING, acknowledged_at=later(-60), evidence=1),
        call_failed(error(CloudErrorKind.STATE_CONFLICT)),
        Event.CALL_CONFLICTED,
    ),
    *[
        (f"call {kind}", termination(State.SENDING), call_failed(error(kind)), event)
        for kind, event in (
            (CloudErrorKind.THROTTLED, Event.CALL_NOT_EXECUTED),
            (CloudErrorKind.NOT_SENT, Event.CALL_NOT_EXECUTED),
            (CloudErrorKind.CREDENTIAL, Event.CALL_NOT_EXECUTED),
            (CloudErrorKind.CLOCK_SKEW, Event.CALL_NOT_EXECUTED),
            (CloudErrorKind.REFUSED, Event.CALL_REFUSED),
            (CloudErrorKind.UNAUTHORIZED, Event.CALL_NOT_EXECUTED),
        )
    ],
    (
        "call unauthorized for long",
        termination(State.SENDING, unconfirmed=twice(Verdict.FORBIDDEN)),
        call_failed(error(CloudErrorKind.UNAUTHORIZED)),
        Event.CALL_REFUSED,
    ),
]


@pytest.mark.parametrize(
    ("before", "seen", "event"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_an_observation_changes_the_state_by_the_table(
    before: Termination, seen: Observation, event: Event
) -> None:
    decision = decide(before, seen, NOW if before.schedule.give_up_at == NOW else later(1), POLICY)
    after = decision.after
    assert decision.event is event
    assert after.state is TRANSITIONS[before.state][event]
    assert after.revision == before.revision + 1
    assert (after.finished_at is not None) == after.state.final
    assert not (
        after.state.final and (after.schedule.next_poll_at or after.schedule.terminate_after)
    )


def test_the_cases_reach_every_transition_of_the_table() -> None:
    reached = {(before.state, event) for _, before, _, event in CASES}
    assert reached == {(state, event) for state, row in TRANSITIONS.items() for event in row}


@pytest.mark.parametrize("state", [State.VERIFIED, State.REFUSED, State.UNVERIFIED])
def test_nothing_moves_a_final_state(state: State) -> None:
    done = termination(state, finished_at=NOW, next_poll_at=None)
    assert decide(done, read(RUNNING, LIVE), later(1), POLICY).after == done
    with pytest.raises(IllegalTransition):
        decide(done, CallStarted(), later(1), POLICY)


@pytest.mark.parametrize(
    "seen",
    [
        read(FAILED, LIVE),
        read(FAILED, STOPPED, next_action="TERMINATING"),
        read(FAILED, InstanceCounters()),
        read(RUNNING, STOPPED),
        read(JobState.FAILED_INTERRUPTED, STOPPED),
        read(FAILED, InstanceCounters(failed=9, failed_interrupted=1)),
        read(FAILED, None),
        batch_read(FAILED),
    ],
    ids=lambda seen: f"{seen.state} {seen.instances} {seen.next_action}",
)
def test_less_than_full_proof_does_not_count_as_stopped(seen: JobSeen) -> None:
    """A finished job state, counters that do not add up or a pending action are no proof."""
    assert decide(termination(State.DRAINING), seen, later(1), POLICY).event is None


def test_instances_that_vanish_from_the_counters_have_not_stopped() -> None:
    before = termination(State.DRAINING, instances=InstanceCounters(running=11))
    assert decide(before, read(FAILED), later(1), POLICY).event is None
    assert decide(before, read(FAILED, InstanceCounters(failed=11)), NOW, POLICY).event is not None


def test_a_job_is_called_only_once_a_poll_has_shown_that_it_may_be() -> None:
    assert termination().schedule.terminate_after is None
    assert decide(
        termination(), batch_read(RUNNING), later(1), POLICY
    ).after.schedule.terminate_after == later(1)


@pytest.mark.parametrize("kind", [CloudErrorKind.CREDENTIAL, CloudErrorKind.NOT_SENT])
def test_a_call_that_was_not_executed_is_repeated_only_after_another_read(
    kind: CloudErrorKind,
) -> None:
    after = decide(termination(State.SENDING), call_failed(error(kind)), NOW, POLICY).after
    assert after.schedule.terminate_after is None
    assert after.schedule.next_poll_at == later(1)
    assert after.problem is not None
    assert after.problem.advice == "do this"


@pytest.mark.parametrize("state", [State.QUEUED, State.DRAINING])
def test_a_throttled_call_changes_only_the_state(state: State) -> None:
    before = termination(
        state,
        terminate_after=later(-5),
        poll_kind=PollKind.SINGLE,
        next_poll_at=later(50),
        failures=2,
        priority=True,
    )
    sent = decide(before, CallStarted(), NOW, POLICY).after
    refused = CallFailed(error(CloudErrorKind.THROTTLED), before)
    after = decide(sent, refused, later(1), POLICY).after
    assert after == replace(before, state=State.QUEUED, revision=before.revision + 2)


@pytest.mark.parametrize("poll_kind", PollKind)
@pytest.mark.parametrize("state", LIVE_STATES)
def test_a_throttled_poll_changes_nothing(state: State, poll_kind: PollKind) -> None:
    before = termination(
        state, poll_kind=poll_kind, next_poll_at=later(-2), failures=2, settle_until=later(9)
    )
    refused = ReadFailed(error(CloudErrorKind.THROTTLED))
    decision = decide(before, refused, later(1), POLICY)
    assert (decision.after, decision.event) == (before, None)


@pytest.mark.parametrize("kind", [CloudErrorKind.OUTCOME_UNKNOWN, CloudErrorKind.STATE_CONFLICT])
def test_a_call_whose_outcome_is_not_known_is_resolved_by_reading_the_job(
    kind: CloudErrorKind,
) -> None:
    for seen in (call_failed(error(kind)), CallInterrupted()):
        decision = decide(termination(State.SENDING), seen, NOW, POLICY)
        after = decision.after
        assert (
            after.state,
            after.calls.outcome_unknown,
            after.schedule.poll_kind,
            after.schedule.next_poll_at,
        ) == (State.SENDING, True, PollKind.SINGLE, NOW)


WITHOUT_EFFECT = (
    *NOT_EXECUTED,
    CloudErrorKind.UNAUTHORIZED,
    CloudErrorKind.STATE_CONFLICT,
    CloudErrorKind.JOB_NOT_FOUND,
)


@pytest.mark.parametrize("without", WITHOUT_EFFECT)
@pytest.mark.parametrize("held", [False, True])
def test_a_job_that_fails_after_its_calls_had_not_finished_before_if_one_may_have_had_effect(
    without: CloudErrorKind, *, held: bool
) -> None:
    unknown = CloudErrorKind.OUTCOME_UNKNOWN
    for outcomes in ([without], [unknown], [without, unknown], [unknown, without]):
        known = termination(run=1, instances_submitted=10, terminate_after=NOW)
        if held:
            known = with_fields(known, give_up_at=later(3600))
        for kind in outcomes:
            sent = decide(known, CallStarted(), later(1), POLICY).after
            failure = CloudError(kind, f"Some.{kind}", "what happened")
            sent = decide(sent, CallFailed(failure, known), later(2), POLICY).after
            known = decide(sent, read(RUNNING, LIVE, at=later(3)), later(3), POLICY).after
            assert known.state is State.QUEUED
        expected = State.DRAINING if unknown in outcomes else State.ALREADY_FINISHED
        for before in (known, sent):
            stopped = decide(before, read(FAILED, STOPPED, at=later(9)), later(9), POLICY)
            assert stopped.after.state is expected, outcomes


def test_a_call_that_conflicts_twice_is_taken_for_acted_upon_by_another_one() -> None:
    """Its answer was lost, or another client sent it, and the cloud shows no NextAction."""
    conflict = call_failed(error(CloudErrorKind.STATE_CONFLICT))
    once = decide(termination(State.SENDING), conflict, NOW, POLICY).after
    untouched = decide(once, read(RUNNING, LIVE), later(1), POLICY)
    assert untouched.event is Event.CALL_NOT_EXECUTED
    again = decide(untouched.after, CallStarted(), later(3), POLICY).after
    other = call_failed(CloudError(CloudErrorKind.STATE_CONFLICT, "Another.Code", "why"))
    assert decide(again, other, later(4), POLICY).event is None
    twice = decide(again, conflict, later(4), POLICY)
    assert (twice.event, twice.after.evidence) == (Event.CALL_CONFLICTED, 0)
    assert (twice.after.calls.acknowledged_at, twice.after.schedule.next_poll_at) == (
        later(4),
        later(4),
    )
    fewer = InstanceCounters(running=1, failed=9)
    still = decide(twice.after, read(RUNNING, fewer, at=later(5)), later(5), POLICY)
    assert (still.event, still.after.schedule.terminate_after, still.after.evidence) == (
        None,
        None,
        0,
    )


def test_a_job_counted_while_it_is_submitted_begins_no_new_run() -> None:
    before = drained_for(300, job_state=SUBMITTED)
    assert decide(before, read(SUBMITTED, LIVE), NOW, POLICY).after.calls.run == before.calls.run


def test_calls_that_keep_failing_wait_longer_and_longer() -> None:
    waits = []
    for failures in range(1, 9):
        after = decide(
            termination(State.SENDING, outcome_unknown=True, failures=failures),
            read(RUNNING, LIVE),
            NOW,
            POLICY,
        ).after
        assert after.schedule.terminate_after is not None
        waits.append((after.schedule.terminate_after - NOW).total_seconds())
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_poll_does_not_shorten_the_wait_of_a_job_that_may_be_called_later() -> None:
    waiting = termination(terminate_after=later(30), failures=5)
    assert decide(
        waiting, batch_read(RUNNING), later(1), POLICY
    ).after.schedule.terminate_after == later(30)


def test_a_job_for_which_describe_jobs_was_refused_is_read_by_itself() -> None:
    decision = decide(termination(), BatchReadFailed(), NOW, POLICY)
    assert decision.event is None
    assert (decision.after.schedule.poll_kind, decision.after.schedule.next_poll_at) == (
        PollKind.SINGLE,
        NOW,
    )


def test_a_job_that_left_submitted_is_first_in_line_until_it_drains() -> None:
    first = decide(termination(State.HELD), batch_read(RUNNING), NOW, POLICY).after
    sent = decide(first, CallStarted(), NOW, POLICY).after
    throttled = decide(sent, call_failed(error(CloudErrorKind.THROTTLED)), NOW, POLICY).after
    again = decide(throttled, batch_read(RUNNING), later(1), POLICY).after
    accepted = decide(sent, CallAcknowledged("r"), later(1), POLICY).after
    assert [t.schedule.priority for t in (first, again, accepted)] == [True, True, False]


@pytest.mark.parametrize(("known", "highest"), [(machines(), 5), ({}, 3)])
def test_evidence_grows_with_what_is_proven(known: dict[str, Any], highest: int) -> None:
    accepted = decide(termination(State.SENDING, **known), CallAcknowledged("r"), NOW, POLICY).after
    finished = decide(accepted, batch_read(FAILED, end_time="E1"), later(1), POLICY).after
    stopped = decide(finished, read(FAILED, at=later(2)), later(2), POLICY).after
    verified = decide(stopped, read(FAILED, at=later(32)), later(32), POLICY).after
    assert [t.evidence for t in (accepted, finished, stopped, verified)] == [1, 2, 3, highest]
    assert stopped.schedule.settle_until == later(32)


def test_a_read_from_before_the_end_of_the_settle_window_does_not_settle() -> None:
    decision = decide(settling(), read(FAILED, at=later(29.9)), later(31), POLICY)
    assert decision.event is None


def test_the_state_alone_does_not_settle() -> None:
    """An instance can run again while the job still reads FAILED."""
    decision = decide(
        settling(), batch_read(FAILED, at=later(31), end_time="E1"), later(31), POLICY
    )
    assert (
        decision.event,
        decision.after.schedule.poll_kind,
        decision.after.schedule.next_poll_at,
    ) == (None, PollKind.SINGLE, later(31))


def test_a_revived_job_is_called_again() -> None:
    revived = decide(settling(), batch_read(RUNNING), NOW, POLICY).after
    assert revived.schedule.terminate_after == NOW
    assert revived.evidence == 1
    draining = termination(State.DRAINING, job_state=FAILED, evidence=2)
    assert decide(draining, batch_read(RUNNING), NOW, POLICY).after.schedule.terminate_after == NOW


def test_a_job_that_ran_again_after_a_lost_answer_is_called_again() -> None:
    acted = decide(unknown_outcome(), read(FAILED), later(1), POLICY).after
    assert (acted.evidence, acted.calls.acknowledged_at) == (2, later(1))
    assert decide(
        acted, read(RUNNING, LIVE), later(2), POLICY
    ).after.schedule.terminate_after == later(2)


@pytest.mark.parametrize(
    ("before", "seen", "why"),
    [
        (unknown_outcome(), read(FAILED), "observed stopped after TerminateJob"),
        (
            unknown_outcome(),
            read(RUNNING, LIVE, next_action="TERMINATING"),
            "is terminating the job",
        ),
        (
            termination(on_submitted=OnSubmitted.REFUSE),
            batch_read(SUBMITTED),
            "forbids TerminateJob",
        ),
        (
            termination(unconfirmed=twice(Verdict.MISSING)),
            ReadFailed(error(CloudErrorKind.JOB_NOT_FOUND)),
            "not found by DescribeJob since 11:50:00Z",
        ),
    ],
)
def test_an_event_that_no_call_of_ours_led_to_says_what_did(
    before: Termination, seen: Observation, why: str
) -> None:
    assert why in (decide(before, seen, NOW, POLICY).why or "")


def drained_for(seconds: float, **changes: Any) -> Termination:
    """Return a draining job, first terminated 600 s ago, last acknowledged ``seconds`` ago."""
    values: dict[str, Any] = {
        "acknowledged_at": later(-seconds),
        "calls_begun_at": later(-600),
        "give_up_at": later(3600),
        "evidence": 1,
    }
    return termination(State.DRAINING, **(values | changes))


@pytest.mark.parametrize(
    ("before", "seen", "again"),
    [
        (drained_for(300), read(RUNNING, LIVE), True),
        (drained_for(299), read(RUNNING, LIVE), False),
        (drained_for(600), read(RUNNING, LIVE), True),
        (drained_for(300), read(SUBMITTED, LIVE), False),
        (drained_for(300, terminate_after=later(-9)), read(SUBMITTED, LIVE), False),
        (drained_for(0, job_state=SUBMITTED), read(RUNNING, LIVE), True),
        (drained_for(0, job_state=SUBMITTED), batch_read(RUNNING), True),
        (
            drained_for(0, job_state=SUBMITTED),
            read(RUNNING, LIVE, next_action="TERMINATING"),
            False,
        ),
        (drained_for(0, job_state=FAILED, evidence=2), batch_read(SUBMITTED), False),
        (drained_for(600, first_sent_at=later(-300)), read(RUNNING, LIVE), True),
        (drained_for(600, first_sent_at=later(-299)), read(RUNNING, LIVE), False),
        (drained_for(60, calls_begun_at=later(-60)), read(RUNNING, LIVE), True),
        (drained_for(59, calls_begun_at=later(-59)), read(RUNNING, LIVE), False),
        # It was held for half an hour before, in which its deadline had begun.
        (
            drained_for(60, calls_begun_at=later(-60), give_up_at=later(1740)),
            read(RUNNING, LIVE),
            True,
        ),
        (drained_for(300), read(RUNNING, LIVE, next_action="TERMINATING"), False),
        (drained_for(300), read(RUNNING, STOPPED), False),
        (drained_for(300), read(RUNNING, None), False),
        (drained_for(300), replace(read(RUNNING, LIVE), next_action=None), False),
        (drained_for(300), batch_read(RUNNING), False),
        (
            drained_for(300, terminate_after=later(-9)),
            read(RUNNING, LIVE, next_action="TERMINATING"),
            False,
        ),
        (drained_for(300), read(RUNNING, LIVE, next_action="WHATEVER"), True),
        (drained_for(300), read(RUNNING, InstanceCounters()), True),
        (drained_for(300, terminate_after=later(-9)), batch_read(FAILED), False),
    ],
)
def test_a_job_that_runs_on_with_nothing_pending_is_called_again_after_longer_and_longer(
    before: Termination, seen: JobSeen, again: bool
) -> None:
    """The job was revived before it was observed stopped; a read must contradict TerminateJob.

    TerminateJob is not sent while the job is SUBMITTED, but as soon as it has left that state.
    """
    decision = decide(before, seen, NOW, POLICY)
    assert decision.event is None
    assert (decision.after.schedule.terminate_after is not None) is again


def test_the_first_call_is_remembered_over_all_runs() -> None:
    sent = decide(termination(terminate_after=NOW), CallStarted(), NOW, POLICY).after
    draining = decide(sent, CallAcknowledged("r-1"), NOW, POLICY).after
    revived = decide(
        with_fields(draining, evidence=2, job_state=FAILED), batch_read(RUNNING), later(50), POLICY
    ).after
    again = decide(revived, CallStarted(), later(60), POLICY).after
    assert (again.calls.run, again.calls.begun_at, again.calls.first_sent_at) == (2, NOW, later(60))


def test_a_first_call_that_never_left_is_none() -> None:
    sent = decide(termination(State.QUEUED, terminate_after=NOW), CallStarted(), NOW, POLICY).after
    error = CloudError(kind=CloudErrorKind.NOT_SENT, code="Client.NoConnection", message="")
    assert decide(sent, call_failed(error), later(1), POLICY).after.calls.begun_at is None


def test_a_job_revived_into_submitted_is_called_once_it_has_left_that() -> None:
    revived = decide(settling(), batch_read(SUBMITTED), NOW, POLICY)
    assert (revived.event, revived.after.schedule.terminate_after) == (Event.SEEN_LIVE_AGAIN, None)
    left = decide(revived.after, batch_read(RUNNING), later(2), POLICY)
    assert left.after.schedule.terminate_after == later(2)


def test_counters_that_come_and_go_end_at_the_deadline() -> None:
    flapping = with_fields(settling(), give_up_at=later(60))
    doubted = decide(flapping, read(FAILED, LIVE, at=later(59)), later(59), POLICY)
    assert doubted.event is Event.SEEN_LIVE_AGAIN
    over = decide(flapping, read(FAILED, LIVE, at=later(60)), later(60), POLICY)
    assert (over.event, over.after.state) == (Event.GAVE_UP, State.UNVERIFIED)
    assert "4 live of 10" in str(over.why)
    assert over.after.evidence == 2, "that no instance was live is no longer true"


def test_a_job_that_waits_to_be_called_again_keeps_its_place() -> None:
    waiting = drained_for(300, terminate_after=later(-9))
    assert decide(
        waiting, read(RUNNING, LIVE), NOW, POLICY
    ).after.schedule.terminate_after == later(-9)
    assert decide(
        waiting, batch_read(RUNNING), NOW, POLICY
    ).after.schedule.terminate_after == later(-9)


def test_a_finished_job_with_live_instances_is_read_again_when_its_rate_says_it_is_over() -> None:
    before = termination(
        State.DRAINING,
        job_state=FAILED,
        instances=InstanceCounters(running=8, failed=2),
        instances_observed_at=later(-4),
    )
    after = decide(before, read(FAILED, LIVE), NOW, POLICY).after
    assert (after.schedule.poll_kind, after.schedule.next_poll_at) == (PollKind.SINGLE, later(4))


def test_no_poll_is_planned_past_the_deadline() -> None:
    held = termination(State.HELD, give_up_at=later(1))
    after = decide(held, batch_read(SUBMITTED), NOW, POLICY).after
    assert (after.schedule.poll_kind, after.schedule.next_poll_at) == (PollKind.SINGLE, later(1))


def test_the_deadline_runs_from_the_first_call_or_hold() -> None:
    sent = decide(termination(terminate_after=NOW), CallStarted(), later(100), POLICY).after
    for answer in (
        CallAcknowledged("r"),
        call_failed(error(CloudErrorKind.OUTCOME_UNKNOWN)),
        call_failed(error(CloudErrorKind.JOB_NOT_FOUND)),
        CallInterrupted(),
    ):
        answered = decide(sent, answer, later(130), POLICY).after
        assert answered.schedule.give_up_at == later(3700)
        again = replace(answered, state=State.QUEUED)
        assert decide(again, CallStarted(), later(200), POLICY).after.schedule.give_up_at == later(
            3700
        )
    held = decide(termination(), batch_read(SUBMITTED), later(100), POLICY).after
    assert held.schedule.give_up_at == later(3700)


def test_the_deadline_does_not_run_from_a_call_that_never_left() -> None:
    sent = decide(termination(terminate_after=NOW), CallStarted(), later(100), POLICY).after
    for kind in (CloudErrorKind.NOT_SENT, CloudErrorKind.CREDENTIAL, CloudErrorKind.UNAUTHORIZED):
        failed = decide(sent, call_failed(error(kind)), later(101), POLICY).after
        assert (failed.schedule.give_up_at, failed.calls.first_sent_at) == (None, None)
        again = decide(failed, CallStarted(), later(9000), POLICY).after
        accepted = decide(again, CallAcknowledged("r"), later(9001), POLICY).after
        assert accepted.schedule.give_up_at == later(9000 + 3600)


def test_a_job_deleted_while_settling_has_no_error() -> None:
    gone = ReadFailed(error(CloudErrorKind.JOB_NOT_FOUND))
    before = replace(settling(), unconfirmed=twice(Verdict.MISSING))
    settled = decide(before, gone, NOW, POLICY).after
    assert (settled.state, settled.problem) == (State.VERIFIED, None)


def test_giving_up_says_why_and_what_to_do() -> None:
    draining = termination(State.DRAINING, give_up_at=NOW)
    decision = decide(draining, read(JobState.RUNNING, InstanceCounters(running=4)), NOW, POLICY)
    problem = decision.after.problem
    assert problem is not None
    assert (problem.code, bool(problem.advice)) == ("Client.DeadlinePassed", True)
    assert problem.message == "the job was not proven stopped by its deadline"


def test_a_job_read_stopped_is_not_reported_as_live() -> None:
    hidden = ReadFailed(error(CloudErrorKind.UNAUTHORIZED))
    before = replace(settling(settle_until=later(-4000)), unconfirmed=twice(Verdict.UNREADABLE))
    late = decide(before, hidden, NOW, POLICY)
    assert (late.event, late.after.evidence) == (Event.GAVE_UP, 3)
    assert late.after.problem is not None
    assert late.after.problem.message.startswith("the job was observed stopped, but ")


def test_a_revived_job_that_succeeds_had_been_stopped_by_an_earlier_call() -> None:
    again = termination(State.SENDING, outcome_unknown=True, evidence=1, acknowledged_at=NOW)
    decision = decide(again, read(JobState.SUCCEED, InstanceCounters(succeed=10)), later(1), POLICY)
    assert decision.after.state is State.DRAINING


@pytest.mark.parametrize("state", [State.QUEUED, State.HELD, State.SENDING, State.DRAINING])
@pytest.mark.parametrize("job_state", [SUBMITTED, RUNNING, FAILED])
def test_nothing_is_given_up_on_a_read_that_counted_nothing(
    state: State, job_state: JobState
) -> None:
    after = decide(overdue(state), batch_read(job_state), later(9), POLICY).after
    assert not after.state.final
    assert after.schedule.poll_kind is PollKind.SINGLE
    assert after.schedule.next_poll_at is not None
    assert after.schedule.next_poll_at <= later(9)


@pytest.mark.parametrize(
    "before",
    [
        termination(poll_kind=PollKind.SINGLE, **CHECKED),
        termination(
            State.SENDING,
            outcome_unknown=True,
            first_sent_at=NOW,
            poll_kind=PollKind.SINGLE,
            give_up_at=later(3600),
        ),
        termination(State.DRAINING, poll_kind=PollKind.SINGLE, give_up_at=later(3600), failures=0),
    ],
    ids=lambda t: t.state,
)
def test_an_answer_without_counters_is_no_reason_to_ask_again_at_once(before: Termination) -> None:
    at, reads = NOW, []
    known = before
    while not known.state.final:
        known = decide(known, read(FAILED, None), at, POLICY).after
        assert known.problem is not None
        reads.append(at)
        at = known.schedule.next_poll_at or at
        assert len(reads) < 100
    assert [(b - a).total_seconds() for a, b in pairwise(reads[:8])] == [1, 2, 4, 8, 16, 32, 60]
    assert (known.state, reads[-1]) == (State.UNVERIFIED, later(3600))
    assert known.problem is not None
    assert "no instance counters" in known.problem.message


def test_where_only_the_task_was_read_and_nothing_stopped_the_state_is_read_too() -> None:
    """DescribeTask shows no job state: the job may have been revived since it read FAILED."""
    before = termination(
        State.DRAINING, job_state=FAILED, instances=LIVE, instances_observed_at=later(-1)
    )
    by_task = replace(read(None, LIVE), next_action=None)
    fewer = replace(by_task, instances=InstanceCounters(running=3, failed=7))
    assert decide(before, by_task, NOW, POLICY).after.schedule.poll_kind is PollKind.BATCH
    assert decide(before, fewer, NOW, POLICY).after.schedule.poll_kind is PollKind.SINGLE
    assert (
        decide(before, read(FAILED, LIVE), NOW, POLICY).after.schedule.poll_kind is PollKind.SINGLE
    )


def test_a_job_that_reads_finished_after_the_deadline_is_counted_before_it_is_given_up() -> None:
    draining = termination(State.DRAINING, evidence=1, give_up_at=NOW)
    batch_read_late = decide(draining, batch_read(JobState.FAILED), later(9), POLICY)
    assert batch_read_late.event is None
    assert batch_read_late.after.schedule.poll_kind is PollKind.SINGLE
    assert decide(
        batch_read_late.after, read(JobState.FAILED, STOPPED), later(10), POLICY
    ).event is (Event.SEEN_STOPPED)
    live = read(JobState.FAILED, InstanceCounters(running=1, failed=9))
    assert decide(batch_read_late.after, live, later(10), POLICY).event is Event.GAVE_UP
