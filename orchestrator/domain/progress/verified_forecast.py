"""Forecast of verification: the time at which the last instance stops, plus the settle window.

Verification can be later, because it also waits until the machines are gone. No time in the past is
returned.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from orchestrator.domain.model.lifecycle import State

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.forecasting.forecast import Forecast
    from orchestrator.domain.model.termination import Termination
    from orchestrator.domain.progress.operation_forecast import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedForecast:
    """End of the settle windows that run now, and the time at which everything is verified.

    ``p50_at`` and ``p90_at``: verified by then with 50 % and 90 % probability; None if no forecast
    is possible.
    """

    settle_until: datetime | None = None
    p50_at: datetime | None = None
    p90_at: datetime | None = None


def of_termination(
    termination: Termination, forecast: Forecast | None, now: datetime
) -> VerifiedForecast:
    """Return when a termination is verified; ``forecast``: when its instances have stopped."""
    settling = termination.state is State.SETTLING
    until = termination.schedule.settle_until if settling else None
    return _verification(until, None if settling else termination.request.settle_s, forecast, now)


def of_operation(progress: Progress, forecast: Forecast, now: datetime) -> VerifiedForecast:
    """Return when an operation is verified; ``forecast``: when all its instances have stopped."""
    return _verification(progress.settle_until, progress.settle_s, forecast, now)


def _verification(
    settle_until: datetime | None, settle_s: float | None, forecast: Forecast | None, now: datetime
) -> VerifiedForecast:
    """Return the verification time.

    ``settle_s``: the longest settle window of what has not stopped yet; None if all has stopped.
    """
    until = settle_until if settle_until and settle_until > now else None
    if settle_s is None:
        return VerifiedForecast(settle_until=until, p50_at=until, p90_at=until)
    if forecast is None or forecast.p50_at is None or forecast.p90_at is None:
        return VerifiedForecast(settle_until=until)
    p50_at, p90_at = (
        max(at + timedelta(seconds=settle_s), until or at)
        for at in (forecast.p50_at, forecast.p90_at)
    )
    return VerifiedForecast(settle_until=until, p50_at=p50_at, p90_at=p90_at)
