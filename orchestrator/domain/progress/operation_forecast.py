"""Forecast of the end of an operation, from counts of its jobs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.domain.forecasting.duration_distribution import kaplan_meier, middle_s
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
    ``draining``: draining jobs without an end in a forecast of their own, by the bucket of the time
    since the acknowledgement. ``ending``: the forecasts of the other draining jobs; the 32 with the
    latest p90 are enough.
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
    ending: Sequence[Forecast]
    unknown: int
    stalled: int
    last_progress_at: datetime | None
    stopped_in_window: int
    window_s: float
    settle_until: datetime | None = None
    settle_s: float | None = None


def forecast(progress: Progress, now: datetime) -> Forecast:
    """Return the forecast of an operation: when its last job has stopped.

    It has no end while jobs are unknown or stalled, nor once all have stopped.
    """
    begun = progress.pending + sum(progress.draining.values())
    if progress.stalled and not (begun or progress.unknown or progress.ending):
        return Forecast(made_at=now, rate_per_s=0.0, stalled_since=progress.last_progress_at)
    rate_per_s = (
        progress.stopped_in_window / progress.window_s if any(progress.stopped.values()) else None
    )
    result = Forecast(made_at=now, rate_per_s=rate_per_s)
    others = kaplan_meier(progress.stopped, progress.draining)
    end_unknown = progress.unknown or progress.stalled or (begun and others is None)
    if end_unknown or not (begun or progress.ending):
        return result
    begins_at = max(now, progress.begins_at or now)
    wait_s = (begins_at - now).total_seconds()
    ends_s = (_all_stopped_s(progress, others, now, wait_s, share) for share in (P50, P90))
    return replace(replace(result, made_at=begins_at).ending(LogNormal.of(*ends_s)), made_at=now)


def _all_stopped_s(
    progress: Progress, others: Durations | None, now: datetime, wait_s: float, share: float
) -> float:
    """Return the time from the begin of the calls until all jobs have stopped, at this quantile."""
    remaining = [left for each in progress.ending if (left := each.as_of(now).left)]
    groups = list(_groups(progress, wait_s, share)) if others else []

    def all_stopped(seconds: float) -> bool:
        probability = math.prod(left.below(seconds) for left in remaining)
        for count, call_s in groups:
            if probability < share:
                break
            takes_s, passed_s = seconds - call_s, max(0.0, -call_s)
            longer = others.longer_than(takes_s, passed_s=passed_s) if others else 0.0
            probability *= (1 - longer) ** count
        return probability >= share

    return first_s(lambda seconds: all_stopped(wait_s + seconds))


def _groups(progress: Progress, wait_s: float, share: float) -> Iterator[tuple[int, float]]:
    """Yield groups of jobs: their number, and the seconds until their TerminateJob call.

    The seconds are negative for calls in the past. The later the call, the more likely the job is
    the last one to stop: the groups have 1, 1, 2, 4, 8 jobs from the last call backwards.
    """
    after = 0
    while after < progress.pending:
        count = min(max(1, after), progress.pending - after)
        before = 1 - (after + (count - 1) / 2) / progress.pending
        yield count, wait_s + progress.last_dispatch_s * before * slower(share)
        after += count
    for index, count in progress.draining.items():
        yield count, -middle_s(index)
