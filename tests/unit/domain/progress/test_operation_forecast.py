"""When an operation is over."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.forecasting.duration_distribution import BUCKETS_S, bucket
from orchestrator.domain.forecasting.forecast import Forecast
from orchestrator.domain.progress.operation_forecast import Progress, forecast
from tests.unit.domain.build import NOW, later
from tests.unit.domain.forecasting.test_duration_distribution import counted
from tests.unit.domain.forecasting.test_forecast import ends_s

TENS = counted([10.0] * 100)
"""A hundred jobs that took 10 s to go down."""


def progress(**changes: Any) -> Progress:
    values: dict[str, Any] = {
        "to_call": 0,
        "last_call_s": 0.0,
        "stopped": {},
        "draining": {},
        "ending": (),
        "unknown": 0,
        "stalled": 0,
        "last_progress_at": None,
        "stopped_in_window": 0,
        "lately_s": 60.0,
    }
    return Progress(**(values | changes))


def own(p50_s: float, p90_s: float) -> Forecast:
    return Forecast(made_at=NOW, p50_at=later(p50_s), p90_at=later(p90_s))


def test_what_waits_in_the_queue_is_waited_for_first() -> None:
    """600 jobs at two calls a second, each down 10 s after its call."""
    told = forecast(
        progress(to_call=600, last_call_s=300.0, stopped=TENS, stopped_in_window=120), NOW
    )
    p50_s, p90_s = ends_s(told)
    assert p50_s == pytest.approx(311, abs=6)
    assert p50_s < p90_s < 1.2 * p50_s
    assert told.rate_per_s == 2.0


def test_the_more_drain_the_later_the_last_of_them_ends() -> None:
    takes = counted([10, 12, 15, 20, 30, 40] * 10)
    ends = [
        ends_s(forecast(progress(stopped=takes, draining={bucket(5): jobs}), NOW))[0]
        for jobs in (1, 10, 100)
    ]
    assert ends == sorted(ends)
    assert ends[0] < 20
    assert ends[2] > 35


def test_those_that_have_drained_for_longer_are_nearer_to_their_end() -> None:
    young, old = (
        ends_s(forecast(progress(stopped=TENS, draining={bucket(age): 20}), NOW))[0]
        for age in (1.5, 9.0)
    )
    assert young > old + 5


def test_one_that_ends_last_by_its_own_forecast_decides() -> None:
    ending = [own(50, 60)] * 20 + [own(1000, 1200)]
    told = forecast(progress(to_call=2, last_call_s=1.0, stopped=TENS, ending=ending), NOW)
    assert ends_s(told) == pytest.approx((1000, 1200), rel=0.01)


def test_own_forecasts_are_enough_where_no_job_is_down() -> None:
    told = forecast(progress(ending=[own(50, 60)]), NOW)
    assert ends_s(told) == pytest.approx((50, 60), rel=0.01)
    assert told.rate_per_s is None


def test_own_forecasts_that_have_passed_are_pushed_on() -> None:
    p50_s, _ = ends_s(forecast(progress(ending=[own(50, 60)]), later(100)))
    assert 100 < p50_s < 110


@pytest.mark.parametrize(
    "changes",
    [
        {"to_call": 5, "last_call_s": 2.5},
        {"draining": {3: 5}},
        {"stopped": TENS, "to_call": 5, "unknown": 1},
        {"stopped": TENS, "to_call": 5, "stalled": 1},
        {"ending": [own(50, 60)], "unknown": 1},
    ],
)
def test_no_end_is_told_where_nobody_knows_one(changes: dict[str, Any]) -> None:
    told = forecast(progress(**changes), NOW)
    assert (told.p50_at, told.p90_at, told.stalled_since) == (None, None, None)


def test_once_all_are_down_no_end_is_left_to_tell() -> None:
    told = forecast(progress(stopped=TENS, stopped_in_window=6), NOW)
    assert told == Forecast(made_at=NOW, rate_per_s=0.1)


def test_what_begins_later_begins_then_for_sure() -> None:
    """Only the calls from then on take longer or shorter."""
    waiting: dict[str, Any] = {"stopped": TENS, "to_call": 100, "last_call_s": 50.0}
    soon = forecast(progress(**waiting), NOW)
    for asked_at in (NOW, later(0.3)):
        told = forecast(progress(**waiting, begins_at=later(86400)), asked_at)
        assert told.made_at == asked_at
        assert ends_s(told) == pytest.approx([86400 + s for s in ends_s(soon)], abs=0.01)
    past = forecast(progress(**waiting, begins_at=NOW), later(5))
    assert ends_s(past) == pytest.approx([5 + s for s in ends_s(soon)])


def test_what_drains_while_others_begin_later_may_end_last() -> None:
    begins: dict[str, Any] = {"to_call": 1, "begins_at": later(60)}
    alone = ends_s(forecast(progress(stopped=TENS, **begins), NOW))
    assert alone == pytest.approx((70, 71), abs=1)
    both = ends_s(forecast(progress(stopped=TENS, ending=[own(500, 600)], **begins), NOW))
    assert both == pytest.approx((500, 600), rel=0.01)


def test_it_has_stalled_once_nothing_else_is_left() -> None:
    stuck: dict[str, Any] = {"stopped": TENS, "stalled": 2, "last_progress_at": NOW}
    told = forecast(progress(**stuck), later(500))
    assert told == Forecast(made_at=later(500), rate_per_s=0.0, stalled_since=NOW)
    for going in ({"to_call": 1}, {"unknown": 1}, {"draining": {3: 1}}, {"ending": [own(9, 9)]}):
        assert forecast(progress(**stuck, **going), later(500)).stalled_since is None


COUNTS = st.dictionaries(st.integers(0, len(BUCKETS_S) - 1), st.integers(1, 5000), max_size=30)


@given(COUNTS, COUNTS, st.integers(0, 10_000), st.floats(0.1, 100))
def test_whatever_is_counted_the_end_lies_ahead_and_later_with_more_calls(
    stopped: dict[int, int], draining: dict[int, int], to_call: int, calls_per_s: float
) -> None:
    ends = []
    for waiting in (to_call, to_call + 100):
        last_call_s = waiting / calls_per_s
        counts = progress(
            stopped=stopped, draining=draining, to_call=waiting, last_call_s=last_call_s
        )
        told = forecast(counts, NOW)
        if told.p50_at is None or told.p90_at is None:
            assert not stopped or not (draining or waiting)
            continue
        assert NOW <= told.p50_at <= told.p90_at
        ends.append(ends_s(told)[0])
    assert all(more >= fewer * 0.999 for fewer, more in pairwise(ends))
