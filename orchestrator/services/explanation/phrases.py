"""Phrases that explanations of several states share."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from orchestrator.domain.decisions.capture_coverage import missed
from orchestrator.domain.model.error_detail import ClientCode
from orchestrator.services.explanation.values import Explanation, ExplanationContext

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.model.termination import Termination

LATE_S: Final = 5.0
"""A poll that is overdue for longer waits behind other polls, so its time is not known."""


def explain_poll(
    termination: Termination,
    context: ExplanationContext,
    waiting_for: str,
    next_action: str,
    *,
    earliest: datetime | None = None,
) -> Explanation:
    poll_at = termination.schedule.next_poll_at
    late = ""
    if poll_at is not None and context.now - poll_at > timedelta(seconds=LATE_S):
        late = f"; the poll has been overdue since {time_text(poll_at)}"
        if context.trouble is None:
            late += ": other polls come first, or its database row is locked (see the log)"
    return Explanation(
        waiting_for=waiting_for + last_error_suffix(termination) + late,
        next_action=next_action,
        next_action_at=None if late or poll_at is None else max(poll_at, earliest or poll_at),
    )


def last_error_suffix(termination: Termination) -> str:
    problem = termination.problem
    if problem is None:
        return ""
    if problem.code == ClientCode.DEADLINE_PASSED:
        # The text already says that the deadline passed; the message may add a reason.
        why = problem.message.partition("; ")[2]
        return f" ({why})" if why else ""
    return f" (last error: {problem.code}: {problem.message})"


def job_state_text(termination: Termination) -> str:
    state = termination.job.state
    return f"the job state is {state}" if state else "the job state is not known"


def time_text(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def live_count(termination: Termination) -> str:
    instances = termination.drain.counters
    if instances is None:
        return "its instances never counted"
    return f"{instances.live} of {instances.total} instances live at the last count"


def machine_status(termination: Termination) -> str:
    """Return what is known of the machines of a stopped job."""
    capture, machines = termination.captures.machines, termination.machines
    if capture is not None and capture.nodes:
        environments = ", ".join(sorted({t.env_id for t in capture.tasks if t.env_id}))
        return f"work stopped; {capture.nodes} nodes of {environments} restart and stay billed"
    why = missed(termination)
    if why is None and machines.problem is not None:
        why = f"reading them failed: {machines.problem.code}: {machines.problem.message}"
    if why is None and not machines.listed:
        why = "DescribeInstances never listed any of them for this credential"
    known = f"{machines.gone} of the {machines.total} captured machines are gone"
    if why is None:
        return f"all {machines.total} machines are gone" if not machines.remaining else known
    return f"it is not proven that its machines are gone: {why}" + (
        f"; {known}" if machines.gone else ""
    )


def node_steps(termination: Termination) -> str | None:
    if termination.captures.machines is None or not termination.captures.machines.nodes:
        return None
    return (
        "if the nodes are no longer needed, remove them from the compute environment in the "
        "console (TerminateComputeNodes), or delete the environment"
    )
