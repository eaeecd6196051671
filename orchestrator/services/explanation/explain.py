"""Entry to all explanations, by the state of the termination."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, assert_never

from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.unconfirmed import Verdict
from orchestrator.services.explanation.before_terminate_job import (
    explain_held,
    explain_queued,
    explain_sending,
)
from orchestrator.services.explanation.draining import explain_draining
from orchestrator.services.explanation.final import (
    explain_final,
    explain_not_found,
    explain_unverified,
    explain_verified,
    with_revival,
)
from orchestrator.services.explanation.phrases import last_error_suffix, time_text
from orchestrator.services.explanation.settling import explain_settling
from orchestrator.services.explanation.values import Explanation, ExplanationContext

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.domain.model.termination import Termination
    from orchestrator.domain.model.unconfirmed import Unconfirmed
    from orchestrator.services.explanation.values import Explainer


def explain(termination: Termination, context: ExplanationContext) -> Explanation:
    """Return what this termination waits for; defined for every state."""
    if (why := termination.schedule.set_aside) is not None:
        return Explanation(
            waiting_for=f"a repair; this termination is set aside: {why}",
            next_action="try it again every minute; report the fault with the daemon's log",
        )
    if not context.configured and not termination.state.final:
        return Explanation(
            waiting_for=f"account {termination.account!r} and its region {termination.region!r} "
            "to be configured again",
            next_action="add the account to the configuration and restart the daemon, or end the "
            "operation: POST /v1/operations/ID:stop",
        )
    explanation = _EXPLAIN[termination.state](termination, context)
    if termination.state.final:
        return with_revival(explanation, termination)
    if termination.unconfirmed is not None:
        explanation = _explain_unconfirmed(termination, termination.unconfirmed)
    if explanation.next_action_at is not None:
        due_at = max(explanation.next_action_at, context.now)
        explanation = replace(explanation, next_action_at=due_at)
    if context.trouble is None:
        return explanation
    source, place = "", ""
    if context.other_replica is not None:
        source, place = (
            f" of replica {context.other_replica}",
            f"at replica {context.other_replica}: ",
        )
    trouble = f"cloud API calls{source} fail ({context.trouble.code}: {context.trouble.message})"
    advice = f"; {place}{context.trouble.advice}" if context.trouble.advice else ""
    return replace(
        explanation,
        waiting_for=f"{explanation.waiting_for}; {trouble}",
        next_action=f"{explanation.next_action}{advice}",
    )


def _explain_unconfirmed(termination: Termination, unconfirmed: Unconfirmed) -> Explanation:
    """Explain a verdict that ends the termination unless a later answer contradicts it."""
    sources = " and ".join(unconfirmed.sources)
    until = time_text(
        max(unconfirmed.until, termination.schedule.next_poll_at or unconfirmed.until)
    )
    since = time_text(unconfirmed.since)
    match unconfirmed.verdict:
        case Verdict.MISSING:
            found = "found again" if termination.job.observed_at else "found"
            waiting_for = f"the job to be {found}: missing from {sources} since {since}"
            end = f"the termination ends at {until} unless the job is found"
        case Verdict.FORBIDDEN:
            waiting_for = f"permission for {sources}, refused since {since}"
            end = f"the termination ends as refused at {until} unless permission is granted"
        case Verdict.UNREADABLE:
            waiting_for = f"a successful read: reads fail since {since}"
            end = f"the termination ends at {until} unless the job can be read"
        case _:
            assert_never(unconfirmed.verdict)
    return Explanation(
        waiting_for=f"{waiting_for}; {end}{last_error_suffix(termination)}",
        next_action="poll the job again",
        next_action_at=termination.schedule.next_poll_at,
    )


_EXPLAIN: Final[Mapping[State, Explainer]] = {
    State.QUEUED: explain_queued,
    State.HELD: explain_held,
    State.SENDING: explain_sending,
    State.DRAINING: explain_draining,
    State.SETTLING: explain_settling,
    State.VERIFIED: explain_verified,
    State.ALREADY_FINISHED: explain_final(
        "the job had finished before any TerminateJob request had effect, and no instance was live"
    ),
    State.NOT_FOUND: explain_not_found,
    State.REFUSED: explain_final(
        "the termination was refused for good; `error` has the reason",
        "follow the advice in `error`, then request the termination again",
    ),
    State.WITHDRAWN: explain_final("it was withdrawn before TerminateJob was sent"),
    State.UNVERIFIED: explain_unverified,
}
