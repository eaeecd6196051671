"""Task instances as ranges of equal neighbours, so that their number costs nothing.

An instance is in one state until its ending, if it has one.  The endings of a range follow one
another at equal distances, which is what a drain looks like.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

STATES: Final = (
    "SUBMITTED",
    "PENDING",
    "RUNNABLE",
    "STARTING",
    "RUNNING",
    "SUCCEED",
    "FAILED_INTERRUPTED",
    "FAILED",
)
WAITING: Final = frozenset({"SUBMITTED", "PENDING", "RUNNABLE"})
OCCUPYING: Final = frozenset({"STARTING", "RUNNING", "FAILED_INTERRUPTED"})
"""States in which an instance holds a machine."""
FINISHED: Final = frozenset({"SUCCEED", "FAILED"})


@dataclass(frozen=True, slots=True)
class ExitSchedule:
    """The instance at position p of its range ends in ``state`` at ``first_at + p * step_s``."""

    state: str
    first_at: float
    step_s: float = 0.0

    def at(self, position: int) -> float:
        return self.first_at + position * self.step_s

    def reached(self, now: float, count: int) -> int:
        """How many of ``count`` instances have ended."""
        if now >= self.at(count - 1):
            return count
        if now < self.first_at:
            return 0
        return min(count - 1, math.floor((now - self.first_at) / self.step_s) + 1)


@dataclass(frozen=True, slots=True)
class InstanceRange:
    """``count`` instances from index ``first`` on, counted over all tasks of the job."""

    first: int
    count: int
    state: str
    ending: ExitSchedule | None = None
    immortal: bool = False
    """Neither TerminateJob nor TerminateTaskInstance brings them down."""
    stays: bool = False
    """Their machines are not given back when they end."""
    taken_until: float | None = None
    """When their machines are gone that TerminateInstances took."""

    @property
    def end(self) -> int:
        return self.first + self.count

    @property
    def live_with_machine(self) -> bool:
        """Whether they hold machines and nothing has been settled about their ending."""
        return self.state in OCCUPYING and self.ending is None

    def cut(self, first: int, end: int) -> InstanceRange:
        """The part from index ``first`` up to ``end``, within this range."""
        ending = self.ending
        if ending is not None:
            ending = replace(ending, first_at=ending.at(first - self.first))
        return replace(self, first=first, count=end - first, ending=ending)

    def ended_at(self, index: int) -> float | None:
        return None if self.ending is None else self.ending.at(index - self.first)

    def last_ended_at(self) -> float | None:
        return self.ended_at(self.end - 1)

    def parts(self, now: float) -> Iterator[Part]:
        """The instances as they are now: those that have ended, then those that have not."""
        ended = 0
        if self.ending is not None:
            ended = self.ending.reached(now, self.count)
            if ended:
                yield Part(self.first, ended, self.ending.state, self)
        if ended < self.count:
            yield Part(self.first + ended, self.count - ended, self.state, self)


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring instances that are in one state at one moment."""

    first: int
    count: int
    state: str
    span: InstanceRange

    @property
    def end(self) -> int:
        return self.first + self.count

    def within(self, first: int, end: int) -> Part:
        """What of this part lies between ``first`` and ``end``; its count may be 0."""
        start = max(self.first, first)
        return replace(self, first=start, count=max(0, min(self.end, end) - start))


def replace_range(spans: Iterable[InstanceRange], piece: InstanceRange) -> list[InstanceRange]:
    """The same instances, with ``piece`` in place of those it covers."""
    carved = []
    for span in spans:
        if span.end <= piece.first or span.first >= piece.end:
            carved.append(span)
            continue
        if span.first < piece.first:
            carved.append(span.cut(span.first, piece.first))
        if span.first <= piece.first:
            carved.append(piece)
        if span.end > piece.end:
            carved.append(span.cut(piece.end, span.end))
    return carved


def mark_tail(
    spans: Iterable[InstanceRange],
    count: int,
    mark: Callable[[InstanceRange], InstanceRange],
) -> list[InstanceRange]:
    """The same instances, the last ``count`` live ones with a machine changed by ``mark``."""
    after: list[InstanceRange] = []
    for span in reversed(list(spans)):
        split = span.end
        if span.live_with_machine:
            split = max(span.first, span.end - count)
        if split < span.end:
            after.append(mark(span.cut(split, span.end)))
            count -= span.end - split
        if span.first < split:
            after.append(span.cut(span.first, split))
    return after[::-1]


def drain(
    spans: Iterable[InstanceRange], *, now: float, drain_s: float, stuck: int
) -> list[InstanceRange]:
    """Give every instance without an ending its own, as a TerminateJob does.

    Waiting instances fail at once.  Those with a machine go down one after the other over
    ``drain_s``; the immortal ones do not, nor do the last ``stuck`` of the others.
    """
    before = list(spans)
    mortal = [one for one in before if one.live_with_machine and not one.immortal]
    going = sum(span.count for span in mortal) - stuck
    step_s = drain_s / max(1, going)
    after: list[InstanceRange] = []
    rank = 0
    for span in before:
        if span.ending is not None or span.immortal:
            after.append(span)
        elif span.state in WAITING:
            after.append(replace(span, ending=ExitSchedule("FAILED", now)))
        else:
            split = span.first + max(0, min(span.count, going - rank))
            ending = ExitSchedule("FAILED", now + step_s * (rank + 1), step_s)
            if split > span.first:
                after.append(replace(span.cut(span.first, split), ending=ending))
            if split < span.end:
                after.append(span.cut(split, span.end))
            rank += span.count
    return after
