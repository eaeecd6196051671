"""Forecast of the end of an operation, from counts of its jobs."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.domain.forecasting.duration_distribution import estimate, middle_s
from orchestrator.domain.forecasting.forecast import Forecast, slower
from orchestrator.domain.forecasting.lognormal import P50, P90, LogNormal, first_s

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from orchestrator.domain.forecasting.duration_distribution import Durations


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Jobs of one operation, as counts.

    ``pending``: jobs that are queued or sending. ``last_dispatch_s``: seconds until TerminateJob is
    sent for the last of them, at the present rate and with the requests of other operations in
    between. ``begins_at``: when these calls begin, if later than now
    (``not_before``); ``last_dispatch_s`` counts from then on.
    ``stopped``: jobs that have stopped, by the bucket (``duration_distribution.bucket``) of the
    time from the acknowledgement until they were observed as stopped. It includes jobs of other
    operations if this one has few.
    ``draining``: draining jobs that have not stalled, by the bucket of the time since the
    acknowledgement. ``ending``: of those that have a forecast of their own, that bucket and the
    forecast; those with the latest p90 are enough.
    ``unknown``: jobs with an unknown end: held, late, or not read (the rule is in
    ``progress.termination_forecast``). ``stalled``: jobs whose own forecast is stalled; they are
    not in ``draining``. ``last_progress_at``: the last progress of any of them.
    ``stopped_in_window``: jobs observed as stopped in the last ``window_s`` seconds.
    ``settle_until``: the end of the last settle window that runs. ``settle_s``: the longest settle
    window of the jobs that have not stopped yet; None if all have.
    """

    pending: int
    last_dispatch_s: float
    begins_at: datetime | None = None
    stopped: Mapping[int, int]
    draining: Mapping[int, int]
    ending: Sequence[tuple[int, Forecast]]
    unknown: int
    stalled: int
    last_progress_at: datetime | None
    stopped_in_window: int
    window_s: float
    settle_until: datetime | None = None
    settle_s: float | None = None


def forecast(progress: Progress, now: datetime) -> Forecast:
    """Return the forecast of an operation: when its last job has stopped.

    It has no end while jobs are unknown or stalled, nor once all have stopped. Before a first job
    has stopped, it has one only if each job that has not stopped has a forecast of its own.
    """
    draining = sum(progress.draining.values())
    if progress.stalled and not (progress.pending or draining or progress.unknown):
        return Forecast(made_at=now, rate_per_s=0.0, stalled_since=progress.last_progress_at)
    rate_per_s = (
        progress.stopped_in_window / progress.window_s if any(progress.stopped.values()) else None
    )
    result = Forecast(made_at=now, rate_per_s=rate_per_s)
    durations = estimate(progress.stopped, progress.draining)
    no_estimate = durations is None and (progress.pending or draining > len(progress.ending))
    if progress.unknown or progress.stalled or no_estimate or not (progress.pending or draining):
        return result
    begins_at = max(now, progress.begins_at or now)
    wait_s = (begins_at - now).total_seconds()
    ends_s = (_all_stopped_s(progress, durations, now, wait_s, share) for share in (P50, P90))
    return replace(replace(result, made_at=begins_at).ending(LogNormal.of(*ends_s)), made_at=now)


def _all_stopped_s(
    progress: Progress, durations: Durations | None, now: datetime, wait_s: float, share: float
) -> float:
    """Return the time from the begin of the calls until all jobs have stopped, at this quantile."""
    own, others = _by_own_forecast(progress, durations, now)
    groups = [*_pending_groups(progress, wait_s, share)]
    groups += [(jobs, -middle_s(index)) for index, jobs in others.items() if jobs > 0]

    def all_stopped(seconds: float) -> bool:
        probability = math.prod(left.below(seconds) for left in own)
        if durations and probability >= share:
            probability *= durations.all_ended(
                [(jobs, seconds - call_s, max(0.0, -call_s)) for jobs, call_s in groups]
            )
        return probability >= share

    return first_s(lambda seconds: all_stopped(wait_s + seconds))


def _by_own_forecast(
    progress: Progress, durations: Durations | None, now: datetime
) -> tuple[list[LogNormal], Counter[int]]:
    """Return the remaining time of draining jobs by their own forecasts, and the others by age.

    Of the job's own forecast and that from other drains, the narrower one is used. Early in a
    drain its own forecast is so wide that the latest of many such ends would be far too late.
    """
    own, others = [], Counter(progress.draining)
    for index, forecast_of_job in progress.ending:
        left = forecast_of_job.as_of(now).left
        if left and (durations is None or left.spread < durations.rest(middle_s(index)).spread):
            own.append(left)
            others[index] -= 1
    return own, others


def _pending_groups(progress: Progress, wait_s: float, share: float) -> Iterator[tuple[int, float]]:
    """Yield groups of pending jobs: their number, and the seconds until their TerminateJob call.

    The later the call, the more likely the job is the last one to stop: the groups have 1, 1, 2, 4,
    8 jobs from the last call backwards.
    """
    after = 0
    while after < progress.pending:
        count = min(max(1, after), progress.pending - after)
        before = 1 - (after + (count - 1) / 2) / progress.pending
        yield count, wait_s + progress.last_dispatch_s * before * slower(share)
        after += count
