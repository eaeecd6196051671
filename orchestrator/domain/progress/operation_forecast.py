"""When an operation is over, by counts of its jobs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.domain.forecasting.duration_distribution import learnt, middle_s
from orchestrator.domain.forecasting.forecast import Forecast, slower
from orchestrator.domain.forecasting.lognormal import P50, P90, LogNormal, first_s

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from orchestrator.domain.forecasting.duration_distribution import Durations


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One operation's jobs, as counts.

    ``to_call``: those that are queued or sending.  ``last_call_s``: seconds until the last of them
    is called: the calls up to it, those for other operations included, at the pace of calls.
    ``begins_at``: when the calls begin, if later than now (``not_before``); ``last_call_s`` counts
    from then on.
    ``stopped``: jobs that went down, by the bucket (``durations.bucket``) of the time from the
    acknowledgement until seen down; jobs of other operations too, where few are.
    ``draining``: those that drain and have no end in a forecast of their own, by the bucket of the
    time since their acknowledgement.  ``ending``: the forecasts of the others that drain; the 32
    with the latest p90 are enough.
    ``unknown``: those of which nobody knows when they end: they are held, late, or not read
    (``foretelling.nobody_knows``).  ``stalled``: those whose own forecast says so, which are not in
    ``draining``; ``last_progress_at``: when one of them last moved.
    ``stopped_in_window``: those seen down in the last ``lately_s`` seconds.
    ``settle_until``: when the last settle window that runs is over.  ``settle_s``: the longest one
    of those that are not down yet; None: all are.
    """

    to_call: int
    last_call_s: float
    begins_at: datetime | None = None
    stopped: Mapping[int, int]
    draining: Mapping[int, int]
    ending: Sequence[Forecast]
    unknown: int
    stalled: int
    last_progress_at: datetime | None
    stopped_in_window: int
    lately_s: float
    settle_until: datetime | None = None
    settle_s: float | None = None


def forecast(progress: Progress, now: datetime) -> Forecast:
    """The forecast of an operation: when the last of its jobs is over.

    None is told while jobs are unknown or stalled, nor once all are down.
    """
    begun = progress.to_call + sum(progress.draining.values())
    if progress.stalled and not (begun or progress.unknown or progress.ending):
        return Forecast(made_at=now, rate_per_s=0.0, stalled_since=progress.last_progress_at)
    rate_per_s = (
        progress.stopped_in_window / progress.lately_s if any(progress.stopped.values()) else None
    )
    result = Forecast(made_at=now, rate_per_s=rate_per_s)
    others = learnt(progress.stopped, progress.draining)
    nobody_knows = progress.unknown or progress.stalled or (begun and others is None)
    if nobody_knows or not (begun or progress.ending):
        return result
    begins_at = max(now, progress.begins_at or now)
    wait_s = (begins_at - now).total_seconds()
    spans = (_all_over_s(progress, others, now, wait_s, share) for share in (P50, P90))
    return replace(replace(result, made_at=begins_at).ending(LogNormal.of(*spans)), made_at=now)


def _all_over_s(
    progress: Progress, others: Durations | None, now: datetime, wait_s: float, share: float
) -> float:
    """In how many seconds after calls begin all jobs are over, with this probability."""
    lefts = [left for each in progress.ending if (left := each.as_of(now).left)]
    groups = list(_groups(progress, wait_s, share)) if others else []

    def all_over(seconds: float) -> bool:
        likely = math.prod(left.below(seconds) for left in lefts)
        for count, call_s in groups:
            if likely < share:
                break
            takes_s, passed_s = seconds - call_s, max(0.0, -call_s)
            longer = others.longer_than(takes_s, passed_s=passed_s) if others else 0.0
            likely *= (1 - longer) ** count
        return likely >= share

    return first_s(lambda seconds: all_over(wait_s + seconds))


def _groups(progress: Progress, wait_s: float, share: float) -> Iterator[tuple[int, float]]:
    """Jobs that are called together, and in how many seconds; less than 0: so long ago.

    The later a call, the likelier its job ends last: groups of 1, 1, 2, 4, 8 from the last one on.
    """
    after = 0
    while after < progress.to_call:
        count = min(max(1, after), progress.to_call - after)
        before = 1 - (after + (count - 1) / 2) / progress.to_call
        yield count, wait_s + progress.last_call_s * before * slower(share)
        after += count
    for index, count in progress.draining.items():
        yield count, -middle_s(index)
