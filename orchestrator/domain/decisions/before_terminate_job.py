"""Decisions on a read of a job on which no TerminateJob of its current run is known to act."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from orchestrator.domain.decisions import evidence
from orchestrator.domain.decisions.decision import (
    Decision,
    apply_event,
    backoff,
    on_acknowledged,
    schedule_poll,
    to_be_counted,
    with_observation,
    with_run,
)
from orchestrator.domain.decisions.settling import (
    verify_or_read_again,
)
from orchestrator.domain.model.batch_job import JobSeen, JobState, JobSubmitted
from orchestrator.domain.model.error_detail import ClientCode, ErrorDetail
from orchestrator.domain.model.lifecycle import Event, State
from orchestrator.domain.model.termination import OnSubmitted, PollKind

if TYPE_CHECKING:
    from orchestrator.domain.decisions.decision import Policy
    from orchestrator.domain.model.termination import Termination


def on_job_before_effect(
    termination: Termination, seen: JobSeen, now: datetime, policy: Policy
) -> Decision:
    """Decide on a read of a job on which no TerminateJob of its current run is known to act."""
    updated = with_observation(termination, seen)
    if updated.job.state is JobState.SUBMITTED:
        return _on_state_submitted(updated, now, policy)
    to_read = _with_required_read(termination, updated, seen, now, policy)
    if to_read is not None:
        return Decision(
            after=replace(to_read, schedule=replace(to_read.schedule, terminate_after=None))
        )
    if evidence.proves_stopped(termination, seen):
        return _on_stopped_before_effect(updated, now, policy)
    if (
        updated.job.state is JobState.SUCCEED
        and not updated.calls.acknowledged_at
        and _is_empty(seen)
    ):
        # Without a counted instance, only the end of the job is proven.
        ended = replace(updated, evidence=evidence.JOB_FINISHED, problem=None)
        return apply_event(
            ended, Event.SEEN_STOPPED, now, why="the job reads SUCCEED and has no task instance"
        )
    if seen.terminating and termination.state is State.SENDING:
        decision = on_acknowledged(updated, now, policy)
        after = replace(decision.after, evidence=termination.evidence)
        return replace(
            decision, after=after, why="NextAction shows that the cloud is terminating the job"
        )
    return _on_terminable(updated, now, policy)


def on_submit_info(
    termination: Termination, seen: JobSubmitted, now: datetime, policy: Policy
) -> Decision:
    """Store how many instances the job was submitted with, so that a count can be checked."""
    submitted = sum(task.instances for task in seen.tasks)
    updated = replace(
        termination,
        drain=replace(termination.drain, instances_submitted=submitted),
        schedule=replace(termination.schedule, failures=0),
    )
    if termination.state is State.SETTLING:
        return verify_or_read_again(updated, now, policy)
    return Decision(after=schedule_poll(updated, PollKind.SINGLE, now))


def _with_required_read(
    termination: Termination, updated: Termination, seen: JobSeen, now: datetime, policy: Policy
) -> Termination | None:
    """Return the termination with the read that a decision still needs, or None if none is needed.

    A job that may have finished before TerminateJob took effect is compared with its submission,
    unless the read shows live instances or a pending termination. Where the state proves nothing,
    the counters or NextAction decide.
    """
    state = updated.job.state
    unclear = state is None or state.finished or not state.documented
    checked = (
        updated.drain.instances_submitted is not None or updated.calls.acknowledged_at is not None
    )
    may_prove = not seen.terminating and (seen.instances is None or not seen.instances.live)
    if unclear and not checked and may_prove and not _may_have_acted(updated):
        return schedule_poll(updated, PollKind.SUBMIT_INFO, now)
    if seen.instances is None and (unclear or termination.state is State.SENDING):
        return to_be_counted(termination, updated, seen, now, policy)
    return None


def _is_empty(seen: JobSeen) -> bool:
    return seen.instances is not None and not seen.instances.total


def _on_state_submitted(termination: Termination, now: datetime, policy: Policy) -> Decision:
    if termination.request.on_submitted is OnSubmitted.REFUSE:
        problem = ErrorDetail(
            code=ClientCode.JOB_SUBMITTED,
            message="the job is SUBMITTED, and the cloud forbids TerminateJob in this state",
            advice='request the termination with on_submitted "hold", or once the job has left '
            "SUBMITTED",
        )
        return apply_event(
            replace(termination, problem=problem), Event.CALL_REFUSED, now, why=problem.message
        )
    decision = (
        Decision(after=termination)
        if termination.state is State.HELD
        else apply_event(termination, Event.SEEN_SUBMITTED, now)
    )
    at = now + timedelta(seconds=policy.poll.held_interval_s)
    return replace(decision, after=schedule_poll(decision.after, PollKind.BATCH, at))


def _on_stopped_before_effect(termination: Termination, now: datetime, policy: Policy) -> Decision:
    if _may_have_acted(termination) or termination.calls.acknowledged_at:
        decision = on_acknowledged(termination, now, policy)
        after = replace(
            schedule_poll(decision.after, PollKind.SINGLE, now), evidence=evidence.JOB_FINISHED
        )
        return replace(decision, after=after, why="the job was observed stopped after TerminateJob")
    proven = replace(termination, evidence=evidence.NO_INSTANCE_LIVE, problem=None)
    return apply_event(proven, Event.SEEN_STOPPED, now)


def _may_have_acted(termination: Termination) -> bool:
    """Return whether a request of unknown outcome may be why the job reads as it does.

    TerminateJob leaves a job FAILED. It may have acted even if the job was read as running after
    it: reads can lag behind, and NextAction may be missing.
    """
    return termination.calls.first_sent_at is not None and termination.job.state is JobState.FAILED


def _on_terminable(termination: Termination, now: datetime, policy: Policy) -> Decision:
    """Let the job wait for its turn: TerminateJob may be sent from now on."""
    priority = termination.schedule.priority or termination.state is State.HELD
    match termination.state:
        case State.HELD:
            decision = apply_event(termination, Event.SEEN_TERMINABLE, now)
        case State.SENDING:
            decision = apply_event(
                termination,
                Event.CALL_NOT_EXECUTED,
                now,
                why="a read shows neither a stop nor a pending termination of the job",
            )
        case _:
            decision = Decision(after=termination)
    delay = backoff(termination, policy) if termination.state is State.SENDING else timedelta()
    after = replace(
        schedule_poll(
            decision.after, PollKind.BATCH, now + timedelta(seconds=policy.poll.queued_interval_s)
        ),
        schedule=replace(
            decision.after.schedule,
            poll_kind=PollKind.BATCH,
            next_poll_at=now + timedelta(seconds=policy.poll.queued_interval_s),
            terminate_after=(
                termination.schedule.terminate_after
                or max(now + delay, termination.request.not_before or now)
            ),
            priority=priority,
        ),
        calls=with_run(decision.after.calls),
    )
    return replace(decision, after=after)
