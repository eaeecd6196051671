"""Decisions on a read of a draining job: stopped, revived, terminated again, or escalated."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from orchestrator.domain.decisions import escalation, evidence
from orchestrator.domain.decisions.decision import (
    Decision,
    after_successful_read,
    apply_event,
    past_deadline,
    schedule_poll,
    start_new_run,
    to_be_counted,
)
from orchestrator.domain.decisions.instance_counts import contradiction
from orchestrator.domain.model.batch_job import JobSeen, JobState
from orchestrator.domain.model.lifecycle import Event
from orchestrator.domain.model.termination import EscalationLevel, PollKind
from orchestrator.domain.pacing import polling

if TYPE_CHECKING:
    from orchestrator.domain.decisions.decision import Policy
    from orchestrator.domain.model.error_detail import ErrorDetail
    from orchestrator.domain.model.termination import Termination

IN_USE: Final = "ResourceInUse"
"""Family of the codes with which the cloud refuses a second operation on a job."""
CALL_AGAIN_AFTER_S: Final = 60.0
"""How long an acknowledged TerminateJob may take to show an effect before it is repeated."""


def on_job_draining(
    termination: Termination, seen: JobSeen, now: datetime, policy: Policy
) -> Decision:
    """Decide on a read of a draining job, including a due escalation."""
    return _escalated(_on_draining(termination, seen, now, policy), seen, now, policy)


def _on_draining(
    termination: Termination, seen: JobSeen, now: datetime, policy: Policy
) -> Decision:
    updated = after_successful_read(termination, seen, problem=_conflict(termination))
    if evidence.proves_stopped(termination, seen):
        proven = replace(updated, evidence=evidence.NO_INSTANCE_LIVE)
        decision = apply_event(proven, Event.SEEN_STOPPED, now)
        settle_until = seen.observed_at + timedelta(seconds=updated.request.settle_s)
        at = min(settle_until, now + timedelta(seconds=policy.poll.settling_interval_s))
        after = replace(
            decision.after,
            schedule=replace(
                decision.after.schedule,
                poll_kind=PollKind.BATCH,
                next_poll_at=at,
                settle_until=settle_until,
            ),
        )
        return replace(decision, after=after)
    state = updated.job.state
    live = seen.instances is not None and seen.instances.live > 0
    if state is not None and (state.finished or (not state.documented and not live)):
        return Decision(after=_on_finished_not_stopped(termination, updated, seen, now, policy))
    was_finished = termination.job.finished
    runs = state is None or state.documented
    revived = runs and was_finished and termination.evidence >= evidence.JOB_FINISHED
    revived = revived or _live_count_increased_since_call(termination, seen)
    if revived:
        updated = replace(updated, evidence=min(updated.evidence, evidence.ACKNOWLEDGED))
    ignored = updated.schedule.terminate_after is None and _ignores_termination(
        updated, seen, policy
    )
    if revived or ignored:
        known = updated
        updated = start_new_run(known)
        if not revived and not _live_count_increased(termination, seen):
            # The live count did not grow: these are the instances that were escalated already.
            updated = replace(updated, escalation=known.escalation)
    left_submitted = termination.job.state is JobState.SUBMITTED and not seen.terminating
    if updated.job.state is JobState.SUBMITTED:
        updated = replace(updated, schedule=replace(updated.schedule, terminate_after=None))
    elif revived or left_submitted or ignored:
        updated = replace(updated, schedule=replace(updated.schedule, terminate_after=now))
    elif seen.terminating:
        updated = replace(updated, schedule=replace(updated.schedule, terminate_after=None))
    age_s = (now - (updated.calls.acknowledged_at or now)).total_seconds()
    interval_s = polling.drain_poll_s(
        policy.poll, batch_interval_s=policy.batch_interval_s, age_s=age_s
    )
    # An undocumented state proves nothing; the counters decide.
    poll_kind = PollKind.BATCH if runs else PollKind.SINGLE
    return Decision(after=schedule_poll(updated, poll_kind, now + timedelta(seconds=interval_s)))


def _conflict(termination: Termination) -> ErrorDetail | None:
    """Return the error of a TerminateJob that was refused because the job is in use.

    It stays in ``problem`` while the job runs: it explains why TerminateJob was refused.
    """
    problem = termination.problem
    return problem if problem is not None and problem.code.startswith(IN_USE) else None


def _ignores_termination(termination: Termination, seen: JobSeen, policy: Policy) -> bool:
    """Return whether the job runs without NextAction TERMINATING long after TerminateJob.

    RetryJobs may have revived it before it was observed stopped, or the cloud dropped the call. A
    missing TERMINATING is weak evidence of that: a single vendor example documents it
    (cloud.tencent.com/document/api/599/15904). So each repeat waits for
    as long as all calls so far have spanned. From the second repeat on, an escalation that cannot
    wait, given the deadline, comes first.
    """
    if seen.instances is None or not seen.not_terminating:
        return False
    if not seen.instances.live and seen.instances.total:
        return False
    if termination.calls.last_called_at is None or termination.job.state is JobState.SUBMITTED:
        return False
    called_for = _calling_span(termination)
    patience = max(_call_again_after(termination), called_for)
    if called_for >= _call_again_after(termination) and escalation.is_urgent(
        termination, seen.observed_at, policy.escalation
    ):
        return False
    return seen.observed_at - termination.calls.last_called_at >= patience


def _call_again_after(termination: Termination) -> timedelta:
    """Return how long an acknowledged TerminateJob has to show an effect before it is repeated."""
    seconds = escalation.by_deadline_s(termination, CALL_AGAIN_AFTER_S, escalation.CALL_AGAIN_SHARE)
    return timedelta(seconds=seconds)


def _live_count_increased(termination: Termination, seen: JobSeen) -> bool:
    """Return whether more instances are live than at the last count."""
    known, counted = termination.drain.counters, seen.instances
    return known is not None and counted is not None and counted.live > known.live


def _live_count_increased_since_call(termination: Termination, seen: JobSeen) -> bool:
    """Return whether more instances are live than a count after TerminateJob showed.

    NextAction must not be TERMINATING.
    """
    counted_at, acknowledged_at = termination.drain.counted_at, termination.calls.acknowledged_at
    since = counted_at is not None and acknowledged_at is not None and counted_at >= acknowledged_at
    return since and seen.not_terminating and _live_count_increased(termination, seen)


def _calling_span(termination: Termination) -> timedelta:
    """Return the time from the first TerminateJob to ``last_called_at``."""
    calls = termination.calls
    if calls.last_called_at is None or calls.begun_at is None:
        return timedelta()
    return calls.last_called_at - calls.begun_at


def _escalated(decision: Decision, seen: JobSeen, now: datetime, policy: Policy) -> Decision:
    """Return the decision on a draining job with the escalation level that is due, if any."""
    updated = decision.after
    if (
        decision.event is not None
        or seen.instances is None
        or updated.schedule.terminate_after is not None
    ):
        return decision
    if past_deadline(updated, now):
        return decision
    finished = updated.job.finished
    not_terminating = not finished and seen.not_terminating
    if not_terminating and _calling_span(updated) < _call_again_after(updated):
        return decision  # TerminateJob is repeated first
    escalation_level = escalation.next_level(updated, seen.observed_at, policy.escalation)
    if escalation_level is None:
        return decision
    live, stalled_for_s = seen.instances.live, escalation.stalled_for_s(updated, seen.observed_at)
    why = f"{live} of {seen.instances.total} instances live, no progress for {stalled_for_s:.0f} s"
    escalated = apply_event(updated, Event.ESCALATED, now, why=why)
    after = replace(
        escalated.after,
        escalation=replace(
            escalated.after.escalation,
            level=escalation_level,
            started_at=now,
            round=updated.escalation.round + (escalation_level is EscalationLevel.INSTANCES),
        ),
    )
    return replace(escalated, after=after)


def _on_finished_not_stopped(
    termination: Termination, updated: Termination, seen: JobSeen, now: datetime, policy: Policy
) -> Termination:
    """Plan the next read of a job that reads finished, and is not proven stopped.

    Its instances were not counted, the counters do not add up, instances are live, or NextAction is
    TERMINATING. A job with an undocumented state and no live instance is read like this, too.
    """
    finished = updated.job.finished
    proven = evidence.JOB_FINISHED if finished else updated.evidence
    # If the job read finished before and TerminateJob is planned, an instance had started again.
    again = termination.job.finished
    terminate_after = termination.schedule.terminate_after if again else None
    updated = replace(
        updated,
        evidence=max(updated.evidence, proven),
        schedule=replace(updated.schedule, terminate_after=terminate_after),
    )
    if seen.instances is None or contradiction(termination, seen) is not None:
        return to_be_counted(termination, updated, seen, now, policy)
    wait_s = polling.recount_after_s(
        policy.poll,
        before=termination.drain.counters,
        before_at=termination.drain.counted_at,
        after=seen.instances,
        after_at=seen.observed_at,
    )
    # Only the task was read. If no instance has stopped since, the job may have been revived.
    stuck = termination.drain.counters and seen.instances.live >= termination.drain.counters.live
    poll_kind = PollKind.BATCH if seen.state is None and stuck else PollKind.SINGLE
    wait_s = min(wait_s, escalation.count_every_s(updated))
    return schedule_poll(updated, poll_kind, now + timedelta(seconds=wait_s))
