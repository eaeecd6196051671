"""Task instances as stretches of equal neighbours, so that their number costs nothing.

An instance is in one state until its ending, if it has one.  The endings of a stretch follow one
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
class Ending:
    """The instance at position p of its stretch ends in ``state`` at ``first_at + p * step_s``."""

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
class Stretch:
    """``count`` instances from index ``first`` on, counted over all tasks of the job."""

    first: int
    count: int
    state: str
    ending: Ending | None = None
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

    def cut(self, first: int, end: int) -> Stretch:
        """The part from index ``first`` up to ``end``, within this stretch."""
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
    stretch: Stretch

    @property
    def end(self) -> int:
        return self.first + self.count

    def within(self, first: int, end: int) -> Part:
        """What of this part lies between ``first`` and ``end``; its count may be 0."""
        start = max(self.first, first)
        return replace(self, first=start, count=max(0, min(self.end, end) - start))


def carve(stretches: Iterable[Stretch], piece: Stretch) -> list[Stretch]:
    """The same instances, with ``piece`` in place of those it covers."""
    carved = []
    for stretch in stretches:
        if stretch.end <= piece.first or stretch.first >= piece.end:
            carved.append(stretch)
            continue
        if stretch.first < piece.first:
            carved.append(stretch.cut(stretch.first, piece.first))
        if stretch.first <= piece.first:
            carved.append(piece)
        if stretch.end > piece.end:
            carved.append(stretch.cut(piece.end, stretch.end))
    return carved


def mark_last(
    stretches: Iterable[Stretch], count: int, mark: Callable[[Stretch], Stretch]
) -> list[Stretch]:
    """The same instances, the last ``count`` live ones with a machine changed by ``mark``."""
    after: list[Stretch] = []
    for stretch in reversed(list(stretches)):
        split = stretch.end
        if stretch.live_with_machine:
            split = max(stretch.first, stretch.end - count)
        if split < stretch.end:
            after.append(mark(stretch.cut(split, stretch.end)))
            count -= stretch.end - split
        if stretch.first < split:
            after.append(stretch.cut(stretch.first, split))
    return after[::-1]


def drain(stretches: Iterable[Stretch], *, now: float, drain_s: float, stuck: int) -> list[Stretch]:
    """Give every instance without an ending its own, as a TerminateJob does.

    Waiting instances fail at once.  Those with a machine go down one after the other over
    ``drain_s``; the immortal ones do not, nor do the last ``stuck`` of the others.
    """
    before = list(stretches)
    mortal = [one for one in before if one.live_with_machine and not one.immortal]
    going = sum(stretch.count for stretch in mortal) - stuck
    step_s = drain_s / max(1, going)
    after: list[Stretch] = []
    rank = 0
    for stretch in before:
        if stretch.ending is not None or stretch.immortal:
            after.append(stretch)
        elif stretch.state in WAITING:
            after.append(replace(stretch, ending=Ending("FAILED", now)))
        else:
            split = stretch.first + max(0, min(stretch.count, going - rank))
            ending = Ending("FAILED", now + step_s * (rank + 1), step_s)
            if split > stretch.first:
                after.append(replace(stretch.cut(stretch.first, split), ending=ending))
            if split < stretch.end:
                after.append(stretch.cut(split, stretch.end))
            rank += stretch.count
    return after
