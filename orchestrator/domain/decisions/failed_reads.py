"""Decisions on reads that failed, or that did not find the job."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from orchestrator.domain.decisions import unconfirmed_ends
from orchestrator.domain.decisions.decision import (
    BEFORE_EFFECT,
    Decision,
    apply_event,
    given_up,
    past_deadline,
    problem_of,
    retry_poll,
    schedule_poll,
)
from orchestrator.domain.decisions.settling import (
    on_record_deleted,
    on_submit_info_unread,
)
from orchestrator.domain.errors import CloudErrorKind
from orchestrator.domain.model.lifecycle import Event, State
from orchestrator.domain.model.termination import PollKind
from orchestrator.domain.model.unconfirmed import DESCRIBE_JOB, DESCRIBE_JOBS, Verdict

if TYPE_CHECKING:
    from orchestrator.domain.decisions.decision import Policy
    from orchestrator.domain.errors import CloudError
    from orchestrator.domain.model.termination import Termination


def on_read_failed(
    termination: Termination, error: CloudError, now: datetime, policy: Policy
) -> Decision:
    """Decide on a failed read by the kind of its error, the state and the deadline."""
    updated = replace(termination, problem=problem_of(error))
    denied = error.kind in (CloudErrorKind.REFUSED, CloudErrorKind.UNAUTHORIZED)
    if (
        termination.state is State.SETTLING
        and termination.schedule.poll_kind is PollKind.SUBMIT_INFO
    ):
        return on_submit_info_unread(termination, error, now, policy)
    if error.kind is CloudErrorKind.JOB_NOT_FOUND:
        return on_missing(updated, DESCRIBE_JOB, now, policy)
    if denied and termination.state in BEFORE_EFFECT:
        return _on_denied(updated, error, now, policy)
    late = past_deadline(termination, now) or _unread_too_long(termination, now)
    # CLOCK_SKEW concerns the clock of the signature, not the job: it must not end a termination.
    if late and error.kind is not CloudErrorKind.CLOCK_SKEW:
        updated = unconfirmed_ends.unreadable(updated, error.kind, now)
        known = updated.unconfirmed
        if known is not None and known.confirms(Verdict.UNREADABLE, now):
            return given_up(updated, now, why=str(error))
    elif error.kind is CloudErrorKind.THROTTLED:
        # Throttling shows nothing about the job: keep the planned poll.
        return Decision(after=termination)
    if not late and denied and termination.schedule.poll_kind is PollKind.SINGLE:
        # DescribeJobs may still be allowed, and DescribeTask once the job reads finished.
        after = schedule_poll(
            updated, PollKind.BATCH, now + timedelta(seconds=policy.poll.drain_max_interval_s)
        )
    else:
        after = retry_poll(updated, now, policy)
    return Decision(after=after)


def _on_denied(
    termination: Termination, error: CloudError, now: datetime, policy: Policy
) -> Decision:
    """Decide on a read that the cloud denied before any TerminateJob."""
    refused = error.kind is CloudErrorKind.REFUSED
    if termination.schedule.poll_kind is PollKind.SUBMIT_INFO:
        return _on_submit_info_forbidden(termination, now, policy, refused=refused)
    if refused:
        return apply_event(termination, Event.CALL_REFUSED, now, why=str(error))
    return on_forbidden(termination, DESCRIBE_JOB, now, policy, why=str(error))


def on_missing(termination: Termination, source: str, now: datetime, policy: Policy) -> Decision:
    """Decide on an answer of the action ``source`` that denies or does not list the job."""
    updated = unconfirmed_ends.missing(
        termination, source, now, not_found_after_s=policy.not_found_after_s
    )
    known = updated.unconfirmed
    assert known is not None
    if not known.confirms(Verdict.MISSING, now):
        # Poll a job that was read before by both actions in turn.
        by_job = termination.job.observed_at is not None and source == DESCRIBE_JOBS
        poll_kind = PollKind.SINGLE if by_job else PollKind.BATCH
        return Decision(
            after=replace(
                updated,
                schedule=replace(
                    updated.schedule,
                    poll_kind=poll_kind,
                    next_poll_at=known.next_read_at(now),
                    terminate_after=None,
                ),
            )
        )
    if termination.state is State.SETTLING:
        return on_record_deleted(updated, now, policy)
    why = f"not found by {' and '.join(known.sources)} since {known.since:%H:%M:%SZ}"
    if termination.job.observed_at is not None:
        updated = replace(updated, problem=unconfirmed_ends.record_deleted(updated))
    elif updated.problem is None:
        updated = replace(updated, problem=unconfirmed_ends.NEVER_FOUND)
    return apply_event(updated, Event.SEEN_MISSING, now, why=why)


def on_forbidden(
    termination: Termination, source: str, now: datetime, policy: Policy, *, why: str
) -> Decision:
    """Retry a read that the account may not make until the missing permission is confirmed.

    A new permission takes seconds to spread, and one can be granted later.
    """
    updated = unconfirmed_ends.with_answer(
        termination, Verdict.FORBIDDEN, source, now, window_s=policy.refused_after_s
    )
    assert updated.unconfirmed is not None
    if updated.unconfirmed.confirms(Verdict.FORBIDDEN, now):
        return apply_event(updated, Event.CALL_REFUSED, now, why=why)
    return Decision(after=retry_poll(updated, now, policy))


def _on_submit_info_forbidden(
    termination: Termination, now: datetime, policy: Policy, *, refused: bool
) -> Decision:
    """Use the counters alone once it is confirmed that DescribeJobSubmitInfo may not be called."""
    updated = unconfirmed_ends.with_answer(
        termination,
        Verdict.FORBIDDEN,
        "DescribeJobSubmitInfo",
        now,
        window_s=unconfirmed_ends.UNREADABLE_S,
    )
    known = updated.unconfirmed
    if refused or (known is not None and known.confirms(Verdict.FORBIDDEN, now)):
        return Decision(
            after=schedule_poll(
                replace(updated, drain=replace(updated.drain, instances_submitted=0)),
                PollKind.SINGLE,
                now,
            )
        )
    return Decision(after=retry_poll(updated, now, policy))


def _unread_too_long(termination: Termination, now: datetime) -> bool:
    """Return whether a job without a deadline was unreadable for ``give_up_after_s``.

    It has no deadline because TerminateJob was never sent.
    """
    begun_at = max(
        termination.request.created_at,
        termination.request.not_before or termination.request.created_at,
    )
    read_at = termination.job.observed_at or begun_at
    unread_s = (now - max(begun_at, read_at)).total_seconds()
    return (
        termination.schedule.give_up_at is None and unread_s >= termination.request.give_up_after_s
    )
