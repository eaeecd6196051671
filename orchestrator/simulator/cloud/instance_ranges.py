"""Task instances as ranges of equal neighbours, so that the cost does not depend on their number.

An instance is in one state until its ending, if it has one. The endings of a range follow one
another at equal intervals, like a drain.
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
    """The ends of a range: position p ends in ``state`` at ``first_at + p * step_s``."""

    state: str
    first_at: float
    step_s: float = 0.0

    def at(self, position: int) -> float:
        return self.first_at + position * self.step_s

    def reached(self, now: float, count: int) -> int:
        """Return how many of ``count`` instances have ended."""
        if now >= self.at(count - 1):
            return count
        if now < self.first_at:
            return 0
        return min(count - 1, math.floor((now - self.first_at) / self.step_s) + 1)


@dataclass(frozen=True, slots=True)
class InstanceRange:
    """``count`` instances from index ``first`` on; indices run over all tasks of the job."""

    first: int
    count: int
    state: str
    ending: ExitSchedule | None = None
    unkillable: bool = False
    """Neither TerminateJob nor TerminateTaskInstance stops them."""
    machine_stays: bool = False
    """Their machines are not released when they end."""
    released_at: float | None = None
    """Time at which their machines, terminated by TerminateInstances, are gone."""

    @property
    def end(self) -> int:
        return self.first + self.count

    @property
    def live_with_machine(self) -> bool:
        """True if they hold machines and have no ending yet."""
        return self.state in OCCUPYING and self.ending is None

    def cut(self, first: int, end: int) -> InstanceRange:
        """Return the part of this range with the indices ``first`` to ``end`` - 1."""
        ending = self.ending
        if ending is not None:
            ending = replace(ending, first_at=ending.at(first - self.first))
        return replace(self, first=first, count=end - first, ending=ending)

    def ended_at(self, index: int) -> float | None:
        return None if self.ending is None else self.ending.at(index - self.first)

    def last_ended_at(self) -> float | None:
        return self.ended_at(self.end - 1)

    def parts(self, now: float) -> Iterator[RangeView]:
        """Yield the instances at ``now``: the ended ones, then the others."""
        ended = 0
        if self.ending is not None:
            ended = self.ending.reached(now, self.count)
            if ended:
                yield RangeView(self.first, ended, self.ending.state, self)
        if ended < self.count:
            yield RangeView(self.first + ended, self.count - ended, self.state, self)


@dataclass(frozen=True, slots=True)
class RangeView:
    """Neighbouring instances of one range that have one state at one moment."""

    first: int
    count: int
    state: str
    span: InstanceRange

    @property
    def end(self) -> int:
        return self.first + self.count

    def within(self, first: int, end: int) -> RangeView:
        """Return the overlap with the indices ``first`` to ``end`` - 1; its count may be 0."""
        start = max(self.first, first)
        return replace(self, first=start, count=max(0, min(self.end, end) - start))


def replace_range(spans: Iterable[InstanceRange], piece: InstanceRange) -> list[InstanceRange]:
    """Return the ranges with ``piece`` in place of the instances that it covers."""
    result = []
    for span in spans:
        if span.end <= piece.first or span.first >= piece.end:
            result.append(span)
            continue
        if span.first < piece.first:
            result.append(span.cut(span.first, piece.first))
        if span.first <= piece.first:
            result.append(piece)
        if span.end > piece.end:
            result.append(span.cut(piece.end, span.end))
    return result


def mark_tail(
    spans: Iterable[InstanceRange],
    count: int,
    mark: Callable[[InstanceRange], InstanceRange],
) -> list[InstanceRange]:
    """Return the ranges with ``mark`` applied to the last ``count`` live instances with machine."""
    result: list[InstanceRange] = []
    for span in reversed(list(spans)):
        split = span.end
        if span.live_with_machine:
            split = max(span.first, span.end - count)
        if split < span.end:
            result.append(mark(span.cut(split, span.end)))
            count -= span.end - split
        if span.first < split:
            result.append(span.cut(span.first, split))
    return result[::-1]


def drain(
    spans: Iterable[InstanceRange], *, now: float, drain_s: float, stuck: int
) -> list[InstanceRange]:
    """Give every instance without an ending one, as TerminateJob does.

    Waiting instances fail at once. Those with a machine stop one after the other over ``drain_s``,
    except the unkillable ones and the last ``stuck`` of the others.
    """
    before = list(spans)
    killable = [one for one in before if one.live_with_machine and not one.unkillable]
    stopping = sum(span.count for span in killable) - stuck
    step_s = drain_s / max(1, stopping)
    result: list[InstanceRange] = []
    rank = 0
    for span in before:
        if span.ending is not None or span.unkillable:
            result.append(span)
        elif span.state in WAITING:
            result.append(replace(span, ending=ExitSchedule("FAILED", now)))
        else:
            split = span.first + max(0, min(span.count, stopping - rank))
            ending = ExitSchedule("FAILED", now + step_s * (rank + 1), step_s)
            if split > span.first:
                result.append(replace(span.cut(span.first, split), ending=ending))
            if split < span.end:
                result.append(span.cut(split, span.end))
            rank += span.count
    return result
