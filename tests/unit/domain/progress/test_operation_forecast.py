"""Forecast of the end of an operation."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.forecasting.duration_distribution import BUCKETS_S, bucket
from orchestrator.domain.forecasting.forecast import Forecast
from orchestrator.domain.progress.operation_forecast import forecast
from tests.unit.domain.build import NOW, later
from tests.unit.domain.drains import counted, ends_s, own, progress

TENS = counted([10.0] * 100)
"""A hundred jobs that took 10 s to stop."""


def moving(*forecasts: Forecast, age_s: float = 10.0) -> dict[str, Any]:
    """Return draining jobs of this age that have a forecast of their own."""
    index = bucket(age_s)
    return {
        "draining": {index: len(forecasts)},
        "ending": [(index, each) for each in forecasts],
    }


def test_the_forecast_includes_the_queue() -> None:
    """600 jobs at two calls per second, each stopped 10 s after its call."""
    result = forecast(
        progress(pending=600, last_dispatch_s=300.0, stopped=TENS, stopped_in_window=120), NOW
    )
    p50_s, p90_s = ends_s(result)
    assert p50_s == pytest.approx(311, abs=6)
    assert p50_s < p90_s < 1.2 * p50_s
    assert result.rate_per_s == 2.0


def test_the_more_drain_the_later_the_last_of_them_ends() -> None:
    takes = counted([10, 12, 15, 20, 30, 40] * 10)
    ends = [
        ends_s(forecast(progress(stopped=takes, draining={bucket(5): jobs}), NOW))[0]
        for jobs in (1, 10, 100)
    ]
    assert ends == sorted(ends)
    assert ends[0] < 20
    assert ends[2] > 35


def test_older_drains_are_nearer_to_their_end() -> None:
    young, old = (
        ends_s(forecast(progress(stopped=TENS, draining={bucket(age): 20}), NOW))[0]
        for age in (1.5, 9.0)
    )
    assert young > old + 5


def test_the_latest_own_forecast_decides() -> None:
    ending = moving(*[own(50, 60)] * 20, own(1000, 1200))
    result = forecast(progress(pending=2, last_dispatch_s=1.0, stopped=TENS, **ending), NOW)
    assert ends_s(result) == pytest.approx((1000, 1200), rel=0.01)


def test_a_wide_forecast_of_its_own_yields_to_the_drains_of_others() -> None:
    """30 jobs that have hardly moved yet; the others took 10 s."""
    wide = moving(*[own(20, 200)] * 30, age_s=1.0)
    by_age = progress(stopped=TENS, draining=wide["draining"])
    assert ends_s(forecast(progress(stopped=TENS, **wide), NOW)) == ends_s(forecast(by_age, NOW))
    alone_s, _ = ends_s(forecast(progress(**wide), NOW))
    assert alone_s > 200


def test_own_forecasts_are_enough_where_no_job_has_stopped() -> None:
    result = forecast(progress(**moving(own(50, 60))), NOW)
    assert ends_s(result) == pytest.approx((50, 60), rel=0.01)
    assert result.rate_per_s is None


def test_own_forecasts_that_have_passed_are_pushed_on() -> None:
    p50_s, _ = ends_s(forecast(progress(**moving(own(50, 60))), later(100)))
    assert 100 < p50_s < 110


@pytest.mark.parametrize(
    "changes",
    [
        {"pending": 5, "last_dispatch_s": 2.5},
        {"draining": {3: 5}},
        {"stopped": TENS, "pending": 5, "unknown": 1},
        {"stopped": TENS, "pending": 5, "stalled": 1},
        moving(own(50, 60)) | {"unknown": 1},
        moving(own(50, 60)) | {"draining": {bucket(10.0): 2}},
    ],
)
def test_no_end_is_forecast_where_it_is_unknown(changes: dict[str, Any]) -> None:
    result = forecast(progress(**changes), NOW)
    assert (result.p50_at, result.p90_at, result.stalled_since) == (None, None, None)


def test_once_all_have_stopped_there_is_no_end_to_forecast() -> None:
    result = forecast(progress(stopped=TENS, stopped_in_window=6), NOW)
    assert result == Forecast(made_at=NOW, rate_per_s=0.1)


def test_a_later_start_is_part_of_the_forecast() -> None:
    """Only the time of the calls from then on is uncertain."""
    waiting: dict[str, Any] = {"stopped": TENS, "pending": 100, "last_dispatch_s": 50.0}
    soon = forecast(progress(**waiting), NOW)
    for asked_at in (NOW, later(0.3)):
        result = forecast(progress(**waiting, begins_at=later(86400)), asked_at)
        assert result.made_at == asked_at
        assert ends_s(result) == pytest.approx([86400 + s for s in ends_s(soon)], abs=0.01)
    past = forecast(progress(**waiting, begins_at=NOW), later(5))
    assert ends_s(past) == pytest.approx([5 + s for s in ends_s(soon)])


def test_a_running_drain_may_end_after_one_with_a_later_start() -> None:
    begins: dict[str, Any] = {"pending": 1, "begins_at": later(60)}
    alone = ends_s(forecast(progress(stopped=TENS, **begins), NOW))
    assert alone == pytest.approx((70, 71), abs=1)
    both = ends_s(forecast(progress(stopped=TENS, **moving(own(500, 600)), **begins), NOW))
    assert both == pytest.approx((500, 600), rel=0.01)


def test_it_has_stalled_once_nothing_else_is_left() -> None:
    stuck: dict[str, Any] = {"stopped": TENS, "stalled": 2, "last_progress_at": NOW}
    result = forecast(progress(**stuck), later(500))
    assert result == Forecast(made_at=later(500), rate_per_s=0.0, stalled_since=NOW)
    for going in ({"pending": 1}, {"unknown": 1}, {"draining": {3: 1}}):
        assert forecast(progress(**stuck, **going), later(500)).stalled_since is None


COUNTS = st.dictionaries(st.integers(0, len(BUCKETS_S) - 1), st.integers(1, 5000), max_size=30)


@given(COUNTS, COUNTS, st.integers(0, 10_000), st.floats(0.1, 100))
def test_for_any_counts_the_end_lies_ahead_and_later_with_more_calls(
    stopped: dict[int, int], draining: dict[int, int], pending: int, calls_per_s: float
) -> None:
    ends = []
    for waiting in (pending, pending + 100):
        last_dispatch_s = waiting / calls_per_s
        counts = progress(
            stopped=stopped, draining=draining, pending=waiting, last_dispatch_s=last_dispatch_s
        )
        result = forecast(counts, NOW)
        if result.p50_at is None or result.p90_at is None:
            assert not stopped or not (draining or waiting)
            continue
        assert NOW <= result.p50_at <= result.p90_at
        ends.append(ends_s(result)[0])
    assert all(more >= fewer * 0.999 for fewer, more in pairwise(ends))
