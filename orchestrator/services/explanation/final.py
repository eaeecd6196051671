"""Explanations of final states: how the termination ended, and what a person can do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.domain.decisions import evidence
from orchestrator.domain.model.error_detail import ClientCode
from orchestrator.services.explanation.draining import (
    escalation_suffix,
    machine_steps,
    manual_steps,
)
from orchestrator.services.explanation.phrases import (
    job_state_text,
    last_error_suffix,
    live_count,
    machine_status,
    node_steps,
    time_text,
)
from orchestrator.services.explanation.values import Explanation, ExplanationContext

if TYPE_CHECKING:
    from orchestrator.domain.model.termination import Termination
    from orchestrator.services.explanation.values import Explainer


def explain_verified(termination: Termination, _: ExplanationContext) -> Explanation:
    counted_at, settle_until = termination.drain.counted_at, termination.schedule.settle_until
    settled = counted_at is not None and settle_until is not None and counted_at >= settle_until
    since = "also after the settle window" if settled else "and the job was deleted since"
    return Explanation(
        waiting_for=f"nothing: every instance was observed stopped, {since}; "
        f"{machine_status(termination)}",
        next_action=node_steps(termination),
    )


def explain_not_found(termination: Termination, _: ExplanationContext) -> Explanation:
    if termination.calls.acknowledged_at is not None:
        ours = termination.evidence >= evidence.ACKNOWLEDGED
        how = "acknowledged TerminateJob" if ours else "acted on the job"
        known = f"{how} at {time_text(termination.calls.acknowledged_at)}"
        deleted = "it was observed stopped"
    elif termination.job.observed_at is not None:
        known = f"showed the job at {time_text(termination.job.observed_at)}"
        deleted = "TerminateJob was acknowledged"
    else:
        return Explanation(
            waiting_for="nothing: the cloud knows no such job in this account and region",
            next_action="check the job id, the account and the region, then request the "
            "termination again",
        )
    return Explanation(
        waiting_for=f"nothing: the cloud {known} and no longer knows it; the job was deleted "
        f"before {deleted}",
        next_action="check in the console that none of its machines is left: the cloud deletes "
        "only finished jobs, but this one was not observed stopped",
    )


def explain_unverified(termination: Termination, context: ExplanationContext) -> Explanation:
    problem = termination.problem
    if problem is not None and problem.code == ClientCode.ACCOUNT_NOT_CONFIGURED:
        return Explanation(
            waiting_for=f"nothing: {problem.message}; {live_count(termination)}; "
            f"{job_state_text(termination)}",
            next_action=problem.advice,
        )
    if termination.evidence >= evidence.NO_INSTANCE_LIVE and termination.machines.up:
        return _explain_machines_up(termination, context)
    if termination.evidence >= evidence.NO_INSTANCE_LIVE:
        return Explanation(
            waiting_for="nothing: every instance was observed stopped, but they could not be "
            "counted again after the settle window" + last_error_suffix(termination),
            next_action="check in the console that the job was not revived, or request its "
            "termination again",
        )
    return Explanation(
        waiting_for=f"nothing: the deadline passed with {live_count(termination)}; "
        f"{job_state_text(termination)}{escalation_suffix(termination)}"
        + last_error_suffix(termination),
        next_action=f"{manual_steps(termination)}; or request the termination again",
    )


def _explain_machines_up(termination: Termination, _: ExplanationContext) -> Explanation:
    machines = termination.machines
    return Explanation(
        waiting_for="nothing: every instance was observed stopped, but at the deadline "
        f"{machines.up} of {machines.total} machines were still up"
        + last_error_suffix(termination),
        next_action=machine_steps(termination),
    )


def with_revival(explanation: Explanation, termination: Termination) -> Explanation:
    """Add that the job was revived after the termination ended."""
    revival = termination.watch.revival
    if revival is None:
        return explanation
    observed_at = time_text(revival.at)
    observed = f"the job was running again at {observed_at}"
    advice = "request its termination again"
    if revival.instances_live and revival.job_state.finished:
        observed = f"{revival.instances_live} of its instances were running again at "
        observed += f"{observed_at}, although the job state is {revival.job_state}"
    if revival.ended:
        observed = f"the job ran again and had ended at {observed_at}"
        advice = "check in the console who calls RetryJobs"
    elif revival.reterminated_by is not None:
        observed += f", and {revival.reterminated_by} terminates it again"
        advice = f"see GET /v1/operations/{revival.reterminated_by}"
    elif revival.limit_reached:
        observed += ", and was terminated again as often as engine.reterminate_max allows"
        advice = "check in the console who calls RetryJobs, then request the termination again"
    return replace(
        explanation, waiting_for=f"{explanation.waiting_for}; but {observed}", next_action=advice
    )


def explain_final(why: str, advice: str | None = None) -> Explainer:
    explanation = Explanation(waiting_for=f"nothing: {why}", next_action=advice)
    return lambda _termination, _context: explanation
