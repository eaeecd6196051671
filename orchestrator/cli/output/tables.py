"""Operations and terminations in words."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Final

from rich.table import Table

from orchestrator.cli.output import progress_display
from orchestrator.cli.output.printing import clean, line
from orchestrator.domain.model.lifecycle import State

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from rich.console import Console

    from orchestrator.cli.client.models import Operation, Termination

MEANINGS: Final[Mapping[str, str]] = {
    State.VERIFIED: "proven down when it ended",
    State.ALREADY_FINISHED: "had finished before any call had effect",
    State.NOT_FOUND: "the cloud does not know the job",
    State.REFUSED: "the cloud refuses for good",
    State.WITHDRAWN: "taken back before a call was sent",
    State.UNVERIFIED: "gave up: live, or not known to be down for good",
}


def print_outcomes(operation: Operation, console: Console) -> None:
    """How a finished operation came out."""
    took_s = operation.elapsed_s
    after = "" if took_s is None else f" after {progress_display.duration(took_s)}"
    # Beside the table and not its title and caption, which are broken at the table's width.
    outcome = clean(operation.outcome or operation.state)
    line(console, f"{clean(operation.id)}: {outcome}{after}{progress_display.revived(operation)}")
    table = Table()
    table.add_column("state", no_wrap=True, overflow="fold")
    table.add_column("jobs", no_wrap=True, justify="right")
    table.add_column("meaning", overflow="fold")
    for state, jobs in operation.jobs_by_state().items():
        table.add_row(state, str(jobs), MEANINGS.get(state, ""))
    revived = operation.progress.revived
    if revived:
        table.add_row("REVIVED", str(revived), "of these, seen running again after they were down")
    console.print(table)
    for text in progress_display.what_is_left(operation):
        line(console, f"instances: {text}")
    if revived or operation.states_to_tell():
        line(console, f"which jobs and why: orchestrator status {clean(operation.id)}")


def summary(operation: Operation) -> Iterator[str]:
    """The lines of ``status`` about the operation as a whole."""
    progress = operation.progress
    outcome = f", outcome {clean(operation.outcome)}" if operation.outcome else ""
    yield f"operation  {clean(operation.id)}"
    yield f"state      {clean(operation.state)}{outcome}"
    yield f"where      account {clean(operation.account)}, region {clean(operation.region)}"
    yield f"reason     {clean(operation.reason)}"
    yield f"asked for  by {clean(operation.requested_by)} at {utc(operation.created_at)}"
    yield f"progress   {progress_display.as_line(operation)}"
    if progress.revived:
        yield f"REVIVED    {progress.revived} of {operation.total} jobs, after they were down"
    if progress.observed_at:
        yield f"seen       at {utc(progress.observed_at)}"


def utc(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def job_line(termination: Termination) -> str:
    """Why one job is not down yet, or did not end well."""
    name = f" ({clean(termination.job_name)})" if termination.job_name else ""
    lines = [
        f"{clean(termination.job_id)}{name}",
        clean(termination.state),
        f"evidence {termination.evidence}",
    ]
    if termination.waiting_for:
        waits = f"waits for {clean(termination.waiting_for)}"
        lines.append(waits.removeprefix("waits for nothing: "))
    if termination.next_action:
        at = f" at {utc(termination.next_action_at)}" if termination.next_action_at else ""
        lines.append(f"next{at}: {clean(termination.next_action)}")
    if termination.error:
        error = termination.error
        lines.append(f"{clean(error.code)}: {clean(error.message)}")
        if error.advice:
            lines.append(clean(error.advice))
    return "  ".join(lines)
