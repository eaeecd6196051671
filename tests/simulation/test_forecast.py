"""The accuracy of forecasts, on drains that no constant was fitted to."""

from __future__ import annotations

from functools import cache

import pytest

from tests.simulation import whole_operations
from tests.simulation.forecast import DRAINS, FAMILIES, OTHERS, ErrorRow, Miss, measure

SEEDS = range(DRAINS)


@cache
def misses(name: str) -> list[Miss]:
    return measure(name, seeds=SEEDS)[0]


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_of_500_drains_p90_covers_85_to_95_per_cent_and_p50_is_less_than_20_off() -> None:
    row = ErrorRow.of([miss for name in FAMILIES for miss in misses(name)])
    assert row.drains == 500
    assert row.on_target, row
    assert row.made > 99, row


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_is_sane(name: str) -> None:
    row = ErrorRow.of(misses(name))
    assert row.drains == DRAINS
    assert 75 <= row.within_p90 < 100, row
    assert row.off < 35, row


@pytest.mark.parametrize("name", OTHERS)
def test_so_are_drains_of_other_kinds(name: str) -> None:
    row = ErrorRow.of(measure(name, seeds=range(40))[0])
    assert 70 <= row.within_p90 < 100, row
    assert row.off < 40, row


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_of_200_operations_p50_is_right_in_the_median_and_p90_covers_80_to_97_per_cent() -> None:
    """From the time at which a tenth of the jobs has stopped, for nearly all of them."""
    outcomes = whole_operations.measure(range(whole_operations.OPERATIONS))
    for name in (whole_operations.TENTH, whole_operations.AFTER):
        figures = whole_operations.Figures.of(outcomes[name])
        assert figures.on_target, (name, figures)
        assert figures.known > 85, (name, figures)


def test_operations_of_a_few_seeds_are_sane() -> None:
    outcomes = whole_operations.measure(range(30))
    for name, each in outcomes.items():
        figures = whole_operations.Figures.of(each)
        assert 0.67 <= figures.median <= 1.5, (name, figures)
        assert figures.within_p90 >= 65, (name, figures)
