"""``python -m tests.simulation.soak``: hours with many terminations in flight, on virtual time.

Most jobs drain for longer than the run takes; some are added and end all the time.  What must stay
level is measured every hour: memory, objects, database connections and file descriptors, tasks, and
the work of each loop.  The checkers of the simulation run all the while.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from tests.simulation.network import REGIONS
from tests.simulation.world import REPLICAS, make_template, simulate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.simulation.world import SimulatedWorld

HOUR_S: Final = 3600.0
EVERY_S: Final = 60.0
COMING: Final = 10
"""Jobs added every minute, which end within a minute or two."""
DAYS_S: Final = 10 * 86400.0
GROWTH_MAX: Final = 1.05
"""Limit of an hour's figure above the second hour's."""
ENGINE: Final = {
    "escalation": {"rounds_max": 0},
    "give_up_after_s": 2 * DAYS_S,
    "settle_s": 30.0,
    "poll": {"batch_max_interval_s": 30.0, "drain_max_interval_s": 300.0},
}
QUOTAS: Final = {"TerminateJob": 2, "DescribeJob": 1, "DescribeJobs": 2, "DescribeTask": 1}
"""Few polls, so that the simulated hours take little time."""
ACTIONS: Final = ("TerminateJob", "DescribeJobs", "DescribeJob")
REGION: Final = REGIONS[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    number: int
    in_flight: int
    ended: int
    """Terminations of the hour that ended verified."""
    calls: dict[str, int]
    """Calls of the hour, by action."""
    tasks: int
    connections: int
    descriptors: int
    objects: int
    """Objects, without those of the simulated cloud's log."""
    resident_mb: float
    database_mb: float
    live_replicas: int

    def __str__(self) -> str:
        calls = " ".join(f"{action} {self.calls.get(action, 0)}" for action in ACTIONS)
        return (
            f"hour {self.number}: {self.in_flight} in flight, {self.ended} verified, {calls}, "
            f"{self.tasks} tasks, {self.connections} connections, {self.descriptors} descriptors, "
            f"{self.objects} objects, {self.resident_mb:.1f} MB, database {self.database_mb:.1f} MB"
        )


def not_level(hours: Sequence[Hour], *, jobs: int) -> list[str]:
    """Return what has grown since the second hour, and what no longer works.

    In the first hour the added jobs wait in the queue behind the many.
    """
    found = []
    for name in ("tasks", "connections", "descriptors", "objects", "resident_mb"):
        first, last = getattr(hours[1], name), getattr(hours[-1], name)
        if last > GROWTH_MAX * first:
            found.append(f"{name} went from {first} to {last}")
    for hour in hours[1:]:
        idle = [action for action in ACTIONS if not hour.calls.get(action)]
        if idle or hour.live_replicas != REPLICAS or hour.in_flight < jobs or not hour.ended:
            found.append(f"not all works: {hour}, live replicas: {hour.live_replicas}")
    return found


class Soak:
    def __init__(self, hours: int, jobs: int) -> None:
        self._hours, self._jobs = hours, jobs
        self.measured: list[Hour] = []

    async def run(self, world: SimulatedWorld) -> None:
        for place in range(REPLICAS):
            world.start(place)
        await asyncio.sleep(5.0)
        drains = {"count": self._jobs, "instances": 20, "drain_s": [DAYS_S / 2, DAYS_S]}
        await self._submit(world, drains)
        for number in range(1, self._hours + 1):
            for _ in range(round(HOUR_S / EVERY_S)):
                await self._submit(world, {"count": COMING, "instances": 3, "drain_s": [1, 40]})
                await asyncio.sleep(EVERY_S)
            self.measured.append(self._measure(world, number))
            print(self.measured[-1], flush=True)
            self._forget(world)
        for life in world.lives.values():
            life.stop.set()
        tasks = [life.task for life in world.lives.values() if life.task is not None]
        _, late = await asyncio.wait(tasks, timeout=15.0)
        if late:
            world.checkers.violated("stop", f"{len(late)} replicas did not stop")

    async def _submit(self, world: SimulatedWorld, group: dict[str, object]) -> None:
        jobs = world.clouds[f"{REGION}.cloud"].add_groups([group | {"region": REGION}])
        await world.client.submit(jobs, REGION)

    def _measure(self, world: SimulatedWorld, number: int) -> Hour:
        ((in_flight, ended),) = world.checkers.rows(
            "SELECT count(*) FILTER (WHERE finished_at IS NULL),"
            " count(*) FILTER (WHERE state = 'verified') FROM terminations"
        )
        cloud = world.clouds[f"{REGION}.cloud"]
        gc.collect()
        return Hour(
            number=number,
            in_flight=in_flight,
            ended=ended - self._ended_before(),
            calls=Counter(call.action for call in cloud.calls),
            tasks=len(asyncio.all_tasks()),
            connections=sum(
                len(world.sqlite.connections_of(life.name)) for life in world.lives.values()
            ),
            descriptors=len(list(Path("/proc/self/fd").iterdir())),
            objects=len(gc.get_objects()) - len(cloud.calls),
            resident_mb=_resident_mb(),
            database_mb=world.path.stat().st_size / 2**20,
            live_replicas=len(world.checkers.rows("SELECT 1 FROM replicas")),
        )

    def _ended_before(self) -> int:
        return sum(hour.ended for hour in self.measured)

    def _forget(self, world: SimulatedWorld) -> None:
        """Clear what only a simulation keeps: the cloud's log, and its jobs that have ended."""
        world.checkers.forget_calls()
        world.client.acknowledged.clear()
        jobs = world.clouds[f"{REGION}.cloud"]._jobs
        for row in world.checkers.rows(
            "SELECT job_id FROM terminations WHERE finished_at IS NOT NULL"
        ):
            jobs.pop(row["job_id"], None)


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.soak")
    parser.add_argument("--hours", type=int, default=24, help="three at least")
    parser.add_argument("--jobs", type=int, default=10_000)
    given = parser.parse_args()
    soak = Soak(given.hours, given.jobs)
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        folder = Path(name)
        make_template(folder / "template.db")
        result = simulate(
            1,
            folder / "template.db",
            folder / "run",
            max_turns=10**12,
            impatient=False,
            engine=ENGINE,
            quotas=QUOTAS,
            run=soak.run,
        )
    found = [*result.violations, *not_level(soak.measured, jobs=given.jobs)]
    print(*found, sep="\n")
    print(f"{given.hours} hours, {result.turns} turns, {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
