"""Decisions on a TerminateJob request that failed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from orchestrator.domain.decisions import unconfirmed_ends
from orchestrator.domain.decisions.decision import (
    Decision,
    apply_event,
    calls_after_acknowledgement,
    not_executed,
    problem_of,
    schedule_poll,
    with_deadline,
    with_failure,
    with_unknown_outcome,
)
from orchestrator.domain.errors import CloudErrorKind
from orchestrator.domain.model.attempt import TERMINATE_JOB
from orchestrator.domain.model.lifecycle import Event
from orchestrator.domain.model.termination import PollKind
from orchestrator.domain.model.unconfirmed import Verdict

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.decisions.decision import Policy
    from orchestrator.domain.errors import CloudError
    from orchestrator.domain.model.observation import (
        CallFailed,
    )
    from orchestrator.domain.model.termination import Termination


def on_call_failed(
    termination: Termination, failure: CallFailed, now: datetime, policy: Policy
) -> Decision:
    """Decide on a failed TerminateJob request by the kind of its error."""
    error = failure.error
    failed = replace(with_failure(termination), problem=problem_of(error))
    match error.kind:
        case CloudErrorKind.THROTTLED:
            return _restore(termination, failure.before, error, now)
        case CloudErrorKind.NOT_SENT | CloudErrorKind.CREDENTIAL | CloudErrorKind.CLOCK_SKEW:
            return not_executed(failed, failure.before.calls, now, policy, why=str(error))
        case CloudErrorKind.STATE_CONFLICT if _already_terminating(termination, error):
            decision = apply_event(
                with_deadline(failed, now), Event.CALL_CONFLICTED, now, why=str(error)
            )
            after = replace(
                decision.after,
                calls=calls_after_acknowledgement(
                    decision.after.calls, termination.calls.acknowledged_at or now
                ),
            )
            return replace(decision, after=schedule_poll(after, PollKind.SINGLE, now))
        case (
            CloudErrorKind.OUTCOME_UNKNOWN
            | CloudErrorKind.STATE_CONFLICT
            | CloudErrorKind.JOB_NOT_FOUND
        ):
            if error.kind is CloudErrorKind.JOB_NOT_FOUND:
                failed = unconfirmed_ends.missing(
                    failed, TERMINATE_JOB, now, not_found_after_s=policy.not_found_after_s
                )
            after = with_unknown_outcome(failed, now)
            if error.kind is not CloudErrorKind.OUTCOME_UNKNOWN:
                # This request had no effect, but the job may be stopping because of another one.
                calls = replace(failure.before.calls, outcome_unknown=True)
                after = replace(after, calls=calls)
            return Decision(after=after, why=str(error))
        case CloudErrorKind.UNAUTHORIZED:
            return _on_call_forbidden(failed, failure, now, policy)
        case CloudErrorKind.REFUSED:
            return apply_event(failed, Event.CALL_REFUSED, now, why=str(error))
        case _:
            assert_never(error.kind)


def _restore(
    termination: Termination, before: Termination, error: CloudError, now: datetime
) -> Decision:
    """Return the job to its place in the queue after a throttled request.

    The refusal shows nothing about the job, so it does not count as a failure of it.
    """
    decision = apply_event(termination, Event.CALL_NOT_EXECUTED, now, why=str(error))
    after = replace(
        decision.after,
        schedule=replace(
            decision.after.schedule,
            poll_kind=before.schedule.poll_kind,
            next_poll_at=before.schedule.next_poll_at,
            terminate_after=before.schedule.terminate_after,
        ),
        calls=before.calls,
    )
    return replace(decision, after=after)


def _on_call_forbidden(
    termination: Termination, failure: CallFailed, now: datetime, policy: Policy
) -> Decision:
    """Retry TerminateJob until the missing permission is confirmed, since it may be granted.

    See :mod:`.unconfirmed_ends`.
    """
    updated = unconfirmed_ends.with_answer(
        termination, Verdict.FORBIDDEN, TERMINATE_JOB, now, window_s=policy.refused_after_s
    )
    assert updated.unconfirmed is not None
    if updated.unconfirmed.confirms(Verdict.FORBIDDEN, now):
        return apply_event(updated, Event.CALL_REFUSED, now, why=str(failure.error))
    return not_executed(updated, failure.before.calls, now, policy, why=str(failure.error))


def _already_terminating(termination: Termination, error: CloudError) -> bool:
    """Return whether a state conflict shows that another TerminateJob acts on the job already.

    That may be one that was acknowledged, one whose answer was lost, or another client's. The
    latter two are assumed at the second conflict with the same code: each read since the first one
    showed the job running.
    """
    last = termination.problem
    return termination.calls.acknowledged_at is not None or (
        last is not None and last.code == error.code
    )
