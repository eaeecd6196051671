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

from orchestrator.cli import printing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from orchestrator.cli.answers import Operation

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
        seen = (progress.jobs, progress.instances, progress.stalled_since)
        if seen != self._last:
            self._last = seen
            printing.line(self._console, as_line(operation))

    def say(self, sentence: str) -> None:
        printing.line(self._console, printing.clean(sentence))


class Bars:
    """Three bars: jobs done, instances down, quota used; their texts alone where it is narrow."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, operation: Operation) -> None:
        if self._live.console.width < NARROW:
            self._live.update(Text(as_line(operation)))
            return
        self._live.update(Group(_bars(operation), Text(_times(operation)), _states(operation)))

    def say(self, sentence: str) -> None:
        printing.line(self._live.console, printing.clean(sentence))


def _bars(operation: Operation) -> Progress:
    progress, instances = operation.progress, operation.progress.instances
    bars = Progress(
        TextColumn("{task.description:<14}"), BarColumn(40), TextColumn("{task.fields[told]}")
    )
    bars.add_task(
        "jobs done", total=operation.total, completed=operation.done, told=_jobs(operation)
    )
    bars.add_task(
        "instances down",
        total=instances.total or None,
        completed=instances.down,
        told=_instances(operation),
    )
    used = bars.add_task(
        "quota used", total=progress.quota.configured_per_s or None, told=quota(operation)
    )
    bars.update(used, completed=progress.quota.used_per_s)
    return bars


def as_line(operation: Operation) -> str:
    """All of it in one line."""
    parts = (
        f"{_jobs(operation)} jobs done",
        f"{_instances(operation)} instances down",
        quota(operation),
        _times(operation),
    )
    return f"{', '.join(parts)}: {states(operation)}"


def _jobs(operation: Operation) -> str:
    return f"{operation.done} of {operation.total}"


def _instances(operation: Operation) -> str:
    instances = operation.progress.instances
    missing = instances.jobs_not_counted
    uncounted = f" ({missing} jobs not counted)" if missing else ""
    return f"{instances.down} of {instances.total}{uncounted}"


def quota(operation: Operation) -> str:
    used = operation.progress.quota
    configured = "?" if used.configured_per_s is None else used.configured_per_s
    made = f"{printing.clean(used.action)} {used.used_per_s:.1f} of {configured} a second"
    if used.allowed_per_s is None or used.allowed_per_s == used.configured_per_s:
        return made
    return f"{made} (for now the cloud lets {used.allowed_per_s:.1f} through)"


def _times(operation: Operation) -> str:
    elapsed = f"{duration(operation.elapsed_s)} elapsed"
    eta, stalled_since = operation.progress.eta, operation.progress.stalled_since
    if stalled_since is not None:
        return f"{elapsed}, stalled since {stalled_since.astimezone(UTC):%H:%M} UTC"
    if eta is None:
        return elapsed
    p50, p90 = (roughly((at - datetime.now(UTC)).total_seconds()) for at in (eta.p50, eta.p90))
    return f"{elapsed}, over in {p50} (90 %: {p90})"


def states(operation: Operation) -> str:
    """Jobs by state."""
    return ", ".join(f"{state} {jobs}" for state, jobs in operation.jobs_by_state().items())


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
