"""Invariants that every decision must keep, checked in production before it is written.

A violation is a bug. The decision is not written, and the violation is counted.
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

    from orchestrator.domain.decisions.decision import Decision
    from orchestrator.domain.model.termination import Termination


class Invariant(StrEnum):
    """Names of the invariants, as errors and metrics show them."""

    TRANSITION = "transition"
    """A state changes by an event of the lifecycle table, one revision at a time."""
    PROOF = "proof"
    """A job counts as stopped only if it was read finished, or in a state that the vendor does not
    document, and a count showed no live instance;
    evidence 4 or more requires that all its machines are gone."""
    CALL = "call"
    """TerminateJob is sent only after a read has allowed it, and never to a SUBMITTED job."""
    CONSTRAINT = "constraint"
    """A constraint of the database."""


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


def _check_proof(termination: Termination) -> None:
    state, counters = termination.job.state, termination.drain.counters
    finished = state is not None and (state.finished or not state.documented)
    none_live = counters is not None and counters.live == 0
    # For a job that reads SUCCEED and has no instance, only its end can be proven.
    empty = state is JobState.SUCCEED and counters is not None and not counters.total
    least = evidence.JOB_FINISHED if empty else evidence.NO_INSTANCE_LIVE
    if not (finished and none_live and termination.evidence >= least):
        raise InvariantViolated(
            Invariant.PROOF,
            f"{termination.id} would become {termination.state} with evidence "
            f"{termination.evidence}, job state {state} and instances {counters}",
        )

    if termination.evidence >= evidence.MACHINES_GONE and not evidence.machines_gone(termination):
        raise InvariantViolated(
            Invariant.PROOF,
            f"{termination.id} would have evidence {termination.evidence} with "
            f"{termination.machines}",
        )


def _check_call(termination: Termination, at: datetime) -> None:
    # The job state is None if only DescribeTask has read the job.
    was_read = termination.job.state is not None or termination.drain.counters is not None
    if (
        not was_read
        or termination.job.state is JobState.SUBMITTED
        or termination.calls.outcome_unknown
        or termination.schedule.terminate_after is None
        or termination.schedule.terminate_after > at
    ):
        raise InvariantViolated(
            Invariant.CALL,
            f"TerminateJob of {termination.id} would be sent at {at} with job state "
            f"{termination.job.state}, terminate_after {termination.schedule.terminate_after}, "
            f"outcome unknown: {termination.calls.outcome_unknown}",
        )
