"""Escalation of instances that do not stop: its levels and their times."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.decisions.escalation import EscalationPolicy, next_level
from orchestrator.domain.errors import CloudError, CloudErrorKind
from orchestrator.domain.model.batch_job import InstanceCounters, JobState
from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.domain.model.instance_scan import InstanceScan
from orchestrator.domain.model.lifecycle import Event, State
from orchestrator.domain.model.termination import EscalationLevel, PollKind
from orchestrator.domain.pacing.quota import Rate
from orchestrator.services.explanation.explain import explain
from orchestrator.services.explanation.values import ExplanationContext
from tests.support.termination_fields import with_fields
from tests.unit.domain.build import (
    LIVE,
    NOW,
    POLICY,
    batch_read,
    call_failed,
    later,
    read,
    termination,
)

ESCALATION = EscalationPolicy(after_s=60.0, instances_max=4, rounds_max=2)
STUCK = termination(
    State.DRAINING,
    instances=LIVE,
    calls_begun_at=NOW,
    acknowledged_at=NOW,
    last_progress_at=later(10),
)
IN_ROUND_1 = with_fields(
    STUCK,
    escalation_level=EscalationLevel.INSTANCES,
    escalation_started_at=later(70),
    escalation_round=1,
)
UNREADABLE = InstanceScan(run=1, problem=ErrorDetail(code="Some.Code", message="why"))
AROUND = ExplanationContext(
    now=later(400), jobs_ahead=0, rate=Rate(2, 2), trouble=None, capture_wait_s=0.0
)


@pytest.mark.parametrize(
    ("before", "at_s", "escalation_level"),
    [
        (STUCK, 69.9, None),
        (STUCK, 70, EscalationLevel.INSTANCES),
        (with_fields(STUCK, acknowledged_at=later(20)), 79.9, None),
        (with_fields(STUCK, acknowledged_at=later(20)), 80, EscalationLevel.INSTANCES),
        (with_fields(STUCK, acknowledged_at=later(-90)), 99.9, None),
        (with_fields(STUCK, acknowledged_at=later(-90)), 100, EscalationLevel.INSTANCES),
        # Counted a little over a minute after TerminateJob, and as long after that.
        (with_fields(STUCK, acknowledged_at=later(-51.8)), 71.7, EscalationLevel.INSTANCES),
        (
            with_fields(STUCK, instances=InstanceCounters(running=5, failed=5)),
            70,
            EscalationLevel.MANUAL,
        ),
        (with_fields(STUCK, instances=InstanceCounters(running=3, failed=2)), 609.9, None),
        (
            with_fields(STUCK, instances=InstanceCounters(running=3, failed=2)),
            610,
            EscalationLevel.INSTANCES,
        ),
        (with_fields(STUCK, instances=InstanceCounters(failed=5)), 70, None),
        (IN_ROUND_1, 9999, None),
        (with_fields(IN_ROUND_1, escalation_finished_at=later(60)), 9999, None),
        (with_fields(IN_ROUND_1, escalation_finished_at=later(80)), 139.9, None),
        (with_fields(IN_ROUND_1, escalation_finished_at=later(80)), 140, EscalationLevel.INSTANCES),
        (
            with_fields(IN_ROUND_1, escalation_finished_at=later(80), escalation_round=2),
            140,
            EscalationLevel.MANUAL,
        ),
        (
            with_fields(
                STUCK,
                escalation_level=EscalationLevel.MANUAL,
                escalation_started_at=later(70),
                escalation_round=2,
            ),
            9999,
            None,
        ),
        (
            with_fields(
                STUCK, escalation_level=EscalationLevel.MANUAL, escalation_started_at=later(70)
            ),
            9999,
            EscalationLevel.INSTANCES,
        ),
    ],
)
def test_the_next_level_follows_when_nothing_has_stopped_for_long(
    before: Any, at_s: float, escalation_level: EscalationLevel
) -> None:
    assert next_level(before, later(at_s), ESCALATION) is escalation_level


@pytest.mark.parametrize(
    ("changes", "escalation_level"),
    [
        ({}, EscalationLevel.MACHINES),
        ({"escalation_round": 1}, EscalationLevel.INSTANCES),
        ({"instances": InstanceCounters(running=5, failed=5)}, EscalationLevel.MANUAL),
        ({"escalation_level": EscalationLevel.MACHINES, "escalation_started_at": later(140)}, None),
        (
            {"escalation_level": EscalationLevel.MACHINES, "escalation_finished_at": later(140)},
            EscalationLevel.MANUAL,
        ),
        ({"escalation_level": EscalationLevel.MANUAL}, None),
    ],
)
def test_machines_come_last_and_once_where_they_may_be_ended(
    changes: dict[str, Any], escalation_level: EscalationLevel
) -> None:
    done = with_fields(IN_ROUND_1, escalation_finished_at=later(80), escalation_round=2)
    allowed = replace(ESCALATION, machines=True)
    assert next_level(with_fields(done, **changes), later(200), allowed) is escalation_level
    assert (
        next_level(with_fields(done, **changes), later(200), ESCALATION)
        is not EscalationLevel.MACHINES
    )


def test_a_count_with_progress_postpones_it() -> None:
    fewer = InstanceCounters(running=3, failed=7)
    after = decide(STUCK, read(JobState.FAILED, fewer, at=later(69)), later(69), POLICY).after
    assert after.drain.last_progress_at == later(69)
    still = decide(after, read(JobState.FAILED, fewer, at=later(131)), later(131), POLICY)
    assert (still.event, still.after.drain.last_progress_at) == (None, later(69))
    stuck = decide(after, read(JobState.FAILED, fewer, at=later(132)), later(132), POLICY)
    assert (stuck.event, stuck.after.escalation.level, stuck.after.escalation.started_at) == (
        Event.ESCALATED,
        EscalationLevel.INSTANCES,
        later(132),
    )
    assert stuck.why == "3 of 10 instances live, no progress for 63 s"


def test_a_job_that_runs_on_untouched_is_called_again_first() -> None:
    untouched = with_fields(STUCK, give_up_at=later(3600))
    again = decide(untouched, read(JobState.RUNNING, LIVE, at=later(80)), later(80), POLICY)
    assert (again.event, again.after.schedule.terminate_after) == (None, later(80))
    called_twice = with_fields(untouched, acknowledged_at=later(80))
    seen = read(JobState.RUNNING, LIVE, at=later(140))
    assert decide(called_twice, seen, later(140), POLICY).event is Event.ESCALATED


def test_a_job_that_refuses_to_be_called_again_is_escalated_after_as_long() -> None:
    sent = with_fields(STUCK, state=State.SENDING, first_sent_at=later(80), give_up_at=later(3600))
    in_use = CloudError(kind=CloudErrorKind.STATE_CONFLICT, code="ResourceInUse.Job", message="")
    refused = decide(sent, call_failed(in_use), later(81), POLICY).after
    assert (refused.state, refused.schedule.poll_kind, refused.schedule.next_poll_at) == (
        State.DRAINING,
        PollKind.SINGLE,
        later(81),
    )
    early = decide(refused, read(JobState.RUNNING, LIVE, at=later(139)), later(139), POLICY)
    assert (early.event, early.after.schedule.terminate_after) == (None, None)
    late = decide(early.after, read(JobState.RUNNING, LIVE, at=later(140)), later(140), POLICY)
    assert late.event is Event.ESCALATED


def test_more_that_run_than_were_counted_after_the_call_were_revived() -> None:
    left = with_fields(
        IN_ROUND_1,
        escalation_level=EscalationLevel.MANUAL,
        instances_observed_at=later(9),
        first_sent_at=later(2600),
        give_up_at=later(9999),
    )
    more = InstanceCounters(running=9, failed=1)
    seen = read(JobState.RUNNING, more, at=later(2601))
    again = decide(left, seen, later(2601), POLICY).after
    assert (
        again.schedule.terminate_after,
        again.calls.run,
        again.escalation.level,
        again.escalation.round,
    ) == (later(2601), left.calls.run + 1, EscalationLevel.NONE, 0)
    pending = replace(seen, next_action="TERMINATING")
    for before, its in (
        (left, pending),
        (with_fields(left, instances_observed_at=later(-1)), seen),
    ):
        after = decide(before, its, later(2601), POLICY).after
        assert (after.schedule.terminate_after, after.calls.run) == (None, left.calls.run)


@pytest.mark.parametrize(
    ("live", "escalation_level", "rounds"),
    [(4, EscalationLevel.MANUAL, 2), (3, EscalationLevel.MANUAL, 2), (5, EscalationLevel.NONE, 0)],
)
def test_calling_a_job_again_begins_no_new_rounds_for_those_that_were_escalated(
    live: int, escalation_level: EscalationLevel, rounds: int
) -> None:
    left = with_fields(
        STUCK,
        escalation_level=EscalationLevel.MANUAL,
        escalation_started_at=later(200),
        escalation_round=2,
        give_up_at=later(3600),
    )
    counted = InstanceCounters(running=live, failed=10 - live)
    again = decide(left, read(JobState.RUNNING, counted, at=later(900)), later(900), POLICY).after
    assert again.schedule.terminate_after == later(900)
    assert (again.escalation.level, again.escalation.round) == (escalation_level, rounds)


def test_a_pending_termination_is_not_made_again_but_escalated() -> None:
    seen = read(JobState.RUNNING, LIVE, next_action="TERMINATING", at=later(70))
    assert decide(STUCK, seen, later(70), POLICY).event is Event.ESCALATED


def test_nothing_is_escalated_on_less_than_a_count() -> None:
    assert (
        decide(STUCK, batch_read(JobState.RUNNING, at=later(900)), later(900), POLICY).event is None
    )


def test_a_job_that_runs_again_begins_at_the_first_level() -> None:
    settling = with_fields(
        IN_ROUND_1, state=State.SETTLING, job_state=JobState.FAILED, settle_until=later(200)
    )
    after = decide(settling, batch_read(JobState.RUNNING, at=later(150)), later(150), POLICY).after
    assert (
        after.state,
        after.escalation.level,
        after.escalation.started_at,
        after.escalation.round,
    ) == (State.DRAINING, EscalationLevel.NONE, None, 0)


def test_manual_action_is_described_with_its_commands() -> None:
    left = with_fields(
        STUCK,
        escalation_level=EscalationLevel.MANUAL,
        escalation_started_at=later(300),
        escalation_round=2,
    )
    explanation = explain(left, AROUND)
    assert "manual action is required" in explanation.waiting_for
    assert "after 2 rounds of TerminateTaskInstance" in explanation.waiting_for
    assert "tccli batch TerminateTaskInstance" in str(explanation.next_action)
    given_up = with_fields(left, state=State.UNVERIFIED, finished_at=later(3600), next_poll_at=None)
    explanation = explain(given_up, AROUND)
    assert "4 of 10 instances live" in explanation.waiting_for
    assert "--JobId job-1" in str(explanation.next_action)
    assert "tccli cvm TerminateInstances" in str(explanation.next_action)


def test_no_escalation_calls_are_made_where_the_request_excludes_them() -> None:
    asked = with_fields(STUCK, escalate=False)
    assert (
        next_level(asked, later(70), replace(ESCALATION, machines=True)) is EscalationLevel.MANUAL
    )
    left = with_fields(
        asked, escalation_level=EscalationLevel.MANUAL, escalation_started_at=later(70)
    )
    assert next_level(left, later(9999), ESCALATION) is None
    explanation = explain(left, AROUND)
    assert "the request allows TerminateJob only" in explanation.waiting_for
    assert "tccli batch TerminateTaskInstance" in (explanation.next_action or "")


def test_ended_machines_are_reported() -> None:
    explanation = explain(
        with_fields(IN_ROUND_1, escalation_level=EscalationLevel.MACHINES, rescanned_at=later(70)),
        AROUND,
    )
    assert "TerminateInstances is being sent for each machine" in explanation.waiting_for
    assert explanation.next_action is not None
    assert "tccli" not in explanation.next_action


def test_a_termination_that_is_given_up_is_not_escalated() -> None:
    late = with_fields(STUCK, give_up_at=later(900))
    seen = read(JobState.RUNNING, LIVE, next_action="TERMINATING", at=later(900))
    decision = decide(late, seen, later(900), POLICY)
    assert (decision.event, decision.after.escalation.level) == (
        Event.GAVE_UP,
        EscalationLevel.NONE,
    )


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({}, "will be sent for each instance once the instances are read"),
        ({"rescanned_at": later(69)}, "will be sent for each instance once the instances are read"),
        (
            {"rescan": UNREADABLE},
            (
                "will be sent for each instance once the instances are read, but reading them "
                "fails: Some.Code: why"
            ),
        ),
        ({"rescanned_at": later(70)}, "is being sent for each instance"),
        (
            {"rescanned_at": later(70), "escalation_finished_at": later(75)},
            "was sent (`attempts` has ",
        ),
        (
            {"rescan": UNREADABLE, "escalation_finished_at": later(75)},
            ("was sent for no instance, because the instances could not be read: Some.Code: why"),
        ),
        (
            {"rescan": UNREADABLE, "state": State.UNVERIFIED, "next_poll_at": None},
            "was not sent for every instance before the end; reading the instances had failed: ",
        ),
        (
            {"state": State.UNVERIFIED, "finished_at": later(80), "next_poll_at": None},
            "was not sent for every instance before the end",
        ),
    ],
)
def test_the_progress_of_a_round_is_reported(known: dict[str, Any], said: str) -> None:
    waiting_for = explain(with_fields(IN_ROUND_1, **known), AROUND).waiting_for
    assert f"TerminateTaskInstance {said}" in waiting_for
    assert " (round 1)" in waiting_for


def test_unreadable_instances_are_reported() -> None:
    left = with_fields(
        STUCK,
        escalation_level=EscalationLevel.MANUAL,
        escalation_started_at=later(300),
        escalation_round=3,
        rescan=UNREADABLE,
    )
    assert "; the instances cannot be read: Some.Code: why" in explain(left, AROUND).waiting_for
