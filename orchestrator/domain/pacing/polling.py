"""When to look again: often where an end is expected, seldom where none can be.

A sweep (DescribeJobs) reads 100 jobs for one call, so its price is per sweep, not per job: the
interval follows the rate at which jobs have been finishing.  A look at one job (DescribeJob) is
spent where the drain's own rate says that it should be over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from orchestrator.domain.model.lifecycle import State

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from orchestrator.domain.model.batch_job import InstanceCounters

SWEEP_DENSITY: Final = 1.0
"""Sweeps a second at one finish a second; they grow with the square root of the finishes, which
for a given number of sweeps gives the shortest wait over all jobs."""
FINISH_WINDOW_S: Final = 15.0
AGE_SHARE: Final = 0.02
"""A drain is looked at after this share of its age at most: long drains need fewer looks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PollPolicy:
    """Bounds of the intervals, in seconds."""

    sweep_min_s: float = 0.5
    sweep_max_s: float = 2.0
    drain_max_s: float = 15.0
    held_s: float = 2.0
    queued_s: float = 60.0
    settling_s: float = 5.0
    stopped_s: float = 60.0
    """Of jobs whose termination has ended, as long as they are watched for coming back."""
    relook_min_s: float = 0.5


def sweep_interval_s(policy: PollPolicy, *, finishes_in_window: int) -> float:
    """Seconds between sweeps of draining jobs, of which so many ended in FINISH_WINDOW_S."""
    finishes_per_s = (finishes_in_window + 0.5) / FINISH_WINDOW_S
    interval_s = 1 / (SWEEP_DENSITY * math.sqrt(finishes_per_s))
    return min(policy.sweep_max_s, max(policy.sweep_min_s, interval_s))


def sweep_due_at(
    policy: PollPolicy,
    planned: Sequence[tuple[State, datetime]],
    *,
    full: bool,
    proofs_wait: bool,
) -> datetime:
    """When to sweep the jobs of one call, each with its state and its planned look, soonest first.

    A settling job waits for a sweep that others need, so that the end of each settle window does
    not cost a call of its own.  While jobs that were seen finished wait for the quota of their
    proof (``proofs_wait``), finding more of them is in no hurry: the longest interval is doubled,
    and the caller asks again as soon as none waits.  A ``full`` call leaves once all of it is due:
    others stand behind it.
    """
    patient = (State.SETTLING, State.DRAINING) if proofs_wait else (State.SETTLING,)
    patience = timedelta(seconds=policy.sweep_max_s * (2 if proofs_wait else 1))
    due_at = min(
        next_poll_at + (patience if state in patient else timedelta())
        for state, next_poll_at in planned
    )
    return min(due_at, planned[-1][1]) if full else due_at


def drain_look_s(policy: PollPolicy, *, sweep_s: float, age_s: float) -> float:
    """Seconds until a draining job of this age is swept again."""
    return max(sweep_s, min(policy.drain_max_s, age_s * AGE_SHARE))


def relook_s(
    policy: PollPolicy,
    *,
    before: InstanceCounters | None,
    before_at: datetime | None,
    after: InstanceCounters,
    after_at: datetime,
) -> float:
    """Seconds until the counters of one job are worth reading again.

    From two readings: when the last live instance is expected down at the rate between them.
    From one, or when nothing moved: twice the shortest interval.
    """
    if before is None or before_at is None or before.live <= after.live:
        return 2 * policy.relook_min_s
    rate_per_s = (before.live - after.live) / max((after_at - before_at).total_seconds(), 1e-3)
    return min(policy.drain_max_s, max(policy.relook_min_s, after.live / rate_per_s))
