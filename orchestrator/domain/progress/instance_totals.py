"""Totals of an operation's task instances: live, stopped, or not counted.

An instance is stopped once a count showed it as stopped, and live until then, independently of the
state of its termination: a job that the cloud refuses to terminate continues to run. A count of
zero live instances is used only once it proves the job stopped (evidence 3).
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
    """Terminations that are equal in everything by which their instances are counted.

    ``seen``: whether a poll ever showed the job. ``revived``: whether the job was revived after its
    termination had ended. ``live``: the instances that the last counts, or captures, showed live;
    None without a count. ``total``: the number of instances. If one job of a group has no live
    instance, none of them has.
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
    """Remainder of jobs whose terminations have ended.

    ``jobs_live`` of them have ``live`` live instances; ``jobs_not_counted`` have no valid count.
    """

    jobs_live: int = 0
    live: int = 0
    jobs_not_counted: int = 0


@dataclass(slots=True)
class Tally:
    """Task instances of an operation.

    ``total`` is larger than ``live`` plus ``stopped`` if the count of a job is no longer valid.
    Such a job is part of ``jobs_not_counted``, as are jobs that were never counted.
    """

    total: int = 0
    live: int = 0
    stopped: int = 0
    jobs_not_counted: int = 0
    left_by_final_state: dict[State, Left] = field(default_factory=dict)

    def add(self, group: InstanceGroup) -> None:
        valid, total = _has_valid_count(group), group.total or 0
        live = (group.live or 0) if valid else 0
        uncounted = 0 if valid or _never_existed(group) else group.jobs
        self.total += total
        self.live += live
        self.stopped += total - live if valid else 0
        self.jobs_not_counted += uncounted
        if group.state.final and (live or uncounted):
            left = self.left_by_final_state.setdefault(group.state, Left())
            left.live += live
            left.jobs_live += group.jobs if live else 0
            left.jobs_not_counted += uncounted


def _has_valid_count(group: InstanceGroup) -> bool:
    """Return whether the last counts still say how many instances are live."""
    if group.live is None or group.revived:
        return False
    return group.live > 0 or group.evidence >= NO_INSTANCE_LIVE


def _never_existed(group: InstanceGroup) -> bool:
    """Return whether the cloud never knew the job, so that it has no instances to count."""
    return group.state is State.NOT_FOUND and not group.seen


def tally(groups: Iterable[InstanceGroup]) -> Tally:
    """Return the sums over all terminations of an operation."""
    summed = Tally()
    for group in groups:
        summed.add(group)
    return summed
