"""What counts as live, as down, or as not counted in the sums of an operation's instances.

An instance is down once a count showed it so, and live until then, whatever became of its
termination: a job that the cloud refuses to terminate runs on.  A job whose count says that none is
live counts only once that proves it down (evidence 3).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.domain.decisions.evidence import NO_INSTANCE_LIVE
from orchestrator.domain.model.lifecycle import State

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceGroup:
    """Terminations that are alike in what their instances are judged by.

    ``seen``: whether a poll ever showed the job.  ``revived``: it came back after its end.
    ``live``: how many instances their last counts, or captures, showed live; None: no such count.
    ``total``: how many there were.  Where one of a group has none live, none has.
    """

    state: State
    evidence: int
    seen: bool
    revived: bool
    jobs: int
    total: int | None
    live: int | None


@dataclass(slots=True)
class Left:
    """What is left of jobs whose terminations have ended: ``live`` instances of ``jobs_live``."""

    jobs_live: int = 0
    live: int = 0
    jobs_not_counted: int = 0


@dataclass(slots=True)
class Tally:
    """Task instances of an operation.

    ``total`` is more than ``live`` and ``stopped`` together where a count does not hold any more: such
    a job is one of ``jobs_not_counted``, with those that were never counted.
    """

    total: int = 0
    live: int = 0
    stopped: int = 0
    jobs_not_counted: int = 0
    left_by_final_state: dict[State, Left] = field(default_factory=dict)

    def add(self, group: InstanceGroup) -> None:
        holds, total = _holds(group), group.total or 0
        live = (group.live or 0) if holds else 0
        uncounted = 0 if holds or _nothing_there(group) else group.jobs
        self.total += total
        self.live += live
        self.stopped += total - live if holds else 0
        self.jobs_not_counted += uncounted
        if group.state.final and (live or uncounted):
            left = self.left_by_final_state.setdefault(group.state, Left())
            left.live += live
            left.jobs_live += group.jobs if live else 0
            left.jobs_not_counted += uncounted


def _holds(group: InstanceGroup) -> bool:
    """Whether the last counts say how many are live now, as far as anybody has seen."""
    if group.live is None or group.revived:
        return False
    return group.live > 0 or group.evidence >= NO_INSTANCE_LIVE


def _nothing_there(group: InstanceGroup) -> bool:
    """Whether the cloud never knew the job: it has no instance to count."""
    return group.state is State.NOT_FOUND and not group.seen


def tally(groups: Iterable[InstanceGroup]) -> Tally:
    """The sums over all terminations of an operation."""
    summed = Tally()
    for group in groups:
        summed.add(group)
    return summed
