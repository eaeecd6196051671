"""When jobs will be verified: their last instance stopped, and the settle window over as well.

It can come later: ``verified`` also waits for the machines to be gone.  No time that has passed is
told.
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
class Verification:
    """When the settle windows that run now are over, and when all is verified.

    ``p50_at`` and ``p90_at``: by then in half and in 90 % of all cases.  None where nothing honest
    can be said.
    """

    settle_until: datetime | None = None
    p50_at: datetime | None = None
    p90_at: datetime | None = None


def of_termination(
    termination: Termination, forecast: Forecast | None, now: datetime
) -> Verification:
    """``forecast``: when its instances are down."""
    settling = termination.state is State.SETTLING
    until = termination.settle_until if settling else None
    return _verification(until, None if settling else termination.settle_s, forecast, now)


def of_operation(progress: Progress, forecast: Forecast, now: datetime) -> Verification:
    """``forecast``: when the instances of all its jobs are down."""
    return _verification(progress.settle_until, progress.settle_s, forecast, now)


def _verification(
    settle_until: datetime | None, settle_s: float | None, forecast: Forecast | None, now: datetime
) -> Verification:
    """``settle_s``: the longest window of what is not down yet; None: all is down."""
    until = settle_until if settle_until and settle_until > now else None
    if settle_s is None:
        return Verification(settle_until=until, p50_at=until, p90_at=until)
    if forecast is None or forecast.p50_at is None or forecast.p90_at is None:
        return Verification(settle_until=until)
    p50_at, p90_at = (
        max(at + timedelta(seconds=settle_s), until or at)
        for at in (forecast.p50_at, forecast.p90_at)
    )
    return Verification(settle_until=until, p50_at=p50_at, p90_at=p90_at)
