"""Live progress: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from orchestrator.cli.output import printing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from orchestrator.cli.client.models import Eta, Operation

SHOW_SECONDS_BELOW_S: Final = 100.0
NARROW: Final = 75
"""Width in columns below which bars and their texts do not fit on one line."""


class Display(Protocol):
    """A place that shows progress."""

    def show(self, operation: Operation) -> None: ...

    def print_message(self, text: str) -> None: ...


@contextmanager
def display(console: Console) -> Iterator[Display]:
    """Open the display that suits the console: bars on a terminal, else lines."""
    if not console.is_terminal:
        yield Lines(console)
        return
    with Live(console=console, refresh_per_second=4) as live:
        yield Bars(live)


class Lines:
    """A display that prints a line for each change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: object = None

    def show(self, operation: Operation) -> None:
        progress = operation.progress
        current = (progress.jobs, progress.instances, progress.stalled_since, progress.revived)
        if current != self._last:
            self._last = current
            printing.print_line(self._console, as_line(operation))

    def print_message(self, text: str) -> None:
        printing.print_line(self._console, printing.clean(text))


class Bars:
    """A display of three bars: jobs ended, instances stopped, quota used.

    A narrow terminal shows only the texts.
    """

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, operation: Operation) -> None:
        if self._live.console.width < NARROW:
            self._live.update(Text(as_line(operation)))
            return
        times = Text(", ".join(_times(operation)))
        self._live.update(Group(bars(operation), times, _states(operation)))

    def print_message(self, text: str) -> None:
        printing.print_line(self._live.console, printing.clean(text))


def bars(operation: Operation) -> Progress:
    """Return the three bars; none is full while an instance is live or not counted."""
    progress, instances = operation.progress, operation.progress.instances
    shown = Progress(
        TextColumn("{task.description:<17}"), BarColumn(40), TextColumn("{task.fields[value]}")
    )
    shown.add_task(
        "jobs ended",
        total=operation.total,
        completed=operation.done - operation.left,
        value=_jobs(operation),
    )
    shown.add_task(
        "instances stopped",
        total=_all_instances(operation),
        completed=instances.stopped,
        value=_instances(operation),
    )
    used = shown.add_task(
        "quota used", total=progress.quota.configured_per_s or None, value=quota(operation)
    )
    shown.update(used, completed=progress.quota.used_per_s)
    return shown


def _all_instances(operation: Operation) -> float | None:
    """Return the length of the instance bar, which is full only if all are known to be stopped.

    An uncounted job is assumed to have as many instances as the average counted job. None if the
    length is unknown.
    """
    instances = operation.progress.instances
    counted = operation.total - instances.jobs_not_counted
    if not instances.total or counted <= 0:
        return None
    return instances.total * operation.total / counted


def as_line(operation: Operation) -> str:
    """Return the whole progress in one line."""
    parts = [
        f"{_jobs(operation)} jobs ended",
        f"{_instances(operation)} instances stopped",
        quota(operation),
        *_times(operation),
    ]
    return f"{', '.join(parts)}: {states(operation)}"


def _jobs(operation: Operation) -> str:
    return f"{operation.done} of {operation.total}"


def _instances(operation: Operation) -> str:
    instances = operation.progress.instances
    notes = "; ".join(what_is_left(operation))
    return f"{instances.stopped} of {instances.total}" + (f" ({notes})" if notes else "")


def what_is_left(operation: Operation) -> Iterator[str]:
    """Yield the live instances and uncounted jobs of ended jobs, then the other uncounted jobs."""
    instances = operation.progress.instances
    unended = instances.jobs_not_counted
    for state, left in instances.left_by_final_state.items():
        unended -= left.jobs_not_counted
        if left.live:
            yield f"{left.live} live in {_counted_jobs(left.jobs_live, state)}"
        if left.jobs_not_counted:
            yield f"{_counted_jobs(left.jobs_not_counted, state)} not counted"
    if unended:
        yield f"{_counted_jobs(unended)} not counted"


def _counted_jobs(jobs: int, state: str = "") -> str:
    kind = f"{printing.clean(state)} job" if state else "job"
    return f"{jobs} {kind}" if jobs == 1 else f"{jobs} {kind}s"


def quota(operation: Operation) -> str:
    used = operation.progress.quota
    configured = "?" if used.configured_per_s is None else used.configured_per_s
    text = f"{printing.clean(used.action)} {used.used_per_s:.1f} of {configured} per second"
    if used.allowed_per_s is None or used.allowed_per_s == used.configured_per_s:
        return text
    return f"{text} (the cloud currently accepts {used.allowed_per_s:.1f})"


def _times(operation: Operation) -> Iterator[str]:
    elapsed_s, progress = operation.elapsed_s, operation.progress
    if elapsed_s is not None:
        yield f"{duration(elapsed_s)} elapsed"
    if operation.finished:
        return
    if progress.stalled_since is not None:
        yield f"stalled since {progress.stalled_since.astimezone(UTC):%H:%M} UTC"
    elif progress.eta is not None:
        yield _eta_text(progress.eta, progress.verified_eta)
    elif operation.only_settling:
        yield _settle_text(operation)


def _eta_text(eta: Eta, verified: Eta | None) -> str:
    """Return when the last instance stops, and how much later all jobs are verified."""
    text = f"last instance stopped in about {_until(eta.p50)} (90 %: {_until(eta.p90)})"
    if verified is None:
        return text
    return f"{text}; verified about {roughly((verified.p50 - eta.p50).total_seconds())} later"


def _settle_text(operation: Operation) -> str:
    """Return how long the last settle window still runs; all open jobs are in theirs."""
    until = operation.progress.settle_until
    window = "waiting for the last polls of jobs and machines"
    if until is not None:
        window = f"settle window ends in {_until(until)}"
    return (
        f"all instances stopped; {window}" if operation.progress.instances.all_stopped else window
    )


def _until(at: datetime) -> str:
    """Return the remaining time, at least 1 s: the event is over only once it was observed."""
    return roughly(max(1.0, (at - datetime.now(UTC)).total_seconds()))


def states(operation: Operation) -> str:
    """Return the number of jobs by state, and how many were revived."""
    by_state = (f"{state} {jobs}" for state, jobs in operation.jobs_by_state().items())
    return ", ".join(by_state) + revived(operation)


def revived(operation: Operation) -> str:
    """Return the suffix for an outcome or for states: they no longer hold for revived jobs."""
    jobs = operation.progress.revived
    return f", {jobs} REVIVED" if jobs else ""


def _states(operation: Operation) -> Text:
    return Text(states(operation), style="dim")


def roughly(seconds: float) -> str:
    """Format a forecast, from 100 s on rounded up to minutes: ``8 s``, ``4 min``, ``2 h 5 min``."""
    if seconds < SHOW_SECONDS_BELOW_S:
        return duration(max(0.0, seconds))
    return duration(60 * math.ceil(seconds / 60)).removesuffix(" 0 s")


def duration(seconds: float) -> str:
    """Format a duration: ``8 s``, ``3 min 20 s``, ``2 h 5 min``."""
    minutes, rest_s = divmod(round(seconds), 60)
    hours, rest_minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {rest_minutes} min"
    return f"{minutes} min {rest_s} s" if minutes else f"{rest_s} s"
