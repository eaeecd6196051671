"""The database's clock steps for some seconds and is corrected: nothing ends early, or late."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.simulation.faults import HOUR_S
from tests.simulation.network import REGIONS
from tests.simulation.world import make_template, simulate

if TYPE_CHECKING:
    from pathlib import Path

    from tests.simulation.world import SimulatedWorld

STEP_S: Final = 8 * HOUR_S
CALLS_PASS_S: Final = 240.0
"""Calls are signed by the database's clock: the cloud refuses those that are five minutes off."""
GIVE_UP_AFTER_S: Final = 120.0
KINDS: Final[tuple[dict[str, Any], ...]] = (
    {"drain_s": 0.2},
    {"drain_s": 9},
    {"drain_s": 1, "revive_after_s": 2},
    {"stuck": 1, "drain_s": 1, "instance_drain_s": 1},
    {"state": "SUBMITTED", "submitted_s": 3, "drain_s": 1},
)
ENDS_WITHIN_S: Final = 30.0


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clock") / "template.db"
    make_template(path)
    return path


@pytest.mark.parametrize(
    ("steps_s", "apart_s"),
    [
        ([STEP_S, 0], 3.0),
        ([-STEP_S, 0], 3.0),
        ([CALLS_PASS_S, 0], 3.0),
        ([-CALLS_PASS_S, 0], 3.0),
        ([-CALLS_PASS_S, 0], 0.5),
        ([-STEP_S, -60, 0], 3.0),
        ([STEP_S, -STEP_S, 0], 3.0),
    ],
    ids=str,
)
def test_jobs_submitted_before_and_between_steps_are_verified_in_time(
    template: Path, tmp_path: Path, steps_s: list[float], apart_s: float
) -> None:
    async def stepping(world: SimulatedWorld) -> None:
        world.replicas = 1
        world.start(0)
        await asyncio.sleep(1.0)
        for number, ahead_s in enumerate((0, *steps_s)):
            world.wall.ahead_s = ahead_s
            jobs = world.clouds[f"{REGIONS[0]}.cloud"].add_groups(
                [{"instances": 3, "prefix": f"x{number}{n}"} | k for n, k in enumerate(KINDS)]
            )
            await world.client.submit(
                jobs, REGIONS[0], key=str(number), give_up_after_s=GIVE_UP_AFTER_S
            )
            await asyncio.sleep(apart_s)
        await world.end(ENDS_WITHIN_S)

    result = simulate(1, template, tmp_path / "run", run=stepping)
    assert result.violations == []
    verified = sum(n for how, n in result.fired.items() if how.startswith("ended verified"))
    assert verified == len(KINDS) * (1 + len(steps_s))
