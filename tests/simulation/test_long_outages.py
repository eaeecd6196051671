"""Ten minutes of one fault of the cloud, on virtual time; then all jobs end as they must."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest

from orchestrator.simulator.traffic.fault_injection import Fault, Rule
from tests.simulation.network import REGIONS
from tests.simulation.world import make_template, simulate

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.composition import Replica
    from tests.simulation.world import SimulatedWorld

MINUTES: Final = 10
JOBS: Final = 8
ENDS_WITHIN_S: Final = 150.0
"""Time after the fault: a job that failed so often is tried again after a minute at most."""
NETWORK: Final = ("away", "lost_request", "lost_answer", "silent")
TROUBLE: Final = (*NETWORK, *(f for f in Fault if f not in (Fault.THROTTLE, Fault.CHARSET)))
"""Faults that degrade the health: the others are answers."""
OF_ONE_JOB: Final = (Fault.NOT_FOUND, Fault.FORBIDDEN)
"""Answers about one job: they end its termination after a while, as they should."""
OBJECTS_MORE: Final = 1.2
"""Limit of the growth of live objects since the second to fourth minutes."""


@pytest.mark.thorough
@pytest.mark.timeout(120)
@pytest.mark.parametrize("fault", [*(f for f in Fault if f not in OF_ONE_JOB), *NETWORK])
def test_the_daemon_is_ready_all_the_time_and_works_again_by_itself(
    tmp_path: Path, fault: str
) -> None:
    statuses: Counter[str] = Counter()

    async def outage(world: SimulatedWorld) -> None:
        world.start(0)
        await asyncio.sleep(1.0)
        cloud = world.clouds[f"{REGIONS[0]}.cloud"]
        jobs = cloud.add_groups([{"count": JOBS, "instances": 5, "drain_s": [1, 8]}])
        await world.client.submit(jobs, REGIONS[0], give_up_after_s=7200.0)
        await asyncio.sleep(4.0)
        if fault in NETWORK:
            setattr(world.network.faults, fault, 1.0)
        else:
            rule = Rule(Fault(fault), 1.0)
            cloud.faults.replace({"*": [rule]}, now=cloud.now())
        alive = []
        for _ in range(MINUTES):
            await asyncio.sleep(60.0)
            life = world.lives[0]
            assert life.made is not None
            statuses[await world.loop.spawn(life.name, status(life.made))] += 1
            gc.collect()
            # The cloud's log is not the engine's.
            alive.append(len(gc.get_objects()) - calls(world))
        # Between two steps there are fewer objects than in one; leaked ones are there in both.
        assert min(alive[-3:]) < OBJECTS_MORE * min(alive[1:4]), alive
        world.network.faults = type(world.network.faults)()
        cloud.faults.replace({}, now=cloud.now())
        await world.end(ENDS_WITHIN_S)

    make_template(tmp_path / "template.db")
    result = simulate(1, tmp_path / "template.db", tmp_path / "run", run=outage)
    assert result.violations == []
    assert statuses.total() == MINUTES
    # A job recorded as stopped by then is no longer called.
    assert fault not in TROUBLE or statuses["degraded"]


async def status(replica: Replica) -> str:
    return str((await replica.context.ready())["status"])


def calls(world: SimulatedWorld) -> int:
    return sum(len(cloud.calls) for cloud in world.clouds.values())
