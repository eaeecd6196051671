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

SECONDS_MATTER_S: Final = 100.0
NARROW: Final = 72
"""Columns below which there is no room for bars beside their texts."""


class Display(Protocol):
    """Where progress is shown."""

    def show(self, operation: Operation) -> None: ...

    def say(self, sentence: str) -> None: ...


@contextmanager
def display(console: Console) -> Iterator[Display]:
    """The display that suits the console."""
    if not console.is_terminal:
        yield Lines(console)
        return
    with Live(console=console, refresh_per_second=4) as live:
        yield Bars(live)


class Lines:
    """A line for each change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: object = None

    def show(self, operation: Operation) -> None:
        progress = operation.progress
        seen = (progress.jobs, progress.instances, progress.stalled_since, progress.revived)
        if seen != self._last:
            self._last = seen
            printing.line(self._console, as_line(operation))

    def say(self, sentence: str) -> None:
        printing.line(self._console, printing.clean(sentence))


class Bars:
    """Three bars: jobs ended, instances down, quota used; their texts alone where it is narrow."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, operation: Operation) -> None:
        if self._live.console.width < NARROW:
            self._live.update(Text(as_line(operation)))
            return
        times = Text(", ".join(_times(operation)))
        self._live.update(Group(bars(operation), times, _states(operation)))

    def say(self, sentence: str) -> None:
        printing.line(self._live.console, printing.clean(sentence))


def bars(operation: Operation) -> Progress:
    """None is full while an instance is live or not counted."""
    progress, instances = operation.progress, operation.progress.instances
    shown = Progress(
        TextColumn("{task.description:<14}"), BarColumn(40), TextColumn("{task.fields[told]}")
    )
    shown.add_task(
        "jobs ended",
        total=operation.total,
        completed=operation.done - operation.left,
        value=_jobs(operation),
    )
    shown.add_task(
        "instances down",
        total=_all(operation),
        completed=instances.stopped,
        value=_instances(operation),
    )
    used = shown.add_task(
        "quota used", total=progress.quota.configured_per_s or None, value=quota(operation)
    )
    shown.update(used, completed=progress.quota.used_per_s)
    return shown


def _all(operation: Operation) -> float | None:
    """The length of the bar of instances, which is full only once all are known to be down.

    A job that is not counted passes for one like the others; None: the length is not known.
    """
    instances = operation.progress.instances
    counted = operation.total - instances.jobs_not_counted
    if not instances.total or counted <= 0:
        return None
    return instances.total * operation.total / counted


def as_line(operation: Operation) -> str:
    """All of it in one line."""
    parts = [
        f"{_jobs(operation)} jobs ended",
        f"{_instances(operation)} instances down",
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
    """What is live, or not counted, of jobs that have ended, and what else is not counted."""
    instances = operation.progress.instances
    at_work = instances.jobs_not_counted
    for state, left in instances.left_by_final_state.items():
        at_work -= left.jobs_not_counted
        if left.live:
            yield f"{left.live} live in {_counted_jobs(left.jobs_live, state)}"
        if left.jobs_not_counted:
            yield f"{_counted_jobs(left.jobs_not_counted, state)} not counted"
    if at_work:
        yield f"{_counted_jobs(at_work)} not counted"


def _counted_jobs(jobs: int, state: str = "") -> str:
    kind = f"{printing.clean(state)} job" if state else "job"
    return f"{jobs} {kind}" if jobs == 1 else f"{jobs} {kind}s"


def quota(operation: Operation) -> str:
    used = operation.progress.quota
    configured = "?" if used.configured_per_s is None else used.configured_per_s
    made = f"{printing.clean(used.action)} {used.used_per_s:.1f} of {configured} a second"
    if used.allowed_per_s is None or used.allowed_per_s == used.configured_per_s:
        return made
    return f"{made} (for now the cloud lets {used.allowed_per_s:.1f} through)"


def _times(operation: Operation) -> Iterator[str]:
    passed_s, progress = operation.elapsed_s, operation.progress
    if passed_s is not None:
        yield f"{duration(passed_s)} elapsed"
    if operation.finished:
        return
    if progress.stalled_since is not None:
        yield f"stalled since {progress.stalled_since.astimezone(UTC):%H:%M} UTC"
    elif progress.eta is not None:
        yield _ends(progress.eta, progress.verified_eta)
    elif operation.settles_only:
        yield _settles(operation)


def _ends(eta: Eta, verified: Eta | None) -> str:
    """When the last instance is stopped, and how much later all is verified."""
    value = f"last instance stopped in about {_until(eta.p50)} (90 %: {_until(eta.p90)})"
    if verified is None:
        return value
    return f"{value}; verified about {roughly((verified.p50 - eta.p50).total_seconds())} later"


def _settles(operation: Operation) -> str:
    """How long settle windows, which are all that is left, still run."""
    until = operation.progress.settle_until
    window = "waiting for the last polls of jobs and machines"
    if until is not None:
        window = f"settle window ends in {_until(until)}"
    return (
        f"all instances stopped; {window}" if operation.progress.instances.all_stopped else window
    )


def _until(at: datetime) -> str:
    """The time that is left; nothing is told to be over before it was seen so."""
    return roughly(max(1.0, (at - datetime.now(UTC)).total_seconds()))


def states(operation: Operation) -> str:
    """Jobs by state, and how many of them came back."""
    by_state = (f"{state} {jobs}" for state, jobs in operation.jobs_by_state().items())
    return ", ".join(by_state) + revived(operation)


def revived(operation: Operation) -> str:
    """What to add wherever the outcome is told, or states are: it is no longer so of these jobs."""
    jobs = operation.progress.revived
    return f", {jobs} REVIVED" if jobs else ""


def _states(operation: Operation) -> Text:
    return Text(states(operation), style="dim")


def roughly(seconds: float) -> str:
    """``8 s``, ``4 min``, ``2 h 5 min``."""
    if seconds < SECONDS_MATTER_S:
        return duration(max(0.0, seconds))
    return duration(60 * math.ceil(seconds / 60)).removesuffix(" 0 s")


def duration(seconds: float) -> str:
    """``8 s``, ``3 min 20 s``, ``2 h 5 min``."""
    minutes, rest_s = divmod(round(seconds), 60)
    hours, rest_minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {rest_minutes} min"
    return f"{minutes} min {rest_s} s" if minutes else f"{rest_s} s"
