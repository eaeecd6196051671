"""Forecast of the end of a termination, from its own drain and from those of other jobs.

The end is the time at which all instances have stopped, before the settle window. The forecast has
no end if none can be predicted, and never an end in the past: for a drain that has not ended yet,
the remaining time is predicted.
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
"""A drain has stalled after a pause of this many times the pause that its pace suggests."""
STALL_FLOOR_S: Final = 60.0
"""Minimum pause of a stalled drain."""
UNKNOWN_PACE_S: Final = 300.0
"""Assumed time until the first instance stops, if no job has stopped yet."""
CALLS_SPREAD: Final = 0.08
"""Uncertainty of the time that calls take: the standard deviation of its logarithm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Forecast made at ``made_at``; values that cannot be predicted are None.

    ``rate_per_s``: instances of a termination, or jobs of an operation, that stop per second.
    ``p50_at`` and ``p90_at``: ended by then with 50 % and 90 % probability. ``stalled_since``: the
    last progress, if it was too long ago; the rate is then 0 and there is no end.
    """

    made_at: datetime
    rate_per_s: float | None = None
    p50_at: datetime | None = None
    p90_at: datetime | None = None
    stalled_since: datetime | None = None

    @property
    def left(self) -> LogNormal | None:
        """Remaining time from ``made_at`` on."""
        if self.p50_at is None or self.p90_at is None:
            return None
        p50_s, p90_s = ((at - self.made_at).total_seconds() for at in (self.p50_at, self.p90_at))
        return LogNormal.of(p50_s, p90_s)

    def ending(self, left: LogNormal | None) -> Forecast:
        """Return the same forecast with an end after the remaining time ``left``."""
        if left is None:
            return self
        p50_at, p90_at = (
            self.made_at + timedelta(seconds=left.quantile_s(share)) for share in (P50, P90)
        )
        return replace(self, p50_at=p50_at, p90_at=p90_at)

    def as_of(self, now: datetime) -> Forecast:
        """Return the forecast at ``now``, given that it has not ended and without new polls."""
        passed_s = (now - self.made_at).total_seconds()
        return replace(self, made_at=now).ending(self.left and self.left.rest(passed_s))


def of_drain(history: DrainHistory, others: Durations | None, now: datetime) -> Forecast:
    """Return the forecast of a draining job; ``others``: the durations of other drains."""
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
    """Return the forecast of a job whose instances have ceased to stop."""
    last_progress_at = datetime.fromtimestamp(history.last_progress_at, UTC)
    return Forecast(made_at=now, rate_per_s=0.0, stalled_since=last_progress_at)


def of_queued(call_s: float, others: Durations | None, now: datetime) -> Forecast:
    """Return the forecast of a queued job.

    ``call_s``: seconds until its TerminateJob call: until its turn, or its ``not_before``.
    """
    result = Forecast(made_at=now)
    if others is None:
        return result
    duration = others.rest(0.0)
    ends_s = (call_s * slower(share) + duration.quantile_s(share) for share in (P50, P90))
    return result.ending(LogNormal.of(*ends_s))


def _stalled(history: DrainHistory, own: LogNormal | None, others: Durations | None) -> bool:
    """Return whether polls showed no progress for too long; time without polls does not count.

    The pace is the longest pause so far, or the time that the next live instance may take.
    """
    if own is not None:
        pace_s = max(history.pause_s, own.quantile_s(P90) / history.live)
    else:
        pace_s = others.rest(0.0).quantile_s(P90) if others else UNKNOWN_PACE_S
    return history.seen_at - history.last_progress_at > max(STALL_FLOOR_S, STALL_FACTOR * pace_s)


def slower(share: float) -> float:
    """Return the factor by which calls take longer than expected, at this quantile."""
    return LogNormal(median_s=1.0, spread=CALLS_SPREAD).quantile_s(share)
