"""Explanations of jobs in their settle window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.domain.model.termination import PollKind
from orchestrator.services.explanation.phrases import explain_poll

if TYPE_CHECKING:
    from orchestrator.domain.model.termination import Termination
    from orchestrator.services.explanation.values import Explanation, ExplanationContext


def explain_settling(termination: Termination, context: ExplanationContext) -> Explanation:
    settle_until, machines = termination.schedule.settle_until or context.now, termination.machines
    counted_at = termination.drain.counted_at
    if settle_until > context.now:
        waiting_for = "the settle window to end"
    elif counted_at is None or counted_at < settle_until:
        waiting_for = "a count of its instances after the settle window (DescribeJob)"
    elif machines.remaining:
        waiting_for = f"{machines.remaining} of {machines.total} machines to be gone"
        waiting_for += f" ({machines.up} of them up)" if machines.up else ""
    elif machines.readable and not machines.read_since(settle_until):
        waiting_for = "a read of its machines after the settle window (DescribeInstances)"
    elif termination.schedule.poll_kind is PollKind.SUBMIT_INFO:
        waiting_for = "the number of instances it was submitted with (DescribeJobSubmitInfo)"
    else:
        waiting_for = "a last poll, because the settle window has ended"
    return explain_poll(
        termination,
        context,
        f"{waiting_for}: all instances were observed stopped, but RetryJobs can revive the job",
        "count its instances and read its machines once more; it is verified if no instance is "
        "live and no machine is up",
        earliest=settle_until,
    )
