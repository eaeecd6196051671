"""Histories of drains, durations and forecasts, as tests make and read them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from orchestrator.domain.forecasting.drain_history import DrainHistory, begin, observe
from orchestrator.domain.forecasting.duration_distribution import bucket
from orchestrator.domain.forecasting.forecast import Forecast
from orchestrator.domain.progress.operation_forecast import Progress
from tests.unit.domain.build import NOW, later

if TYPE_CHECKING:
    from collections.abc import Iterable


POLLS = st.lists(st.tuples(st.floats(0.01, 1000), st.integers(0, 100_000)), max_size=60)


def history_of(*polls: tuple[float, int]) -> DrainHistory:
    """Return a history of polls at these seconds; the first is the acknowledgement."""
    (began, live), *rest = polls
    history = begin(later(began), live)
    for at, live in rest:
        history = observe(history, later(at), live)
    return history


def counted(durations_s: Iterable[float]) -> Counter[int]:
    return Counter(bucket(duration_s) for duration_s in durations_s)


def ends_s(forecast: Forecast) -> tuple[float, float]:
    """Return p50 and p90, in seconds from the acknowledgement."""
    assert forecast.p50_at is not None
    assert forecast.p90_at is not None
    return (forecast.p50_at - NOW).total_seconds(), (forecast.p90_at - NOW).total_seconds()


def progress(**changes: Any) -> Progress:
    values: dict[str, Any] = {
        "pending": 0,
        "last_dispatch_s": 0.0,
        "stopped": {},
        "draining": {},
        "ending": (),
        "unknown": 0,
        "stalled": 0,
        "last_progress_at": None,
        "stopped_in_window": 0,
        "window_s": 60.0,
    }
    return Progress(**(values | changes))


def own(p50_s: float, p90_s: float) -> Forecast:
    return Forecast(made_at=NOW, p50_at=later(p50_s), p90_at=later(p90_s))
