"""Decisions on a read of a draining job: stopped, revived, called again, or escalated."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from orchestrator.domain.decisions import escalation, evidence
from orchestrator.domain.decisions.instance_counts import contradiction
from orchestrator.domain.decisions.transitions import (
    Decision,
    apply_event,
    overdue,
    running_again,
    schedule_poll,
    to_be_counted,
    with_observation,
)
from orchestrator.domain.model.batch_job import JobSeen, JobState
from orchestrator.domain.model.lifecycle import Event
from orchestrator.domain.model.termination import EscalationLevel, PollKind
from orchestrator.domain.pacing import polling

if TYPE_CHECKING:
    from orchestrator.domain.decisions.transitions import Policy
    from orchestrator.domain.model.error_detail import ErrorDetail
    from orchestrator.domain.model.termination import Termination

IN_USE: Final = "ResourceInUse"
"""Family of the codes by which the cloud refuses a second operation on a job."""
CALL_AGAIN_AFTER_S: Final = 60.0
"""How long an acknowledged call has to show in the job before it is made again, at most."""


def on_job_draining(
    termination: Termination, seen: JobSeen, now: datetime, policy: Policy
) -> Decision:
    return _escalated(_on_draining(termination, seen, now, policy), seen, now, policy)


def _on_draining(
    termination: Termination, seen: JobSeen, now: datetime, policy: Policy
) -> Decision:
    updated = replace(
        with_observation(termination, seen), failures=0, problem=_conflict(termination)
    )
    if evidence.proves_stopped(termination, seen):
        proven = replace(updated, evidence=evidence.NO_INSTANCE_LIVE)
        decision = apply_event(proven, Event.SEEN_STOPPED, now)
        settle_until = seen.observed_at + timedelta(seconds=updated.settle_s)
        at = min(settle_until, now + timedelta(seconds=policy.poll.settling_s))
        after = replace(
            schedule_poll(decision.after, PollKind.BATCH, at), settle_until=settle_until
        )
        return replace(decision, after=after)
    state = updated.job_state
    live = seen.instances is not None and seen.instances.live > 0
    if state is not None and (state.finished or (not state.known and not live)):
        return Decision(after=_on_finished_not_stopped(termination, updated, seen, now, policy))
    was_finished = termination.job_state is not None and termination.job_state.finished
    runs = state is None or state.known
    revived = runs and was_finished and termination.evidence >= evidence.JOB_FINISHED
    revived = revived or _rose(termination, seen)
    if revived:
        updated = replace(updated, evidence=min(updated.evidence, evidence.ACKNOWLEDGED))
    runs_on = updated.terminate_after is None and _runs_on(updated, seen, policy)
    if revived or runs_on:
        known = updated
        updated = running_again(known)
        if not revived and not _more_live(termination, seen):
            # Those that were escalated: how far they were stays.
            updated = replace(
                updated,
                escalation_level=known.escalation_level,
                escalation_started_at=known.escalation_started_at,
                escalation_round=known.escalation_round,
            )
    left_submitted = termination.job_state is JobState.SUBMITTED and not seen.terminating
    if updated.job_state is JobState.SUBMITTED:
        updated = replace(updated, terminate_after=None)
    elif revived or left_submitted or runs_on:
        updated = replace(updated, terminate_after=now)
    elif seen.terminating:
        updated = replace(updated, terminate_after=None)
    age_s = (now - (updated.acknowledged_at or now)).total_seconds()
    interval_s = polling.drain_look_s(policy.poll, sweep_s=policy.sweep_s, age_s=age_s)
    # A state that is not documented says nothing: only counters do.
    poll_kind = PollKind.BATCH if runs else PollKind.SINGLE
    return Decision(after=schedule_poll(updated, poll_kind, now + timedelta(seconds=interval_s)))


def _conflict(termination: Termination) -> ErrorDetail | None:
    """That TerminateJob is refused because the job is in use: kept while it runs, as the reason."""
    problem = termination.problem
    return problem if problem is not None and problem.code.startswith(IN_USE) else None


def _runs_on(updated: Termination, seen: JobSeen, policy: Policy) -> bool:
    """Whether a job runs with nothing pending although its call was acknowledged long ago.

    RetryJobs may have revived it before it was seen down, or the call was dropped.  What the cloud
    shows while it acts is documented by one example only (NextAction TERMINATING,
    cloud.tencent.com/document/api/599/15904), so the time between two calls doubles.  An escalation
    that the deadline leaves no time to put off goes before all but the first of them.
    """
    if seen.instances is None or not seen.untouched:
        return False
    if not seen.instances.live and seen.instances.total:
        return False
    if updated.last_sent_at is None or updated.job_state is JobState.SUBMITTED:
        return False
    called_for = _called_for(updated)
    patience = max(_call_again_after(updated), called_for)
    if called_for >= _call_again_after(updated) and escalation.presses(
        updated, seen.observed_at, policy.escalation
    ):
        return False
    return seen.observed_at - updated.last_sent_at >= patience


def _call_again_after(updated: Termination) -> timedelta:
    """How long an acknowledged call has to show in the job before it is made again."""
    seconds = escalation.by_deadline_s(updated, CALL_AGAIN_AFTER_S, escalation.CALL_AGAIN_SHARE)
    return timedelta(seconds=seconds)


def _more_live(termination: Termination, seen: JobSeen) -> bool:
    """Whether instances are live that were not at the last count."""
    known, counted = termination.instances, seen.instances
    return known is not None and counted is not None and counted.live > known.live


def _rose(termination: Termination, seen: JobSeen) -> bool:
    """Whether more run, with nothing pending, than were counted after the job was called."""
    counted_at, first_sent_at = termination.instances_observed_at, termination.acknowledged_at
    since = counted_at is not None and first_sent_at is not None and counted_at >= first_sent_at
    return since and seen.untouched and _more_live(termination, seen)


def _called_for(updated: Termination) -> timedelta:
    """From the first call to the last one."""
    if updated.last_sent_at is None or updated.give_up_at is None:
        return timedelta()
    return updated.last_sent_at - (updated.give_up_at - timedelta(seconds=updated.give_up_after_s))


def _escalated(decision: Decision, seen: JobSeen, now: datetime, policy: Policy) -> Decision:
    """The decision on a draining job, with the level that it is time for."""
    updated = decision.after
    if decision.event is not None or seen.instances is None or updated.terminate_after is not None:
        return decision
    if overdue(updated, now):
        return decision
    finished = updated.job_state is not None and updated.job_state.finished
    untouched = not finished and seen.untouched
    if untouched and _called_for(updated) < _call_again_after(updated):
        return decision  # TerminateJob is made again first
    escalation_level = escalation.next_rung(updated, seen.observed_at, policy.escalation)
    if escalation_level is None:
        return decision
    live, still_s = seen.instances.live, escalation.still_s(updated, seen.observed_at)
    why = f"{live} of {seen.instances.total} instances did not go down for {still_s:.0f} s"
    escalated = apply_event(updated, Event.ESCALATED, now, why=why)
    after = replace(
        escalated.after,
        escalation_level=escalation_level,
        escalation_started_at=now,
        escalation_round=updated.escalation_round + (escalation_level is EscalationLevel.INSTANCES),
    )
    return replace(escalated, after=after)


def _on_finished_not_stopped(
    termination: Termination, updated: Termination, seen: JobSeen, now: datetime, policy: Policy
) -> Termination:
    """The job reads finished; its instances were not read, or are not down yet."""
    finished = updated.job_state is not None and updated.job_state.finished
    proven = evidence.JOB_FINISHED if finished else updated.evidence
    # A job that read finished already, and is to be called, had an instance run again.
    again = termination.job_state is not None and termination.job_state.finished
    terminate_after = termination.terminate_after if again else None
    updated = replace(
        updated, evidence=max(updated.evidence, proven), terminate_after=terminate_after
    )
    if seen.instances is None or contradiction(termination, seen) is not None:
        return to_be_counted(termination, updated, seen, now, policy)
    wait_s = polling.relook_s(
        policy.poll,
        before=termination.instances,
        before_at=termination.instances_observed_at,
        after=seen.instances,
        after_at=seen.observed_at,
    )
    # Only its task was read: where nothing went down since, the job may have been revived.
    stuck = termination.instances and seen.instances.live >= termination.instances.live
    poll_kind = PollKind.BATCH if seen.state is None and stuck else PollKind.SINGLE
    wait_s = min(wait_s, escalation.count_every_s(updated))
    return schedule_poll(updated, poll_kind, now + timedelta(seconds=wait_s))
