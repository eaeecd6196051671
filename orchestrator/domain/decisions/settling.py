"""What follows from reads of a job that was seen to stop, until the end of its settle window.

RetryJobs can revive a failed job, and an instance can run again while the job still reads FAILED.
So DescribeJobs watches the state during the window, and at its end everything that was proven is
read once more: the instance counters (DescribeJob or DescribeTask) and the captured machines.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from orchestrator.domain.decisions import evidence
from orchestrator.domain.decisions.capture_coverage import submission_unread
from orchestrator.domain.decisions.instance_counts import contradiction, known_instances
from orchestrator.domain.decisions.transitions import (
    Decision,
    apply_event,
    given_up,
    overdue,
    running_again,
    schedule_poll,
    to_be_counted,
    with_observation,
)
from orchestrator.domain.errors import CloudErrorKind
from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.lifecycle import Event
from orchestrator.domain.model.termination import PollKind

if TYPE_CHECKING:
    from orchestrator.domain.decisions.transitions import Policy
    from orchestrator.domain.errors import CloudError
    from orchestrator.domain.model.batch_job import JobSeen
    from orchestrator.domain.model.termination import Termination

COMPARED_WITHIN_S: Final = 60.0
"""How long after its settle window a job waits to be compared with what it was submitted as."""


def on_job_settling(
    termination: Termination, seen: JobSeen, now: datetime, policy: Policy
) -> Decision:
    updated = replace(with_observation(termination, seen), failures=0, problem=None)
    state = updated.job_state
    if state is None or (state.known and not state.finished) or seen.terminating:
        return _on_revived(updated, now, policy)
    doubt = _denial(termination, seen)
    if doubt is not None:
        return _on_denied(termination, updated, seen, now, policy, why=doubt)
    if seen.instances is None and is_doubtful(termination, seen):
        return Decision(after=schedule_poll(updated, PollKind.SINGLE, now))
    if seen.instances is None and termination.poll_kind is PollKind.SINGLE:
        # DescribeJob was to count, and its answer had no counters.
        return Decision(after=to_be_counted(termination, updated, seen, now, policy))
    return on_still_stopped(updated, now, policy)


def _on_denied(
    termination: Termination,
    updated: Termination,
    seen: JobSeen,
    now: datetime,
    policy: Policy,
    *,
    why: str,
) -> Decision:
    """What was proven of the job is not so any more."""
    unproven = replace(updated, evidence=evidence.JOB_FINISHED)
    if termination.give_up_at is not None and now >= termination.give_up_at:
        # Without this, a job that alternates between stopped and doubtful would have no end.
        return given_up(unproven, now, why=why)
    unproven = replace(unproven, settle_until=None, confirm_from=None)
    live = seen.instances is not None and seen.instances.live > 0
    if live or ran_again(termination, seen):
        unproven = running_again(unproven)
    decision = apply_event(unproven, Event.SEEN_LIVE_AGAIN, now, why=why)
    if live:
        # TerminateJob is called again, although the job reads finished.
        after = schedule_poll(
            decision.after, PollKind.BATCH, now + timedelta(seconds=policy.sweep_s)
        )
        return replace(decision, after=replace(after, terminate_after=now))
    return replace(decision, after=schedule_poll(decision.after, PollKind.SINGLE, now))


def _on_revived(updated: Termination, now: datetime, policy: Policy) -> Decision:
    revived = replace(updated, evidence=evidence.ACKNOWLEDGED, settle_until=None, confirm_from=None)
    decision = apply_event(
        running_again(revived), Event.SEEN_LIVE_AGAIN, now, why="the job runs again"
    )
    at = now + timedelta(seconds=policy.sweep_s)
    terminate_after = None if updated.job_state is JobState.SUBMITTED else now
    after = replace(
        schedule_poll(decision.after, PollKind.BATCH, at), terminate_after=terminate_after
    )
    return replace(decision, after=after)


def on_still_stopped(updated: Termination, now: datetime, policy: Policy) -> Decision:
    """The job was read as stopped as before: end it, or plan what is still to be read."""
    gone = evidence.machines_gone(updated)
    proven = evidence.MACHINES_GONE if gone else evidence.NO_INSTANCE_LIVE
    updated = replace(updated, evidence=proven)
    settle_until, machines = updated.settle_until or now, updated.machines
    late = overdue(updated, now)
    if late and machines.up:
        return _machines_stay(updated, now)
    counted_at = updated.instances_observed_at
    proven_at = settle_until - timedelta(seconds=updated.settle_s)
    # However short the window is, it takes a second count, of all instances known by now.
    counted = counted_at is not None and proven_at < counted_at >= settle_until
    counted = counted and _counts_all(updated)
    confirmed = machines.read_since(settle_until) or not machines.readable
    if counted and ((confirmed and not machines.left) or late):
        if policy.compares and submission_unread(updated) and now < _compared_by(updated, now):
            return Decision(after=schedule_poll(updated, PollKind.SUBMIT_INFO, now))
        if evidence.proves_settled(updated, settle_until):
            updated = replace(updated, evidence=evidence.SETTLED)
        return apply_event(replace(updated, problem=None), Event.SETTLED, now)
    updated = replace(updated, confirm_from=settle_until)
    soon = now + timedelta(seconds=policy.poll.settling_s)
    if not counted and soon >= settle_until:
        return Decision(after=schedule_poll(updated, PollKind.SINGLE, max(now, settle_until)))
    return Decision(after=schedule_poll(updated, PollKind.BATCH, soon))


def on_submission_unread(
    termination: Termination, error: CloudError, now: datetime, policy: Policy
) -> Decision:
    """DescribeJobSubmitInfo failed for a job that was seen to stop.

    It is asked again for a while; where the account may not call it, its counts are taken alone.
    """
    if error.kind is CloudErrorKind.THROTTLED and now < _compared_by(termination, now):
        return Decision(after=termination)
    updated = termination
    if error.kind in (CloudErrorKind.REFUSED, CloudErrorKind.UNAUTHORIZED):
        updated = replace(updated, instances_submitted=0)
    soon = now + timedelta(seconds=policy.poll.settling_s)
    return Decision(after=schedule_poll(updated, PollKind.BATCH, soon))


def _compared_by(termination: Termination, now: datetime) -> datetime:
    return (termination.settle_until or now) + timedelta(seconds=COMPARED_WITHIN_S)


def _counts_all(updated: Termination) -> bool:
    return updated.instances is not None and updated.instances.total >= known_instances(updated)


def on_record_deleted(updated: Termination, now: datetime, policy: Policy) -> Decision:
    """The record was deleted after the job was seen to stop: only its machines can be read still.

    The cloud deletes the record of a finished job only, its instances included.
    """
    late = overdue(updated, now)
    if late and updated.machines.up:
        return _machines_stay(updated, now)
    if updated.machines.left and not late:
        soon = now + timedelta(seconds=policy.poll.settling_s)
        return Decision(after=schedule_poll(updated, PollKind.BATCH, soon))
    proven = (
        evidence.MACHINES_GONE if evidence.machines_gone(updated) else evidence.NO_INSTANCE_LIVE
    )
    settled = replace(updated, evidence=proven, problem=None)
    return apply_event(settled, Event.SETTLED, now, why="deleted after it was seen down")


def _machines_stay(updated: Termination, now: datetime) -> Decision:
    machines = updated.machines
    why = f"{machines.up} of {machines.total} machines were still up"
    return given_up(updated, now, why=why)


def is_doubtful(termination: Termination, seen: JobSeen) -> bool:
    """Whether a finished job that DescribeJobs showed may run again, so that it must be counted.

    Its EndTime was known and is none now, or its state became a word that is not documented.
    """
    lost = termination.job_end_time is not None and seen.end_time is None
    new_word = seen.state is not None and not seen.state.known
    return lost or (new_word and seen.state != termination.job_state)


def ran_again(termination: Termination, seen: JobSeen) -> bool:
    """Whether a finished job ended another time than it was known to have."""
    known, read = termination.job_end_time, seen.end_time
    return known is not None and read is not None and _instant(read) != _instant(known)


def _instant(time: str) -> datetime | str:
    """What a time of the cloud stands for: two actions may write the same one in two ways."""
    try:
        return datetime.fromisoformat(time)
    except ValueError:
        return time


def _denial(termination: Termination, seen: JobSeen) -> str | None:
    """Why a finished job may not be stopped any more; None: nothing denies it."""
    if ran_again(termination, seen):
        return "its EndTime changed"
    if seen.instances is None or evidence.proves_stopped(termination, seen):
        return None
    problem = contradiction(termination, seen)
    if problem is not None:
        return problem.message
    return f"its counters read {seen.instances.live} live of {seen.instances.total}"
