"""Invariants: decisions that keep them pass, and each way to break one is refused."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.decisions.decision import Decision
from orchestrator.domain.decisions.invariants import Invariant, check
from orchestrator.domain.errors import InvariantViolated
from orchestrator.domain.model.batch_job import InstanceCounters, JobState
from orchestrator.domain.model.lifecycle import Event, State
from orchestrator.domain.model.observation import CallStarted
from tests.support.termination_fields import with_fields
from tests.unit.domain.build import LIVE, NOW, POLICY, STOPPED, later, machines, read, termination

CALLABLE = {"job_state": JobState.RUNNING, "terminate_after": NOW}
PROVEN = {"job_state": JobState.FAILED, "instances": STOPPED, "evidence": 3}


def violated(before: Any, after: dict[str, Any], event: Event | None = None) -> str | None:
    """Return the invariant that this change of fields violates."""
    moved = {"revision": before.revision + 1} if event else {}
    decision = Decision(after=with_fields(before, **(moved | after)), event=event)
    try:
        check(before, decision, NOW)
    except InvariantViolated as error:
        return error.invariant
    return None


@pytest.mark.parametrize(
    ("event", "after", "expected"),
    [
        (None, {"evidence": 2}, None),
        (None, {"state": State.WITHDRAWN}, Invariant.TRANSITION),
        (None, {"revision": 4}, Invariant.TRANSITION),
        (Event.WITHDRAWN, {"state": State.WITHDRAWN}, None),
        (Event.WITHDRAWN, {"state": State.WITHDRAWN, "revision": 3}, Invariant.TRANSITION),
        (Event.WITHDRAWN, {"state": State.UNVERIFIED}, Invariant.TRANSITION),
        (Event.SETTLED, {"state": State.VERIFIED} | PROVEN, Invariant.TRANSITION),
    ],
)
def test_a_state_changes_as_the_table_says_one_revision_at_a_time(
    event: Event | None, after: dict[str, Any], expected: Invariant | None
) -> None:
    assert violated(termination(revision=3), after, event) == expected


ENDS = [
    (State.QUEUED, Event.SEEN_STOPPED, State.ALREADY_FINISHED),
    (State.DRAINING, Event.SEEN_STOPPED, State.SETTLING),
    (State.SETTLING, Event.SETTLED, State.VERIFIED),
]


@pytest.mark.parametrize(
    "lacks",
    [
        {"job_state": None},
        {"job_state": JobState.RUNNING},
        {"instances": None},
        {"instances": LIVE},
        {"instances": InstanceCounters(failed=9, starting=1)},
        {"evidence": 2},
    ],
    ids=repr,
)
@pytest.mark.parametrize(("state", "event", "to"), ENDS)
def test_what_counts_as_stopped_is_proven(
    state: State, event: Event, to: State, lacks: dict[str, Any]
) -> None:
    assert violated(termination(state), {"state": to} | PROVEN, event) is None
    assert violated(termination(state), {"state": to} | PROVEN | lacks, event) is Invariant.PROOF


@pytest.mark.parametrize("evidence", [4, 5])
@pytest.mark.parametrize(
    "lacks", [machines(gone=3), machines(listed=False), {"capture": None}, {"first_sent_at": None}]
)
def test_no_more_is_claimed_while_a_machine_may_be_left(
    evidence: int, lacks: dict[str, Any]
) -> None:
    before = termination(State.SETTLING)
    after = {"state": State.VERIFIED} | PROVEN | {"evidence": evidence} | machines()
    assert violated(before, after, Event.SETTLED) is None
    assert violated(before, after | lacks, Event.SETTLED) is Invariant.PROOF


@pytest.mark.parametrize(
    "lacks",
    [
        {"job_state": None},
        {"job_state": JobState.SUBMITTED},
        {"outcome_unknown": True},
        {"terminate_after": None},
        {"terminate_after": later(0.001)},
    ],
    ids=repr,
)
@pytest.mark.parametrize("state", [State.QUEUED, State.DRAINING])
def test_a_call_follows_a_poll_that_allowed_it(state: State, lacks: dict[str, Any]) -> None:
    sending = {"state": State.SENDING}
    assert violated(termination(state, **CALLABLE), sending, Event.CALL_STARTED) is None
    before = termination(state, **(CALLABLE | lacks))
    assert violated(before, sending, Event.CALL_STARTED) is Invariant.CALL


def test_a_job_in_a_state_that_is_not_known_here_may_be_called_once_it_is_counted() -> None:
    before = termination(terminate_after=NOW, instances=LIVE)
    assert violated(before, {"state": State.SENDING}, Event.CALL_STARTED) is None


def test_decisions_on_polls_and_calls_are_valid() -> None:
    queued = termination()
    polled = decide(queued, read(JobState.RUNNING, LIVE), NOW, POLICY)
    check(queued, polled, NOW)
    check(polled.after, decide(polled.after, CallStarted(), NOW, POLICY), NOW)
