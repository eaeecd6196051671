"""Forecast of the end of one termination."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.forecasting.drain_history import DrainHistory, begin, observe
from orchestrator.domain.forecasting.duration_distribution import bucket, estimate
from orchestrator.domain.forecasting.forecast import (
    STALL_FACTOR,
    STALL_FLOOR_S,
    UNKNOWN_PACE_S,
    Forecast,
    of_drain,
    of_queued,
)
from orchestrator.domain.forecasting.lognormal import LogNormal
from tests.unit.domain.build import NOW, later
from tests.unit.domain.drains import POLLS, ends_s, history_of

if TYPE_CHECKING:
    from orchestrator.domain.forecasting.duration_distribution import Durations


def others(*takes_s: float) -> Durations:
    durations = estimate(Counter(bucket(each) for each in takes_s), {})
    assert durations is not None
    return durations


def even(until_s: int, *, instances: int = 1000, drain_s: int = 100) -> DrainHistory:
    """Return a history with one poll per second; the instances stop one after the other."""
    live = (instances - instances * second // drain_s for second in range(until_s + 1))
    return history_of(*enumerate(live))


@pytest.mark.parametrize("until_s", [10, 25, 50, 90])
def test_an_even_drain_continues_at_its_rate(until_s: int) -> None:
    forecast = of_drain(even(until_s), None, later(until_s))
    p50_s, p90_s = ends_s(forecast)
    assert p50_s == pytest.approx(100, abs=0.1 * (100 - until_s))
    assert p50_s + 0.2 * (100 - until_s) < p90_s < 100 + 0.5 * (100 - until_s)
    assert forecast.rate_per_s == pytest.approx(10, rel=0.1)
    assert forecast.stalled_since is None


def test_a_drain_that_slows_down_is_not_taken_for_an_even_one() -> None:
    """The live instances halve every 20 s; the last one stops after about 200 s."""
    polls = [(second, math.ceil(1000 * 2 ** (-second / 20))) for second in range(0, 61, 2)]
    p50_s, p90_s = ends_s(of_drain(history_of(*polls), None, later(60)))
    assert 130 < p50_s < 260
    assert p90_s > 200


def test_batches_are_forecast_by_their_distance() -> None:
    polls = [(second, 100 - 10 * (second // 30)) for second in range(0, 125, 5)]
    p50_s, p90_s = ends_s(of_drain(history_of(*polls), None, later(120)))
    assert p50_s == pytest.approx(300, rel=0.15)
    assert p90_s < 450


def test_instances_that_fail_at_once_do_not_set_the_rate() -> None:
    """8000 of 10000 instances were waiting for a machine; the others take 400 s."""
    polls = [(second, 2000 - 5 * second) for second in range(2, 102, 2)]
    p50_s, _ = ends_s(of_drain(history_of((0, 10_000), *polls), None, later(100)))
    assert p50_s == pytest.approx(400, rel=0.15)


def test_there_is_no_forecast_without_progress_and_without_past_jobs() -> None:
    assert of_drain(history_of((0, 10), (20, 10)), None, later(20)) == Forecast(made_at=later(20))


def test_past_jobs_give_the_forecast_before_any_progress() -> None:
    p50_s, p90_s = ends_s(of_drain(history_of((0, 10), (20, 10)), others(*[100] * 50), later(20)))
    assert p50_s == pytest.approx(100, rel=0.2)
    assert p50_s <= p90_s


def test_others_count_for_less_the_more_is_seen_of_the_drain_itself() -> None:
    """The drain takes 100 s; others took 40 to 1000 s, mostly 400."""
    known = others(40, 200, 300, 400, 400, 500, 600, 1000)
    ends = [ends_s(of_drain(even(until_s), known, later(until_s)))[0] for until_s in (1, 20, 60)]
    alone_s = ends_s(of_drain(even(1), None, later(1)))[0]
    assert ends[0] > max(1.2 * alone_s, ends[1])
    assert ends[2] == pytest.approx(100, rel=0.1)


def test_a_job_that_waits_for_its_call_is_over_that_much_later() -> None:
    known = others(*[60] * 50)
    now_s, _ = ends_s(of_queued(0, known, NOW))
    waits_s, p90_s = ends_s(of_queued(300, known, NOW))
    assert waits_s - now_s == pytest.approx(300, abs=0.1)
    assert p90_s > waits_s + 20
    assert of_queued(300, None, NOW) == Forecast(made_at=NOW)


def test_once_all_have_stopped_the_drain_has_ended() -> None:
    assert ends_s(of_drain(history_of((0, 10), (5, 0)), None, later(6))) == (6, 6)


# --- elapsed time --------------------------------------------------------------------------------


def test_an_end_that_has_passed_is_moved_into_the_future() -> None:
    forecast = of_drain(even(50), None, later(50))
    pushed = [ends_s(forecast.as_of(later(at)))[0] for at in (50, 80, 100, 120, 200, 5000)]
    assert pushed == sorted(pushed)
    assert pushed[0] == pytest.approx(ends_s(forecast)[0], abs=0.1)
    assert pushed[2] > 101
    assert pushed[-1] > 5000
    assert Forecast(made_at=NOW).as_of(later(5)) == Forecast(made_at=later(5))


def test_a_moved_forecast_equals_one_made_later_of_the_same_polls() -> None:
    history = even(50)
    made_later = of_drain(history, None, later(95))
    pushed = of_drain(history, None, later(50)).as_of(later(95))
    assert ends_s(pushed) == pytest.approx(ends_s(made_later), rel=0.02)


@given(st.floats(0.01, 1e6), st.floats(0.01, 3), st.lists(st.floats(0, 1e6), min_size=2))
def test_the_longer_it_takes_the_later_it_ends(
    median_s: float, spread: float, passed_s: list[float]
) -> None:
    duration = LogNormal(median_s=median_s, spread=spread)
    ends = [
        (passed + rest.quantile_s(0.5), passed + rest.quantile_s(0.9))
        for passed in sorted(passed_s)
        for rest in [duration.rest(passed)]
    ]
    for passed, (p50_s, p90_s) in zip(sorted(passed_s), ends, strict=True):
        assert passed <= p50_s <= p90_s
    for before, after in pairwise(ends):
        assert after[0] >= before[0] * (1 - 1e-6)


@given(POLLS, st.floats(0, 1e5), st.none() | st.lists(st.floats(0.1, 1e5), min_size=1))
def test_for_any_history_the_end_lies_ahead_or_is_unknown(
    polls: list[tuple[float, int]], since_s: float, takes_s: list[float] | None
) -> None:
    history, at = begin(NOW, 50_000), 0.0
    for wait_s, live in polls:
        at += wait_s
        history = observe(history, later(at), live)
    now = later(at + since_s)
    forecast = of_drain(history, others(*takes_s) if takes_s else None, now)
    if forecast.p50_at is None or forecast.p90_at is None:
        assert forecast.p50_at is forecast.p90_at is None
        assert forecast.stalled_since or not (history.moved or takes_s)
    else:
        assert now <= forecast.p50_at <= forecast.p90_at
        assert forecast.stalled_since is None
    if forecast.stalled_since:
        assert forecast.rate_per_s == 0
        assert forecast.stalled_since <= later(at)


# --- stalled -------------------------------------------------------------------------------------


def stalled_since(history: DrainHistory, known: Durations | None = None) -> datetime | None:
    """Return since when it has stalled, as of the last poll."""
    now = datetime.fromtimestamp(history.seen_at, UTC)
    forecast = of_drain(history, known, now)
    if forecast.stalled_since:
        assert (forecast.rate_per_s, forecast.p50_at, forecast.p90_at) == (0, None, None)
    return forecast.stalled_since


def test_a_quick_drain_has_stalled_after_the_floor_and_not_before() -> None:
    history = even(50)
    assert stalled_since(observe(history, later(50 + STALL_FLOOR_S), 500)) is None
    assert stalled_since(observe(history, later(51 + STALL_FLOOR_S), 500)) == later(50)


def test_a_pause_as_long_as_those_before_is_no_stall() -> None:
    """Instances stop in batches, every 100 s."""
    history = history_of((0, 100), (100, 80), (200, 60))
    assert stalled_since(observe(history, later(195 + STALL_FACTOR * 100), 60)) is None
    assert stalled_since(observe(history, later(500 + STALL_FACTOR * 100), 60)) == later(200)


def test_the_last_one_may_take_longer_than_any_before() -> None:
    polls = [(second, math.ceil(1000 * 2 ** (-second / 60))) for second in range(0, 541, 10)]
    history = history_of(*polls, (600, 1))
    assert stalled_since(observe(history, later(760), 1)) is None
    assert stalled_since(observe(history, later(5000), 1)) == later(600)


def test_before_a_first_movement_others_say_how_long_is_too_long() -> None:
    at_s = STALL_FACTOR * UNKNOWN_PACE_S
    assert stalled_since(history_of((0, 10), (at_s, 10))) is None
    assert stalled_since(history_of((0, 10), (at_s + 1, 10))) == NOW
    assert stalled_since(history_of((0, 10), (at_s, 10)), others(*[30] * 20)) == NOW
    assert stalled_since(history_of((0, 10), (at_s + 1, 10)), others(*[1000] * 20)) is None


def test_time_without_polls_is_no_stall() -> None:
    forecast = of_drain(even(50), None, later(5000))
    assert forecast.stalled_since is None
    assert ends_s(forecast)[0] > 5000


def test_progress_ends_a_stall() -> None:
    history = observe(even(50), later(500), 500)
    assert stalled_since(history) is not None
    assert stalled_since(observe(history, later(501), 480)) is None
