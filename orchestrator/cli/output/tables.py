"""Operations and terminations as text lines and tables."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Final

from rich.table import Table

from orchestrator.cli.output import progress_display
from orchestrator.cli.output.printing import clean, print_line
from orchestrator.domain.model.lifecycle import State

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from rich.console import Console

    from orchestrator.cli.client.models import Operation, Termination

MEANINGS: Final[Mapping[str, str]] = {
    State.VERIFIED: "proven stopped when it ended",
    State.ALREADY_FINISHED: "had finished before any request took effect",
    State.NOT_FOUND: "the cloud does not know the job",
    State.REFUSED: "the cloud permanently refuses to terminate it",
    State.WITHDRAWN: "withdrawn before any request was sent",
    State.UNVERIFIED: "gave up: live, or not proven stopped",
}


def print_outcomes(operation: Operation, console: Console) -> None:
    """Print the outcome of a finished operation, and its jobs by state."""
    took_s = operation.elapsed_s
    after = "" if took_s is None else f" after {progress_display.duration(took_s)}"
    # Printed beside the table: rich breaks a title or caption at the width of the table.
    outcome = clean(operation.outcome or operation.state)
    print_line(
        console, f"{clean(operation.id)}: {outcome}{after}{progress_display.revived(operation)}"
    )
    table = Table()
    table.add_column("state", no_wrap=True, overflow="fold")
    table.add_column("jobs", no_wrap=True, justify="right")
    table.add_column("meaning", overflow="fold")
    for state, jobs in operation.jobs_by_state().items():
        table.add_row(state, str(jobs), MEANINGS.get(state, ""))
    revived = operation.progress.revived
    if revived:
        table.add_row("REVIVED", str(revived), "of these, running again after they had stopped")
    console.print(table)
    for text in progress_display.what_is_left(operation):
        print_line(console, f"instances: {text}")
    if revived or operation.states_to_report():
        print_line(console, f"which jobs and why: orchestrator status {clean(operation.id)}")


def summary(operation: Operation) -> Iterator[str]:
    """Yield the lines of ``status`` that describe the operation as a whole."""
    progress = operation.progress
    outcome = f", outcome {clean(operation.outcome)}" if operation.outcome else ""
    yield f"operation  {clean(operation.id)}"
    yield f"state      {clean(operation.state)}{outcome}"
    yield f"where      account {clean(operation.account)}, region {clean(operation.region)}"
    yield f"reason     {clean(operation.reason)}"
    yield f"requested  by {clean(operation.requested_by)} at {utc(operation.created_at)}"
    yield f"progress   {progress_display.as_line(operation)}"
    if progress.revived:
        yield f"REVIVED    {progress.revived} of {operation.total} jobs, after they had stopped"
    if progress.observed_at:
        yield f"observed   at {utc(progress.observed_at)}"


def utc(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def job_line(termination: Termination) -> str:
    """Return the line of one job: its state, and why it has not stopped or how it ended."""
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
