"""Decisions on reads that failed, or that did not find the job."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from orchestrator.domain.decisions import confirmation
from orchestrator.domain.decisions.settling import (
    on_record_deleted,
    on_submission_unread,
)
from orchestrator.domain.decisions.transitions import (
    BEFORE_EFFECT,
    Decision,
    apply_event,
    given_up,
    overdue,
    problem_of,
    retry_poll,
    schedule_poll,
)
from orchestrator.domain.errors import CloudErrorKind
from orchestrator.domain.model.lifecycle import Event, State
from orchestrator.domain.model.termination import PollKind
from orchestrator.domain.model.unconfirmed import DESCRIBE_JOB, DESCRIBE_JOBS, Verdict

if TYPE_CHECKING:
    from orchestrator.domain.decisions.transitions import Policy
    from orchestrator.domain.errors import CloudError
    from orchestrator.domain.model.termination import Termination


def on_read_failed(
    termination: Termination, error: CloudError, now: datetime, policy: Policy
) -> Decision:
    updated = replace(termination, problem=problem_of(error))
    denied = error.kind in (CloudErrorKind.REFUSED, CloudErrorKind.UNAUTHORIZED)
    if termination.state is State.SETTLING and termination.poll_kind is PollKind.SUBMIT_INFO:
        return on_submission_unread(termination, error, now, policy)
    if error.kind is CloudErrorKind.JOB_NOT_FOUND:
        return on_missing(updated, DESCRIBE_JOB, now, policy)
    if denied and termination.state in BEFORE_EFFECT:
        return _on_denied(updated, error, now, policy)
    late = overdue(termination, now) or _unread_too_long(termination, now)
    # The signature's clock is wrong, not the job: that alone ends nothing.
    if late and error.kind is not CloudErrorKind.CLOCK_SKEW:
        updated = confirmation.unreadable(updated, error.kind, now)
        known = updated.unconfirmed
        if known is not None and known.confirms(Verdict.UNREADABLE, now):
            return given_up(updated, now, why=str(error))
    elif error.kind is CloudErrorKind.THROTTLED:
        # It tells nothing of the job, which is polled next as it was to be.
        return Decision(after=termination)
    if not late and denied and termination.poll_kind is PollKind.SINGLE:
        # DescribeJobs may still be allowed, and DescribeTask, once the job reads finished.
        after = schedule_poll(
            updated, PollKind.BATCH, now + timedelta(seconds=policy.poll.drain_max_s)
        )
    else:
        after = retry_poll(updated, now, policy)
    return Decision(after=after)


def _on_denied(updated: Termination, error: CloudError, now: datetime, policy: Policy) -> Decision:
    """The cloud does not let a job be read that was not called yet."""
    refused = error.kind is CloudErrorKind.REFUSED
    if updated.poll_kind is PollKind.SUBMIT_INFO:
        return _on_submission_refused(updated, now, policy, refused=refused)
    if refused:
        return apply_event(updated, Event.CALL_REFUSED, now, why=str(error))
    return on_forbidden(updated, DESCRIBE_JOB, now, policy, why=str(error))


def on_missing(termination: Termination, source: str, now: datetime, policy: Policy) -> Decision:
    """The action ``source`` answered that there is no such job, or did not list it."""
    updated = confirmation.missing(
        termination, source, now, appears_within_s=policy.appears_within_s
    )
    known = updated.unconfirmed
    assert known is not None
    if not known.confirms(Verdict.MISSING, now):
        # A job that was read before is asked for by both actions in turn.
        by_job = termination.observed_at is not None and source == DESCRIBE_JOBS
        poll_kind = PollKind.SINGLE if by_job else PollKind.BATCH
        return Decision(
            after=replace(
                schedule_poll(updated, poll_kind, known.next_read_at(now)), terminate_after=None
            )
        )
    if termination.state is State.SETTLING:
        return on_record_deleted(updated, now, policy)
    why = f"not found by {' and '.join(known.sources)} since {known.since:%H:%M:%SZ}"
    if termination.observed_at is not None:
        updated = replace(updated, problem=confirmation.record_deleted(updated))
    elif updated.problem is None:
        updated = replace(updated, problem=confirmation.NEVER_FOUND)
    return apply_event(updated, Event.SEEN_MISSING, now, why=why)


def on_forbidden(
    termination: Termination, source: str, now: datetime, policy: Policy, *, why: str
) -> Decision:
    """The account may not read the job; permissions are spread over seconds, or granted later."""
    updated = confirmation.with_answer(
        termination, Verdict.FORBIDDEN, source, now, window_s=policy.permitted_within_s
    )
    assert updated.unconfirmed is not None
    if updated.unconfirmed.confirms(Verdict.FORBIDDEN, now):
        return apply_event(updated, Event.CALL_REFUSED, now, why=why)
    return Decision(after=retry_poll(updated, now, policy))


def _on_submission_refused(
    updated: Termination, now: datetime, policy: Policy, *, refused: bool
) -> Decision:
    """DescribeJobSubmitInfo may not be called: after a while the counters are taken alone."""
    updated = confirmation.with_answer(
        updated,
        Verdict.FORBIDDEN,
        "DescribeJobSubmitInfo",
        now,
        window_s=confirmation.UNREADABLE_S,
    )
    known = updated.unconfirmed
    if refused or (known is not None and known.confirms(Verdict.FORBIDDEN, now)):
        return Decision(
            after=schedule_poll(replace(updated, instances_submitted=0), PollKind.SINGLE, now)
        )
    return Decision(after=retry_poll(updated, now, policy))


def _unread_too_long(termination: Termination, now: datetime) -> bool:
    """Whether what has no deadline yet, for it was never called, could not be read for so long."""
    begun_at = max(termination.created_at, termination.not_before or termination.created_at)
    read_at = termination.observed_at or begun_at
    unread_s = (now - max(begun_at, read_at)).total_seconds()
    return termination.give_up_at is None and unread_s >= termination.give_up_after_s
