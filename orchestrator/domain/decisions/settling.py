"""Decisions on reads of a job that was observed stopped, until it is verified.

RetryJobs can revive a failed job, and an instance can run again while the job still reads FAILED.
So DescribeJobs polls the state during the window, and at its end everything that was proven is
read once more: the instance counters (DescribeJob or DescribeTask) and the captured machines.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from orchestrator.domain.decisions import evidence
from orchestrator.domain.decisions.capture_coverage import submit_info_unread
from orchestrator.domain.decisions.decision import (
    Decision,
    after_successful_read,
    apply_event,
    given_up,
    past_deadline,
    schedule_poll,
    start_new_run,
    to_be_counted,
)
from orchestrator.domain.decisions.instance_counts import contradiction, known_instances
from orchestrator.domain.errors import CloudErrorKind
from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.lifecycle import Event
from orchestrator.domain.model.termination import PollKind

if TYPE_CHECKING:
    from orchestrator.domain.decisions.decision import Policy
    from orchestrator.domain.errors import CloudError
    from orchestrator.domain.model.batch_job import JobSeen
    from orchestrator.domain.model.termination import Termination

COMPARED_WITHIN_S: Final = 60.0
"""How long after the settle window a job may wait for the comparison with its submission."""


def on_job_settling(
    termination: Termination, seen: JobSeen, now: datetime, policy: Policy
) -> Decision:
    """Decide on a read of a job in its settle window."""
    updated = after_successful_read(termination, seen)
    state = updated.job.state
    if state is None or (state.documented and not state.finished) or seen.terminating:
        return _on_revived(updated, now, policy)
    why = _contradiction_of_proof(termination, seen)
    if why is not None:
        return _on_contradicted(termination, updated, seen, now, policy, why=why)
    if seen.instances is None and needs_recount(termination, seen):
        return Decision(after=schedule_poll(updated, PollKind.SINGLE, now))
    if seen.instances is None and termination.schedule.poll_kind is PollKind.SINGLE:
        # DescribeJob was sent for a count, and its answer had no counters.
        return Decision(after=to_be_counted(termination, updated, seen, now, policy))
    return verify_or_read_again(updated, now, policy)


def _on_contradicted(
    termination: Termination,
    updated: Termination,
    seen: JobSeen,
    now: datetime,
    policy: Policy,
    *,
    why: str,
) -> Decision:
    """Return the job to draining, or give up after its deadline: a read contradicts the proof."""
    proven = evidence.JOB_FINISHED if updated.job.finished else evidence.ACKNOWLEDGED
    unproven = replace(updated, evidence=proven)
    if termination.schedule.give_up_at is not None and now >= termination.schedule.give_up_at:
        # Without this, a job alternating between the two states would never end.
        return given_up(unproven, now, why=why)
    unproven = replace(
        unproven, schedule=replace(unproven.schedule, settle_until=None, confirm_from=None)
    )
    live = seen.instances is not None and seen.instances.live > 0
    if live or ran_again(termination, seen):
        unproven = start_new_run(unproven)
    decision = apply_event(unproven, Event.SEEN_LIVE_AGAIN, now, why=why)
    if live:
        # TerminateJob is sent again, although the job reads finished.
        schedule = replace(
            decision.after.schedule,
            poll_kind=PollKind.BATCH,
            next_poll_at=now + timedelta(seconds=policy.batch_interval_s),
            terminate_after=now,
        )
        return replace(decision, after=replace(decision.after, schedule=schedule))
    return replace(decision, after=schedule_poll(decision.after, PollKind.SINGLE, now))


def _on_revived(termination: Termination, now: datetime, policy: Policy) -> Decision:
    revived = replace(
        termination,
        evidence=evidence.ACKNOWLEDGED,
        schedule=replace(termination.schedule, settle_until=None, confirm_from=None),
    )
    state = termination.job.state
    why = f"its state is {state}" if state is not None else "its state is not known any more"
    if state is not None and state.finished:
        why = "NextAction is TERMINATING although the job had stopped"
    decision = apply_event(start_new_run(revived), Event.SEEN_LIVE_AGAIN, now, why=why)
    at = now + timedelta(seconds=policy.batch_interval_s)
    terminate_after = None if termination.job.state is JobState.SUBMITTED else now
    after = replace(
        decision.after,
        schedule=replace(
            decision.after.schedule,
            poll_kind=PollKind.BATCH,
            next_poll_at=at,
            terminate_after=terminate_after,
        ),
    )
    return replace(decision, after=after)


def verify_or_read_again(termination: Termination, now: datetime, policy: Policy) -> Decision:
    """Verify a job that was read as stopped again, or plan what is still to be read.

    Past the deadline the machines need not be proven gone, but one that was last read as up
    prevents ``verified``; the second count is still required. The evidence is 3 then, or 4
    if every machine is known to be gone.
    """
    gone = evidence.machines_gone(termination)
    proven = evidence.MACHINES_GONE if gone else evidence.NO_INSTANCE_LIVE
    updated = replace(termination, evidence=proven)
    settle_until, machines = updated.schedule.settle_until or now, updated.machines
    late = past_deadline(updated, now)
    if late and machines.up:
        return _machines_stay(updated, now)
    counted_at = updated.drain.counted_at
    proven_at = settle_until - timedelta(seconds=updated.request.settle_s)
    # However short the window is, a second count of all instances known by now is required.
    counted = counted_at is not None and proven_at < counted_at and counted_at >= settle_until
    counted = counted and _counts_all(updated)
    confirmed = machines.read_since(settle_until) or not machines.readable
    if counted and ((confirmed and not machines.remaining) or late):
        if (
            policy.reads_submit_info
            and submit_info_unread(updated)
            and now < _compared_by(updated, now)
        ):
            return Decision(after=schedule_poll(updated, PollKind.SUBMIT_INFO, now))
        if evidence.all_read_again(updated, settle_until):
            updated = replace(updated, evidence=evidence.READ_AGAIN)
        return apply_event(replace(updated, problem=None), Event.SETTLED, now)
    updated = replace(updated, schedule=replace(updated.schedule, confirm_from=settle_until))
    soon = now + timedelta(seconds=policy.poll.settling_interval_s)
    if not counted and soon >= settle_until:
        return Decision(after=schedule_poll(updated, PollKind.SINGLE, max(now, settle_until)))
    return Decision(after=schedule_poll(updated, PollKind.BATCH, soon))


def on_submit_info_unread(
    termination: Termination, error: CloudError, now: datetime, policy: Policy
) -> Decision:
    """Decide on a failed DescribeJobSubmitInfo for a job that was observed stopped.

    It is retried for a while. If the account may not call it, the counters are used alone.
    """
    if error.kind is CloudErrorKind.THROTTLED and now < _compared_by(termination, now):
        return Decision(after=termination)
    updated = termination
    if error.kind in (CloudErrorKind.REFUSED, CloudErrorKind.UNAUTHORIZED):
        # 0 stands for a number that cannot be read.
        updated = replace(updated, drain=replace(updated.drain, instances_submitted=0))
    soon = now + timedelta(seconds=policy.poll.settling_interval_s)
    return Decision(after=schedule_poll(updated, PollKind.BATCH, soon))


def _compared_by(termination: Termination, now: datetime) -> datetime:
    return (termination.schedule.settle_until or now) + timedelta(seconds=COMPARED_WITHIN_S)


def _counts_all(termination: Termination) -> bool:
    counters = termination.drain.counters
    return counters is not None and counters.total >= known_instances(termination)


def on_record_deleted(termination: Termination, now: datetime, policy: Policy) -> Decision:
    """Decide on a job whose record was deleted after it was observed stopped.

    The cloud deletes only records of jobs that have finished, their instances included, so only the
    machines can still be read.
    """
    late = past_deadline(termination, now)
    if late and termination.machines.up:
        return _machines_stay(termination, now)
    if termination.machines.remaining and not late:
        soon = now + timedelta(seconds=policy.poll.settling_interval_s)
        return Decision(after=schedule_poll(termination, PollKind.BATCH, soon))
    gone = evidence.machines_gone(termination)
    proven = evidence.MACHINES_GONE if gone else evidence.NO_INSTANCE_LIVE
    settled = replace(termination, evidence=proven, problem=None)
    why = "the record of the job was deleted after it was observed stopped"
    return apply_event(settled, Event.SETTLED, now, why=why)


def _machines_stay(termination: Termination, now: datetime) -> Decision:
    machines = termination.machines
    why = f"{machines.up} of {machines.total} machines were still up"
    return given_up(termination, now, why=why)


def needs_recount(termination: Termination, seen: JobSeen) -> bool:
    """Return whether a finished job that DescribeJobs showed may run again and must be counted.

    Its EndTime was known and is missing now, or its state became one that is not documented.
    """
    lost = termination.job.end_time is not None and seen.end_time is None
    new_word = seen.state is not None and not seen.state.documented
    return lost or (new_word and seen.state != termination.job.state)


def ran_again(termination: Termination, seen: JobSeen) -> bool:
    """Return whether a finished job shows another EndTime than the known one."""
    known, read = termination.job.end_time, seen.end_time
    return known is not None and read is not None and _instant(read) != _instant(known)


def _instant(time: str) -> datetime | str:
    """Return the instant that a time of the cloud means: two actions may format it differently."""
    try:
        return datetime.fromisoformat(time)
    except ValueError:
        return time


def _contradiction_of_proof(termination: Termination, seen: JobSeen) -> str | None:
    """Return why a finished job may no longer be stopped, or None if nothing contradicts it."""
    if ran_again(termination, seen):
        return "its EndTime changed"
    if seen.instances is None or evidence.proves_stopped(termination, seen):
        return None
    problem = contradiction(termination, seen)
    if problem is not None:
        return problem.message
    return f"its counters show {seen.instances.live} live of {seen.instances.total} instances"
