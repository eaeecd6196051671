"""Decisions on a read of a job that no call of ours is known to have reached."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from orchestrator.domain.decisions import evidence
from orchestrator.domain.decisions.settling import (
    on_still_stopped,
)
from orchestrator.domain.decisions.transitions import (
    Decision,
    accepted,
    apply_event,
    backoff,
    schedule_poll,
    to_be_counted,
    with_observation,
)
from orchestrator.domain.model.batch_job import JobSeen, JobState, JobSubmitted
from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.domain.model.lifecycle import Event, State
from orchestrator.domain.model.termination import OnSubmitted, PollKind

if TYPE_CHECKING:
    from orchestrator.domain.decisions.transitions import Policy
    from orchestrator.domain.model.termination import Termination


def on_job_not_called(
    termination: Termination, seen: JobSeen, now: datetime, policy: Policy
) -> Decision:
    """A read of a job that no call of ours is known to have reached."""
    updated = with_observation(termination, seen)
    if updated.job_state is JobState.SUBMITTED:
        return _on_submitted(updated, now, policy)
    unread = _to_be_read(termination, updated, seen, now, policy)
    if unread is not None:
        return Decision(after=replace(unread, terminate_after=None))
    if evidence.proves_stopped(termination, seen):
        return _on_stopped_not_called(updated, now, policy)
    if updated.job_state is JobState.SUCCEED and not updated.acknowledged_at and _is_empty(seen):
        # No instance is counted, so that no more than the end of the job is proven.
        ended = replace(updated, evidence=evidence.JOB_FINISHED, problem=None)
        return apply_event(
            ended, Event.SEEN_STOPPED, now, why="it reads SUCCEED, no instance is counted"
        )
    if seen.terminating and termination.state is State.SENDING:
        decision = accepted(updated, now, policy)
        after = replace(decision.after, evidence=termination.evidence)
        return replace(decision, after=after, why="a look shows that the cloud acts on it")
    return _on_terminable(updated, now, policy)


def on_submission(
    termination: Termination, seen: JobSubmitted, now: datetime, policy: Policy
) -> Decision:
    """How many instances the job was submitted with: now a count of them can be judged."""
    submitted = sum(task.instances for task in seen.tasks)
    updated = replace(termination, instances_submitted=submitted, failures=0)
    if termination.state is State.SETTLING:
        return on_still_stopped(updated, now, policy)
    return Decision(after=schedule_poll(updated, PollKind.SINGLE, now))


def _to_be_read(
    termination: Termination, updated: Termination, seen: JobSeen, now: datetime, policy: Policy
) -> Termination | None:
    """The termination with the read planned that must come before a decision; None: none must.

    A job that reads finished before any call is compared with what it was submitted as.  Where the
    state is no proof, the counters or NextAction decide.
    """
    state = updated.job_state
    unclear = state is None or state.finished or not state.known
    checked = updated.instances_submitted is not None or updated.acknowledged_at is not None
    if unclear and not checked and termination.state is not State.SENDING:
        return schedule_poll(updated, PollKind.SUBMIT_INFO, now)
    if seen.instances is None and (unclear or termination.state is State.SENDING):
        return to_be_counted(termination, updated, seen, now, policy)
    return None


def _is_empty(seen: JobSeen) -> bool:
    return seen.instances is not None and not seen.instances.total


def _on_submitted(updated: Termination, now: datetime, policy: Policy) -> Decision:
    if updated.on_submitted is OnSubmitted.REFUSE:
        problem = ErrorDetail(
            code="Client.JobSubmitted",
            message="the job is SUBMITTED, where the cloud forbids TerminateJob",
            advice='submit it again with on_submitted "hold", or once it has left SUBMITTED',
        )
        return apply_event(
            replace(updated, problem=problem), Event.CALL_REFUSED, now, why=problem.message
        )
    decision = (
        Decision(after=updated)
        if updated.state is State.HELD
        else apply_event(updated, Event.SEEN_SUBMITTED, now)
    )
    at = now + timedelta(seconds=policy.poll.held_s)
    return replace(decision, after=schedule_poll(decision.after, PollKind.BATCH, at))


def _on_stopped_not_called(updated: Termination, now: datetime, policy: Policy) -> Decision:
    # A termination leaves FAILED behind: the call whose answer was lost may well have acted.
    may_have_acted = updated.state is State.SENDING and updated.job_state is JobState.FAILED
    if may_have_acted or updated.acknowledged_at:
        decision = accepted(updated, now, policy)
        after = replace(
            schedule_poll(decision.after, PollKind.SINGLE, now), evidence=evidence.JOB_FINISHED
        )
        return replace(decision, after=after, why="seen down after a call")
    proven = replace(updated, evidence=evidence.NO_INSTANCE_LIVE, problem=None)
    return apply_event(proven, Event.SEEN_STOPPED, now)


def _on_terminable(updated: Termination, now: datetime, policy: Policy) -> Decision:
    """The job runs and can be called: from now on it waits for its turn only."""
    priority = updated.priority or updated.state is State.HELD
    match updated.state:
        case State.HELD:
            decision = apply_event(updated, Event.SEEN_TERMINABLE, now)
        case State.SENDING:
            decision = apply_event(
                updated, Event.CALL_NOT_EXECUTED, now, why="seen running on untouched"
            )
        case _:
            decision = Decision(after=updated)
    delay = backoff(updated, policy) if updated.state is State.SENDING else timedelta()
    after = replace(
        schedule_poll(
            decision.after, PollKind.BATCH, now + timedelta(seconds=policy.poll.queued_s)
        ),
        terminate_after=updated.terminate_after or max(now + delay, updated.not_before or now),
        priority=priority,
        run=max(updated.run, 1),
    )
    return replace(decision, after=after)
