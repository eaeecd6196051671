"""Why a job is not down yet or how it ended, in words for the person on call."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from orchestrator.domain import evidence
from orchestrator.domain.lifecycle import State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from orchestrator.domain.terminations import Problem, Termination

    Explain = Callable[[Termination, "Surroundings"], "Explanation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why it is where it is, and what comes next.

    ``next_action`` is what happens next; once the state is final, what a person can do, or None.
    """

    waiting_for: str
    next_action: str | None = None
    next_action_at: datetime | None = None


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
    explanation = _EXPLAIN[termination.state](termination, around)
    if termination.state.final:
        return explanation
    if around.calls_per_s is None:
        return Explanation(
            waiting_for=f"account {termination.account!r} and its region {termination.region!r} "
            "to be in the configuration again",
            next_action="add the account to the configuration and start the daemon again",
        )
    if around.trouble is None:
        return explanation
    trouble = f"calls to the cloud fail ({around.trouble.code}: {around.trouble.message})"
    advice = f"; {around.trouble.advice}" if around.trouble.advice else ""
    return replace(
        explanation,
        waiting_for=f"{explanation.waiting_for}; {trouble}",
        next_action=f"{explanation.next_action}{advice}",
    )


def _explain_queued(termination: Termination, around: Surroundings) -> Explanation:
    if termination.begins_after(around.now):
        return Explanation(
            waiting_for="the time before which it was asked not to be called (not_before)",
            next_action="look at the job (DescribeJobs), then TerminateJob",
            next_action_at=termination.not_before,
        )
    if termination.call_at is None:
        return _look(
            termination,
            "a look at the job before it is called",
            "look at the job, then TerminateJob",
        )
    ahead = "" if around.ahead is None else f", {around.ahead} ahead of it"
    calls_per_s = around.calls_per_s or 1
    turn_at = around.now + timedelta(seconds=(around.ahead or 0) / calls_per_s)
    return Explanation(
        waiting_for=f"its turn to be called{ahead}; {calls_per_s} a second are allowed"
        + _because(termination),
        next_action="TerminateJob",
        next_action_at=max(turn_at, termination.call_at),
    )


def _explain_held(termination: Termination, _: Surroundings) -> Explanation:
    return _look(
        termination,
        "the job to leave SUBMITTED, where the cloud forbids TerminateJob",
        "look again (DescribeJobs), then TerminateJob first in line",
    )


def _explain_sending(termination: Termination, _: Surroundings) -> Explanation:
    if termination.in_doubt:
        return _look(
            termination,
            "a look at the job: a TerminateJob call left and its outcome is not known",
            "read the job (DescribeJob), then call again only if it runs on untouched",
        )
    return Explanation(
        waiting_for="the cloud's answer to TerminateJob", next_action="record the answer"
    )


def _explain_draining(termination: Termination, around: Surroundings) -> Explanation:
    if termination.call_at is not None:
        return Explanation(
            waiting_for="its turn to be called again: the job was finished and runs again",
            next_action="TerminateJob",
            next_action_at=max(termination.call_at, around.now),
        )
    instances = termination.instances
    if instances is None:
        left = "its instances, which are not counted yet, to go down"
    elif instances.live:
        left = f"{instances.live} of {instances.total} instances to go down"
    elif termination.job_next_action:
        left = f"the end of {termination.job_next_action}; no instance is live"
    else:
        left = "the job to finish; no instance is live"
    return _look(
        termination,
        f"{left}; {_job_state(termination)}",
        "look again; call it down when the job is finished and no instance is live",
    )


def _explain_settling(termination: Termination, _: Surroundings) -> Explanation:
    return Explanation(
        waiting_for="the settle window to pass: all instances are down, and a job can be revived "
        "by RetryJobs" + _because(termination),
        next_action="look once more (DescribeJobs) and call it verified",
        next_action_at=termination.settle_until,
    )


def _look(termination: Termination, waiting_for: str, next_action: str) -> Explanation:
    return Explanation(
        waiting_for=waiting_for + _because(termination),
        next_action=next_action,
        next_action_at=termination.look_at,
    )


def _because(termination: Termination) -> str:
    problem = termination.problem
    return f" ({problem.code}: {problem.message})" if problem else ""


def _job_state(termination: Termination) -> str:
    state = termination.job_state
    return f"the job reads {state}" if state else "the job's state is not known"


def _explain_verified(termination: Termination, _: Surroundings) -> Explanation:
    since = (
        "still so after the settle window"
        if termination.evidence >= evidence.SETTLED
        else "the job was deleted then"
    )
    return Explanation(waiting_for=f"nothing: every instance was seen down, and {since}")


def _explain_unverified(termination: Termination, _: Surroundings) -> Explanation:
    instances = termination.instances
    live = (
        f"{instances.live} of {instances.total} instances live"
        if instances
        else "its instances never counted"
    )
    return Explanation(
        waiting_for=f"nothing: it was given up at its deadline with {live}; "
        f"{_job_state(termination)}" + _because(termination),
        next_action="look at the job in the console and end there what is live, or submit it again",
    )


def _ended(why: str, to_do: str | None = None) -> Explain:
    explanation = Explanation(waiting_for=f"nothing: {why}", next_action=to_do)
    return lambda _termination, _around: explanation


_EXPLAIN: Final[Mapping[State, Explain]] = {
    State.QUEUED: _explain_queued,
    State.HELD: _explain_held,
    State.SENDING: _explain_sending,
    State.DRAINING: _explain_draining,
    State.SETTLING: _explain_settling,
    State.VERIFIED: _explain_verified,
    State.ALREADY_FINISHED: _ended(
        "the job had finished before any call had effect, and no instance was live"
    ),
    State.NOT_FOUND: _ended(
        "the cloud knows no such job in this account and region",
        "check the job id, the account and the region, and submit it again",
    ),
    State.REFUSED: _ended(
        "it was refused for good; `error` has the reason",
        "see to what `error` advises, and submit the job again",
    ),
    State.WITHDRAWN: _ended("it was taken back before a call was sent"),
    State.UNVERIFIED: _explain_unverified,
}
