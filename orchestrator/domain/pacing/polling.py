"""Intervals between polls: short when an end is expected, long when none is possible.

A batch poll (DescribeJobs) reads 100 jobs with one call, so its cost is per poll, not per job: the
interval follows the rate at which jobs have finished recently. DescribeJob reads one job; while
a job drains, it is called for when the rate of the drain says that the drain should be over.
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

BATCH_POLL_DENSITY: Final = 1.0
"""Batch polls per second at one finished job per second.

The number grows with the square root of the finished jobs: for a given number of polls, this
minimizes the total wait of all jobs.
"""
FINISH_WINDOW_S: Final = 15.0
AGE_SHARE: Final = 0.02
"""The interval grows with the drain's age by this share: long drains need fewer polls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PollPolicy:
    """Bounds of the poll intervals, in seconds."""

    batch_min_interval_s: float = 0.5
    batch_max_interval_s: float = 2.0
    drain_max_interval_s: float = 15.0
    held_interval_s: float = 2.0
    queued_interval_s: float = 60.0
    settling_interval_s: float = 5.0
    stopped_interval_s: float = 60.0
    """For jobs whose termination has ended, while they are watched for a revival."""
    recount_min_interval_s: float = 0.5


def batch_poll_interval_s(policy: PollPolicy, *, finishes_in_window: int) -> float:
    """Return the seconds between batch polls of draining jobs.

    ``finishes_in_window``: how many of them finished in the last FINISH_WINDOW_S.
    """
    finishes_per_s = (finishes_in_window + 0.5) / FINISH_WINDOW_S
    interval_s = 1 / (BATCH_POLL_DENSITY * math.sqrt(finishes_per_s))
    return min(policy.batch_max_interval_s, max(policy.batch_min_interval_s, interval_s))


def batch_due_at(
    policy: PollPolicy,
    planned: Sequence[tuple[State, datetime]],
    *,
    full: bool,
    proofs_wait: bool,
) -> datetime:
    """Return when to send the DescribeJobs call that reads these jobs.

    ``planned``: state and planned poll of each job, the earliest first. A settling job waits up to
    ``batch_max_interval_s`` for a poll that other jobs need, so that the end of each settle window
    does not cost a call of its own.

    ``proofs_wait``: jobs that read finished wait for the quota of their proof. Finding more of them
    is not urgent then: draining and settling jobs wait for twice ``batch_max_interval_s``, and the
    caller asks again as soon as no proof waits.

    ``full``: the call holds as many jobs as possible and others wait behind it, so it is sent once
    all of its jobs are due.
    """
    patient = (State.SETTLING, State.DRAINING) if proofs_wait else (State.SETTLING,)
    patience = timedelta(seconds=policy.batch_max_interval_s * (2 if proofs_wait else 1))
    due_at = min(
        next_poll_at + (patience if state in patient else timedelta())
        for state, next_poll_at in planned
    )
    return min(due_at, planned[-1][1]) if full else due_at


def drain_poll_s(policy: PollPolicy, *, batch_interval_s: float, age_s: float) -> float:
    """Return the seconds until a draining job of this age is polled again by DescribeJobs."""
    return max(batch_interval_s, min(policy.drain_max_interval_s, age_s * AGE_SHARE))


def recount_after_s(
    policy: PollPolicy,
    *,
    before: InstanceCounters | None,
    before_at: datetime | None,
    after: InstanceCounters,
    after_at: datetime,
) -> float:
    """Return the seconds until the instance counters of one job should be read again.

    With two reads: when the last live instance should have stopped, at the rate between them.
    With one read, or without progress between them: twice the shortest interval.
    """
    if before is None or before_at is None or before.live <= after.live:
        return 2 * policy.recount_min_interval_s
    rate_per_s = (before.live - after.live) / max((after_at - before_at).total_seconds(), 1e-3)
    return min(
        policy.drain_max_interval_s, max(policy.recount_min_interval_s, after.live / rate_per_s)
    )
