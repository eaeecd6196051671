"""What no write may break, whatever decided on it: checked in production, too.

A violation is a bug.  What would have broken an invariant is not written, and is counted.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from orchestrator.domain.decisions import evidence
from orchestrator.domain.errors import InvariantViolated
from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.lifecycle import PROVEN_STATES, TRANSITIONS, Event

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.decisions.transitions import Decision
    from orchestrator.domain.model.termination import Termination


class Invariant(StrEnum):
    TRANSITION = "transition"
    """A state changes by an event of the lifecycle table, one revision at a time."""
    PROOF = "proof"
    """What counts as down was seen finished, its instances counted, and none live; no higher level
    is claimed while a machine is left."""
    CALL = "call"
    """A job is called only once a look has shown that it may be, and not from SUBMITTED."""
    CONSTRAINT = "constraint"
    """What the database itself checks."""


def check(before: Termination, decision: Decision, at: datetime) -> None:
    """Raise InvariantViolated if ``decision``, made at ``at``, must not be written."""
    after, event = decision.after, decision.event
    follows = TRANSITIONS[before.state].get(event) if event else before.state
    if after.state is not follows or after.revision != before.revision + bool(event):
        raise InvariantViolated(
            Invariant.TRANSITION,
            f"{before.id}: {event or 'no event'} leads from {before.state}, revision "
            f"{before.revision}, to {after.state}, revision {after.revision}",
        )
    if event is Event.SEEN_STOPPED or after.state in PROVEN_STATES:
        _check_proof(after)
    if event is Event.CALL_STARTED:
        _check_call(before, at)


def _check_proof(after: Termination) -> None:
    state = after.job_state
    finished = state is not None and (state.finished or not state.known)
    none_live = after.instances is not None and after.instances.live == 0
    # Of a job that reads SUCCEED and has no instance, its end is all that can be proven.
    empty = state is JobState.SUCCEED and after.instances is not None and not after.instances.total
    least = evidence.JOB_FINISHED if empty else evidence.NO_INSTANCE_LIVE
    if not (finished and none_live and after.evidence >= least):
        raise InvariantViolated(
            Invariant.PROOF,
            f"{after.id} would be {after.state} with evidence {after.evidence}, its job "
            f"{after.job_state} and its instances {after.instances}",
        )

    if after.evidence >= evidence.MACHINES_GONE and not evidence.machines_gone(after):
        raise InvariantViolated(
            Invariant.PROOF,
            f"{after.id} would have evidence {after.evidence} with {after.machines}",
        )


def _check_call(before: Termination, at: datetime) -> None:
    # The state may be one that is not known here.
    seen = before.job_state is not None or before.instances is not None
    submitted = before.job_state is JobState.SUBMITTED
    if (
        not seen
        or submitted
        or before.in_doubt
        or before.terminate_after is None
        or before.terminate_after > at
    ):
        raise InvariantViolated(
            Invariant.CALL,
            f"{before.id} would be called at {at}, its job {before.job_state}, terminate_after "
            f"{before.terminate_after}, in doubt: {before.in_doubt}",
        )
