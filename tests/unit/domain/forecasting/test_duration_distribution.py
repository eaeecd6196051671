"""Distribution of drain durations, from the jobs that have stopped."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.forecasting.duration_distribution import (
    BUCKETS_S,
    bucket,
    estimate,
    middle_s,
)
from tests.unit.domain.drains import counted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.domain.forecasting.duration_distribution import Durations

COUNTS = st.dictionaries(st.integers(0, len(BUCKETS_S) - 1), st.integers(0, 5000), max_size=30)


def known(stopped: Iterable[float], draining: Iterable[float] = ()) -> Durations:
    durations = estimate(counted(stopped), counted(draining))
    assert durations is not None
    return durations


def test_every_duration_has_a_bucket() -> None:
    assert [bucket(at) for at in (0, 0.99, 1, 1.18, 1.19, 2)] == [0, 0, 1, 1, 2, 5]
    assert bucket(BUCKETS_S[-1]) == bucket(1e9) == len(BUCKETS_S) - 1
    for index in range(len(BUCKETS_S)):
        assert bucket(middle_s(index)) == index


@pytest.mark.parametrize("stopped", [{}, {3: 0}])
def test_where_no_job_has_stopped_nothing_is_known(stopped: dict[int, int]) -> None:
    assert estimate(stopped, {10: 5}) is None


def test_many_stopped_jobs_predict_how_long_the_next_takes() -> None:
    random = Random(1)
    durations = known(random.lognormvariate(4, 0.5) for _ in range(2000))
    assert durations.rest(0).quantile_s(0.5) == pytest.approx(54.6, rel=0.1)
    assert durations.rest(0).quantile_s(0.9) == pytest.approx(103.6, rel=0.1)


def test_one_stopped_job_predicts_less_than_many() -> None:
    one, many = known([60]).rest(0), known([60] * 1000).rest(0)
    assert one.median_s == pytest.approx(many.median_s, rel=0.3)
    assert one.spread > 3 * many.spread


def test_drains_longer_than_any_bucket_are_known_to_be_long() -> None:
    assert known([1e6]).rest(0).median_s > 1e5
    assert known([1e6]).one.below(BUCKETS_S[-1]) == pytest.approx(0.5, abs=0.1)


def test_long_drains_lower_the_weight_of_quick_ones() -> None:
    """One call per second and equal drains: the first jobs to stop are the quick ones."""
    random = Random(2)
    takes_s = [random.lognormvariate(5, 0.7) for _ in range(200)]
    stopped = [took_s for age, took_s in enumerate(takes_s) if took_s <= age]
    draining = [age for age, took_s in enumerate(takes_s) if took_s > age]
    assert known(stopped).rest(0).median_s < 0.8 * 148
    assert known(stopped, draining).rest(0).median_s == pytest.approx(148, rel=0.15)


def test_a_drain_longer_than_all_others_takes_a_while_yet() -> None:
    durations = known([50, 60, 70])
    rest = [durations.rest(passed_s).median_s for passed_s in (0, 200, 2000, 1e6)]
    assert rest[1] > 1
    assert rest[1:] == sorted(rest[1:])


def test_a_median_that_is_uncertain_moves_all_drains_together() -> None:
    """Independently, 100 drains would hardly ever all end within the time of one in 20."""
    durations = known([60])
    late_s = durations.one.quantile_s(0.95)
    assert durations.all_ended([(1, late_s, 0)]) == pytest.approx(0.95, abs=0.03)
    assert durations.all_ended([(100, late_s, 0)]) > 0.3
    assert durations.all_ended([(1, late_s, 0), (99, late_s, 0)]) == pytest.approx(
        durations.all_ended([(100, late_s, 0)])
    )


def test_many_drains_are_not_taken_for_certainty() -> None:
    """The next drains need not be like those before, however many those were."""
    drains = [20, 60, 60, 180]
    some, many = known(drains * 25), known(drains * 2500)
    assert len(many.fits) == len(some.fits) > 1
    assert many.one.spread == pytest.approx(some.one.spread)


@given(COUNTS, COUNTS, st.floats(0, 1e6), st.lists(st.floats(0.01, 1e7), min_size=2, max_size=20))
def test_the_longer_it_takes_the_likelier_it_has_ended(
    stopped: dict[int, int], draining: dict[int, int], passed_s: float, more_s: list[float]
) -> None:
    durations = estimate(stopped, draining)
    if durations is None:
        assert not any(stopped.values())
        return
    assert sum(share for share, _ in durations.fits) == pytest.approx(1)
    ended = [
        durations.all_ended([(3, passed_s + more, passed_s)]) for more in (0.0, *sorted(more_s))
    ]
    assert ended[0] == pytest.approx(0, abs=1e-9)
    for fewer, more in pairwise(ended):
        assert fewer - 1e-9 <= more <= 1 + 1e-9
    rest = durations.rest(passed_s)
    assert 0 < rest.quantile_s(0.5) <= rest.quantile_s(0.9)
