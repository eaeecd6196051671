"""Why a job is not down yet, and what happens next, in words for the person on call."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from orchestrator.domain.lifecycle import State

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.terminations import Problem, Termination


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """``waiting_for`` and ``next_action`` are None where there is nothing left to do."""

    waiting_for: str | None
    next_action: str | None
    next_action_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What an explanation needs beside the termination.

    ``ahead``: jobs called before this one (None: not counted).  ``calls_per_s``: TerminateJob calls
    that its partition may make (None: its account is configured no longer).  ``trouble``: why the
    partition's calls fail now.
    """

    now: datetime
    ahead: int | None
    calls_per_s: int | None
    trouble: Problem | None


def explain(termination: Termination, around: Surroundings) -> Explanation:
    """Say what this termination waits for, in every state."""
    if around.calls_per_s is None and not termination.state.final:
        return Explanation(
            waiting_for=f"account {termination.account!r} and its region {termination.region!r} "
            "to be in the configuration again",
            next_action="add the account to the configuration and start the daemon again",
            next_action_at=None,
        )
    explanation = _explain(termination, around)
    if around.trouble is None or termination.state.final:
        return explanation
    trouble = f"calls to the cloud fail ({around.trouble.code}: {around.trouble.message})"
    waiting = f"{explanation.waiting_for}; {trouble}" if explanation.waiting_for else trouble
    return Explanation(
        waiting_for=waiting,
        next_action=explanation.next_action,
        next_action_at=explanation.next_action_at,
    )


def _explain(termination: Termination, around: Surroundings) -> Explanation:
    match termination.state:
        case State.QUEUED:
            explanation = _explain_queued(termination, around)
        case State.HELD:
            explanation = _look(
                termination,
                "the job to leave SUBMITTED, where the cloud forbids TerminateJob",
                "look again (DescribeJobs), then TerminateJob first in line",
            )
        case State.SENDING:
            explanation = _explain_sending(termination)
        case State.DRAINING:
            explanation = _explain_draining(termination, around)
        case State.SETTLING:
            explanation = Explanation(
                waiting_for="the settle window to pass: all instances are down, and a job can be "
                "revived by RetryJobs",
                next_action="look once more (DescribeJobs) and call it verified",
                next_action_at=termination.settle_until,
            )
        case _:
            explanation = Explanation(waiting_for=None, next_action=None, next_action_at=None)
    return explanation


def _explain_sending(termination: Termination) -> Explanation:
    if termination.in_doubt:
        return _look(
            termination,
            "a look at the job: a TerminateJob call left and its outcome is not known"
            + _because(termination),
            "read the job (DescribeJob), then call again only if it runs on untouched",
        )
    return Explanation(
        waiting_for="the cloud's answer to TerminateJob",
        next_action="record the answer",
        next_action_at=None,
    )


def _look(termination: Termination, waiting_for: str, next_action: str) -> Explanation:
    return Explanation(
        waiting_for=waiting_for, next_action=next_action, next_action_at=termination.look_at
    )


def _because(termination: Termination) -> str:
    problem = termination.problem
    return f" ({problem.code}: {problem.message})" if problem else ""


def _explain_queued(termination: Termination, around: Surroundings) -> Explanation:
    if termination.not_before is not None and termination.not_before > around.now:
        return Explanation(
            waiting_for="the time before which it was asked not to be called (not_before)",
            next_action="look at the job (DescribeJobs), then TerminateJob",
            next_action_at=termination.not_before,
        )
    if termination.call_at is None:
        return _look(
            termination,
            "a look at the job before it is called" + _because(termination),
            "look at the job, then TerminateJob",
        )
    ahead = "" if around.ahead is None else f": {around.ahead} calls are ahead of it"
    calls_per_s = around.calls_per_s or 1
    turn_at = around.now + timedelta(seconds=(around.ahead or 0) / calls_per_s)
    return Explanation(
        waiting_for=f"its turn{ahead}, {calls_per_s} a second are allowed" + _because(termination),
        next_action="TerminateJob",
        next_action_at=max(turn_at, termination.call_at),
    )


def _explain_draining(termination: Termination, around: Surroundings) -> Explanation:
    if termination.call_at is not None:
        return Explanation(
            waiting_for="its turn to be called again: the job was finished and runs again",
            next_action="TerminateJob",
            next_action_at=max(termination.call_at, around.now),
        )
    instances = termination.instances
    live = f"{instances.live} of {instances.total} instances" if instances else "its instances"
    state = f"the job reads {termination.job_state}" if termination.job_state else "not seen yet"
    return _look(
        termination,
        f"{live} to go down; {state}" + _because(termination),
        "look again; call it down when the job is finished and no instance is live",
    )
