"""The soak itself: it runs, and reports growth and stopped loops."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.simulation import soak
from tests.simulation.soak import Hour, Soak, not_level
from tests.simulation.world import REPLICAS, make_template, simulate

if TYPE_CHECKING:
    from pathlib import Path

LEVEL = Hour(
    number=1,
    in_flight=10,
    ended=5,
    calls={"TerminateJob": 5, "DescribeJobs": 9, "DescribeJob": 9},
    tasks=40,
    connections=8,
    descriptors=20,
    objects=1000,
    resident_mb=100.0,
    database_mb=1.0,
    live_replicas=REPLICAS,
)


def test_equal_hours_are_level_whatever_the_database_keeps() -> None:
    hours = [LEVEL, LEVEL, replace(LEVEL, objects=1049, database_mb=9.0)]
    assert not_level(hours, jobs=10) == []


@pytest.mark.parametrize("name", ["tasks", "connections", "descriptors", "objects", "resident_mb"])
def test_growth_is_reported(name: str) -> None:
    first = getattr(LEVEL, name)
    grown: dict[str, Any] = {name: first * 1.06}
    (found,) = not_level([LEVEL, LEVEL, replace(LEVEL, **grown)], jobs=10)
    assert found.startswith(f"{name} went from {first} to ")


@pytest.mark.parametrize(
    "change",
    [
        {"calls": {"TerminateJob": 5, "DescribeJobs": 9}},
        {"live_replicas": REPLICAS - 1},
        {"in_flight": 9},
        {"ended": 0},
    ],
)
def test_a_stopped_loop_is_reported(change: dict[str, Any]) -> None:
    (found,) = not_level([LEVEL, replace(LEVEL, **change), LEVEL], jobs=10)
    assert found.startswith("not all works: hour 1")


@pytest.mark.thorough
def test_a_short_one_runs_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "HOUR_S", 240.0)
    made = Soak(2, jobs=20)
    make_template(tmp_path / "template.db")
    result = simulate(
        1,
        tmp_path / "template.db",
        tmp_path / "run",
        impatient=False,
        engine=soak.ENGINE,
        quotas=soak.QUOTAS,
        run=made.run,
    )
    assert result.violations == []
    assert [hour.number for hour in made.measured] == [1, 2]
    for hour in made.measured:
        assert set(hour.calls) >= set(soak.ACTIONS)
        assert hour.ended > 0
        assert (hour.live_replicas, hour.in_flight >= 20) == (REPLICAS, True)
