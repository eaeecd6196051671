"""What follows from what was seen: a termination and a sighting in, the next value out.

Nothing here acts.  The engine looks or calls, hands the result to :func:`decide`, and writes the
decision if the termination is still as it was.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from orchestrator.domain import confirmations
from orchestrator.domain.attempts import TERMINATE_JOB
from orchestrator.domain.confirmations import Verdict
from orchestrator.domain.decisions import (
    Decision,
    accepted,
    in_doubt,
    look_at,
    moved,
    not_executed,
    problem_of,
    with_deadline,
)
from orchestrator.domain.errors import CloudErrorKind
from orchestrator.domain.foretelling import with_forecast
from orchestrator.domain.lifecycle import Event, State
from orchestrator.domain.looks import on_read
from orchestrator.domain.seen import (
    CallAccepted,
    CallFailed,
    CallInterrupted,
    CallStarted,
    Withdrawn,
)
from orchestrator.domain.terminations import Look

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.decisions import Policy
    from orchestrator.domain.errors import CloudError
    from orchestrator.domain.seen import Seen
    from orchestrator.domain.terminations import Termination


def decide(termination: Termination, seen: Seen, now: datetime, policy: Policy) -> Decision:
    """What ``seen`` makes of ``termination``; raises IllegalTransition where it cannot be."""
    match seen:
        case CallStarted():
            decision = moved(termination, Event.CALL_STARTED, now)
        case CallAccepted():
            decision = accepted(termination, now, policy)
        case CallFailed():
            decision = _on_call_failed(termination, seen, now, policy)
        case CallInterrupted():
            decision = Decision(after=in_doubt(termination, now))
        case Withdrawn():
            decision = moved(termination, Event.WITHDRAWN, now)
        case _:
            decision = on_read(termination, seen, now, policy)
    return _foretold(termination, _bounded_by_deadline(decision, now), now, policy)


def _foretold(
    termination: Termination, decision: Decision, now: datetime, policy: Policy
) -> Decision:
    """The decision with its forecast, which only informs: it is left out where it fails."""
    try:
        after = with_forecast(termination, decision.after, now, policy.others)
    except Exception as error:  # noqa: BLE001 - passed on, to be logged
        unforetold = replace(decision.after, history=None, forecast=None)
        return replace(decision, after=unforetold, unforetold=error)
    return replace(decision, after=after)


def _put_back(
    termination: Termination, before: Termination, error: CloudError, now: datetime
) -> Decision:
    """A call that was refused as one too many: the job waits for its turn as it did before.

    The refusal tells nothing of the job, so it counts as no failure of it.
    """
    decision = moved(termination, Event.CALL_NOT_EXECUTED, now, why=str(error))
    after = replace(
        look_at(decision.after, before.look, before.look_at),
        call_at=before.call_at,
        called_at=before.called_at,
    )
    return replace(decision, after=after)


def _on_call_failed(
    termination: Termination, failure: CallFailed, now: datetime, policy: Policy
) -> Decision:
    error = failure.error
    failed = replace(termination, failures=termination.failures + 1, problem=problem_of(error))
    match error.kind:
        case CloudErrorKind.THROTTLED:
            return _put_back(termination, failure.before, error, now)
        case CloudErrorKind.NOT_SENT | CloudErrorKind.CREDENTIAL | CloudErrorKind.CLOCK_SKEW:
            return not_executed(failed, now, policy, why=str(error))
        case CloudErrorKind.STATE_CONFLICT if _acted_upon(termination, error):
            decision = moved(with_deadline(failed, now), Event.CALL_CONFLICTED, now, why=str(error))
            after = replace(
                decision.after,
                acknowledged_at=termination.acknowledged_at or now,
                run=max(termination.run, 1),
            )
            return replace(decision, after=look_at(after, Look.JOB, now))
        case (
            CloudErrorKind.OUTCOME_UNKNOWN
            | CloudErrorKind.STATE_CONFLICT
            | CloudErrorKind.JOB_NOT_FOUND
        ):
            if error.kind is CloudErrorKind.JOB_NOT_FOUND:
                failed = confirmations.missing(
                    failed, TERMINATE_JOB, now, appears_within_s=policy.appears_within_s
                )
            return Decision(after=in_doubt(failed, now), why=str(error))
        case CloudErrorKind.UNAUTHORIZED:
            return _on_call_forbidden(failed, error, now, policy)
        case CloudErrorKind.REFUSED:
            return moved(failed, Event.CALL_REFUSED, now, why=str(error))
        case _:
            assert_never(error.kind)


def _on_call_forbidden(
    failed: Termination, error: CloudError, now: datetime, policy: Policy
) -> Decision:
    """The account may not call TerminateJob, which may change: see :mod:`.confirmations`."""
    told = confirmations.with_answer(
        failed, Verdict.FORBIDDEN, TERMINATE_JOB, now, window_s=policy.permitted_within_s
    )
    assert told.unconfirmed is not None
    if told.unconfirmed.confirms(Verdict.FORBIDDEN, now):
        return moved(told, Event.CALL_REFUSED, now, why=str(error))
    return not_executed(told, now, policy, why=str(error))


def _acted_upon(termination: Termination, error: CloudError) -> bool:
    """Whether a call that was refused for the job's state tells that the cloud acts on another one.

    One that was acknowledged, or whose answer was lost, or somebody else's: of the latter two
    nothing is known, but each look since the refusal before showed the job running.
    """
    last = termination.problem
    return termination.acknowledged_at is not None or (last is not None and last.code == error.code)


def _bounded_by_deadline(decision: Decision, now: datetime) -> Decision:
    """No look is planned past the deadline but to retry the last one, which is made right at it."""
    after = decision.after
    if after.give_up_at is None or after.look_at is None or after.state is State.SETTLING:
        return decision
    # By then a read is made again as it was planned.
    retried = now >= after.give_up_at and (after.look is Look.JOB or after.unconfirmed is not None)
    if retried or after.look_at <= after.give_up_at:
        return decision
    return replace(decision, after=look_at(after, Look.JOB, max(now, after.give_up_at)))
