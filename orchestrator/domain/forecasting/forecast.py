"""When a termination is over, by its own drain and by those of others.

Over means seen down; a settle window comes after it.  Where nothing honest can be said, nothing is,
and no time that has passed is told: what has not ended yet is asked for the rest that it takes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from orchestrator.domain.forecasting import drain_models
from orchestrator.domain.forecasting.lognormal import P50, P90, LogNormal

if TYPE_CHECKING:
    from orchestrator.domain.forecasting.drain_history import DrainHistory
    from orchestrator.domain.forecasting.duration_distribution import Durations

STALL_FACTOR: Final = 3.0
"""A drain has stalled once nothing moved for so many times as long as its pace suggests."""
STALL_FLOOR_S: Final = 60.0
"""But not before this."""
UNKNOWN_PACE_S: Final = 300.0
"""How long a first movement may well take where no job is known to be down."""
CALLS_SPREAD: Final = 0.08
"""How unsure the time is that calls take, as the standard deviation of its logarithm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What can be told at ``made_at``; the rest is None where nothing can.

    ``rate_per_s``: of a termination, instances that go down a second; of an operation, jobs.
    ``p50_at`` and ``p90_at``: it is over by then in half and in 90 % of all cases.
    ``stalled_since``: when something last moved, where that is far too long ago; the rate is then 0
    and no end is told.
    """

    made_at: datetime
    rate_per_s: float | None = None
    p50_at: datetime | None = None
    p90_at: datetime | None = None
    stalled_since: datetime | None = None

    @property
    def left(self) -> LogNormal | None:
        """How much longer it takes from ``made_at`` on."""
        if self.p50_at is None or self.p90_at is None:
            return None
        p50_s, p90_s = ((at - self.made_at).total_seconds() for at in (self.p50_at, self.p90_at))
        return LogNormal.of(p50_s, p90_s)

    def ending(self, left: LogNormal | None) -> Forecast:
        """The same forecast, with an end that takes so much longer."""
        if left is None:
            return self
        p50_at, p90_at = (
            self.made_at + timedelta(seconds=left.quantile_s(share)) for share in (P50, P90)
        )
        return replace(self, p50_at=p50_at, p90_at=p90_at)

    def as_of(self, now: datetime) -> Forecast:
        """What can be told ``now`` of what had not ended by then, with nothing new known."""
        passed_s = (now - self.made_at).total_seconds()
        return replace(self, made_at=now).ending(self.left and self.left.rest(passed_s))


def of_drain(history: DrainHistory, others: Durations | None, now: datetime) -> Forecast:
    """The forecast of a job that was called; ``others``: how long other drains took."""
    own = drain_models.rest(history)
    rate_per_s = history.rate_per_s if history.moved else None
    result = Forecast(made_at=now, rate_per_s=rate_per_s)
    if not history.live:
        return replace(result, p50_at=now, p90_at=now)
    if _stalled(history, own, others):
        return stalled(history, now)
    left = others.rest(history.last_progress_at - history.began_at) if others else None
    left = own.blended(left) if own and left else own or left
    return result.ending(left and left.rest(now.timestamp() - history.last_progress_at))


def stalled(history: DrainHistory, now: datetime) -> Forecast:
    """The forecast of a job of which nothing goes down any more."""
    last_progress_at = datetime.fromtimestamp(history.last_progress_at, UTC)
    return Forecast(made_at=now, rate_per_s=0.0, stalled_since=last_progress_at)


def of_queued(call_s: float, others: Durations | None, now: datetime) -> Forecast:
    """The forecast of a job that is called in so many seconds: its turn, or its ``not_before``."""
    result = Forecast(made_at=now)
    if others is None:
        return result
    takes = others.rest(0.0)
    ends_s = (call_s * slower(share) + takes.quantile_s(share) for share in (P50, P90))
    return result.ending(LogNormal.of(*ends_s))


def _stalled(history: DrainHistory, own: LogNormal | None, others: Durations | None) -> bool:
    """Whether looks showed nothing move for too long; that nobody looked says nothing.

    The pace: the longest pause so far, or the time that the next of those left may well take.
    """
    if own is not None:
        pace_s = max(history.pause_s, own.quantile_s(P90) / history.live)
    else:
        pace_s = others.rest(0.0).quantile_s(P90) if others else UNKNOWN_PACE_S
    return history.seen_at - history.last_progress_at > max(STALL_FLOOR_S, STALL_FACTOR * pace_s)


def slower(share: float) -> float:
    """How many times as long calls take at most, in this share of all cases."""
    return LogNormal(median_s=1.0, spread=CALLS_SPREAD).quantile_s(share)
