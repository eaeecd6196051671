"""Jobs that are revived after they were verified, with all the faults that a seed picks."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.simulation.faults import FaultInjection
from tests.simulation.network import REGIONS
from tests.simulation.world import HASTY, REPLICAS, make_template, simulate

if TYPE_CHECKING:
    from pathlib import Path

    from tests.simulation.world import SimulatedWorld

SEEDS: Final = 20
LATEST_S: Final = 8.0
"""Time from the stop of a job to its revival."""
RETERMINATE_MAX: Final = 1
ENGINE: Final[dict[str, Any]] = HASTY | {
    "revival_watch_s": 60.0,
    "reterminate_max": RETERMINATE_MAX,
    "poll": HASTY["poll"] | {"stopped_interval_s": 1.0},
}


async def with_revivals(world: SimulatedWorld) -> None:
    """Two operations, one with ``reterminate_for_s``, of jobs that are revived twice."""
    for place in range(REPLICAS):
        world.start(place)
    async with asyncio.TaskGroup() as group:
        for region, reterminate_for_s in zip(REGIONS, (None, 60.0), strict=True):
            after_s = [1.2, LATEST_S]
            job = {"count": 3, "drain_s": [0.2, 1], "revive_after_s": after_s, "revivals": 2}
            jobs = world.clouds[f"{region}.cloud"].add_groups([job | {"region": region}])
            asked = world.client.submit(
                jobs, region, key=region, reterminate_for_s=reterminate_for_s
            )
            group.create_task(asked)
        await FaultInjection(world).run()
        world.end_faults()
    await asyncio.sleep(LATEST_S)
    await world.end()
    for row in world.checkers.rows(
        "SELECT t.job_id, count(*) AS n FROM operations o"
        " JOIN operation_terminations l ON l.operation_id = o.id"
        " JOIN terminations t ON t.id = l.termination_id"
        " WHERE o.reterminates_for IS NOT NULL GROUP BY t.job_id"
    ):
        world.fired["terminated again"] += 1
        if row["n"] > RETERMINATE_MAX:
            world.checkers.violated("cap", f"{row['job_id']} was terminated again {row['n']} x")


@pytest.mark.thorough
@pytest.mark.timeout(180)
def test_every_revival_is_recorded_and_terminated_again_where_asked(tmp_path: Path) -> None:
    make_template(tmp_path / "template.db")
    fired: Counter[str] = Counter()
    for seed in range(1, SEEDS + 1):
        result = simulate(
            seed, tmp_path / "template.db", tmp_path / "run", engine=ENGINE, run=with_revivals
        )
        assert result.violations == [], f"seed {seed}"
        fired += result.fired
    assert fired["event: revived"] > 4 * SEEDS
    assert fired["terminated again"] > SEEDS
    assert fired["a partition passed on"] > SEEDS / 2
