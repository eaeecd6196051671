"""``python -m tests.simulation.kinds --seeds 1000``: every kind of job, ended and checked.

A kind is a name and the ``[[jobs]]`` table of a scenario (``simulator.cloud.job_spec`` has what
each field means).  Most shapes and courses exist twice, for the vendor documents two lifetimes: on
machines of a job's own, and on the nodes of a compute environment, which outlive it.
``tests.simulation.truth`` computes what is true of each and what could be known.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from orchestrator.engine.runtime import loop
from orchestrator.simulator.traffic.quota import LOWEST_DOCUMENTED
from tests.simulation.faults import FaultInjection
from tests.simulation.network import CALL_TIMEOUT_S, REGIONS
from tests.simulation.truth import DECEIVED, EXACTLY, JUDGED, Bounds, Truth
from tests.simulation.world import HASTY, REPLICAS, SOON_S, make_template, simulate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.simulation.world import Result, SimulatedWorld

Table = dict[str, Any]

NEVER_S: Final = 1e6
"""A time that no run reaches."""
SETTLE_S: Final = 4.0
GIVE_UP_AFTER_S: Final = 40.0
OWN: Final[Table] = {}
NODES: Final[Table] = {"env_id": "env-example1", "node_restart_s": 1.0}
WHERE: Final[Mapping[str, Table]] = {"own machines": OWN, "nodes": NODES}

SHAPES: Final[Mapping[str, Table]] = {
    "one running": {"instances": 1},
    "running": {},
    "starting": {"state": "STARTING"},
    "half starting": {"mix": {"STARTING": 0.5}},
    "pending": {"state": "PENDING"},
    "runnable": {"state": "RUNNABLE"},
    "a quarter pending": {"mix": {"PENDING": 0.25}},
    "a quarter runnable, half starting": {"mix": {"RUNNABLE": 0.25, "STARTING": 0.5}},
    "interrupted": {"state": "FAILED_INTERRUPTED"},
    "half interrupted": {"mix": {"FAILED_INTERRUPTED": 0.5}},
    "FAILED, half running": {"state": "FAILED", "mix": {"RUNNING": 0.5}},
    "FAILED, half interrupted": {"state": "FAILED", "mix": {"FAILED_INTERRUPTED": 0.5}},
    "FAILED, half pending": {"state": "FAILED", "mix": {"PENDING": 0.5}},
    "half succeeded": {"mix": {"SUCCEED": 0.5}},
    "half failed": {"mix": {"FAILED": 0.5}},
    "three tasks": {"instances": 7, "tasks": 3},
    "three tasks in every state": {
        "instances": 24,
        "tasks": 3,
        "mix": {"PENDING": 0.125, "STARTING": 0.25, "SUCCEED": 0.25, "FAILED": 0.125},
    },
    "150 instances": {"instances": 150},
    "1200 instances in one task": {"instances": 1200},
}
"""States of a job when its termination is requested."""
SHAPES_OF_OWN_MACHINES: Final[Mapping[str, Table]] = {
    "starting, no machine shown": {"state": "STARTING", "starting_without_machine": True},
    "half starting, those machines not shown": {
        "mix": {"STARTING": 0.5},
        "starting_without_machine": True,
    },
    "half starting, those machines not shown and left behind": {
        "mix": {"STARTING": 0.5},
        "starting_without_machine": True,
        "orphan_s": NEVER_S,
    },
}

FOR_EVER: Final[Table] = {"drain_s": NEVER_S}
SEEN_FAILED_AT_ONCE: Final[Table] = {"failed_early_s": NEVER_S}
COURSES: Final[Mapping[str, Table]] = {
    "accepts every call": {"again": "ok", "drain_s": [3, 6]},
    "drains for long": {"drain_s": [10, 20]},
    "reads FAILED early": {"drain_s": 6, "failed_early_s": 4},
    "one stubborn": {"stuck": 1},
    "all stubborn": {"stuck": 4},
    "one stubborn, reads FAILED": {"stuck": 1} | SEEN_FAILED_AT_ONCE,
    "one stubborn and interrupted": {"stuck": 1, "state": "FAILED_INTERRUPTED"},
    "two stubborn in the last of three tasks": {"stuck": 2, "tasks": 3, "instances": 6},
    "one immortal": {"immortal": 1},
    "all immortal": {"immortal": 4},
    "one immortal, reads FAILED": {"immortal": 1} | SEEN_FAILED_AT_ONCE,
    "one immortal and one stubborn": {"immortal": 1, "stuck": 1},
    "drains beyond its deadline": {**FOR_EVER, "instance_drain_s": NEVER_S},
    "drains beyond its deadline, reads FAILED": {
        **FOR_EVER,
        **SEEN_FAILED_AT_ONCE,
        "instance_drain_s": NEVER_S,
    },
}
"""Effects of TerminateJob on four running instances."""
COURSES_OF_OWN_MACHINES: Final[Mapping[str, Table]] = {
    "machines outlive it for a while": {"machine_linger_s": [5, 8]},
    "machines outlive it, reads FAILED early": {
        "drain_s": 6,
        "failed_early_s": 4,
        "machine_linger_s": [5, 8],
    },
    "machines outlive its deadline": {"machine_linger_s": NEVER_S},
    "one machine stays": {"machines_stay": 1},
    "all machines stay": {"machines_stay": 4},
    "one stubborn, its machine stays": {"stuck": 1, "machines_stay": 1},
}

HIDDEN: Final[Table] = {"next_action_hidden": True}
LIES: Final[Mapping[str, Table]] = {
    "counters read stopped too early": {"drain_s": 6, "lying_counters_s": 5},
    "counters read stopped too early, reads FAILED": {
        "drain_s": 6,
        "lying_counters_s": 5,
        **SEEN_FAILED_AT_ONCE,
    },
    "NextAction hidden": HIDDEN,
    "NextAction hidden, drains for long": {"drain_s": [10, 20], **HIDDEN},
    "NextAction hidden, accepts every call": {"drain_s": [10, 20], "again": "ok", **HIDDEN},
    "NextAction hidden, one stubborn": {"stuck": 1, **HIDDEN},
    "NextAction hidden, one stubborn, accepts every call": {"stuck": 1, "again": "ok", **HIDDEN},
    "NextAction hidden, one immortal": {"immortal": 1, **HIDDEN},
    "all say stopped, but not yet": {
        "drain_s": 12,
        "lying_counters_s": 12,
        **SEEN_FAILED_AT_ONCE,
        **HIDDEN,
    },
    "all say stopped, one lives on": {
        "immortal": 1,
        "lying_counters_s": NEVER_S,
        **SEEN_FAILED_AT_ONCE,
        **HIDDEN,
    },
    "counters never move": {"counters": "stale"},
    "counters never move, reads FAILED early": {
        "counters": "stale",
        "drain_s": 6,
        "failed_early_s": 4,
    },
    "counters are empty": {"counters": "empty"},
    "counters are empty, one immortal": {"counters": "empty", "immortal": 1},
    "too few are counted": {"counted_max": 3},
    "too few are counted, accepts every call": {"counted_max": 3, "again": "ok"},
    "one runs again as it settles": {"relapse_after_s": 2},
    "all run again as it settles": {"relapse_after_s": 2, "relapse": 4},
    "one runs again at once": {"relapse_after_s": 0.05},
    "one runs again after all": {"relapse_after_s": 25},
    "not found at first": {"hidden_s": [0.2, 1.2]},
    "not found for a moment": {"hidden_after_s": [0.5, 4], "hidden_s": [0.1, 1], "drain_s": 4},
    "not found for a moment as it settles": {"hidden_after_s": [4, 6], "hidden_s": [0.1, 1]},
    "forbidden at first": {"forbidden_s": [0.2, 1.2]},
    "reads CANCELLED once finished": {"finished_word": "CANCELLED"},
    "reads CANCELLED too early": {"finished_word": "CANCELLED", "failed_early_s": 4, "drain_s": 6},
    "reads PAUSED while it lives": {"live_word": "PAUSED"},
    "reads PAUSED while it lives, one stubborn": {"live_word": "PAUSED", "stuck": 1},
    "NextAction is unknown": {"next_action": "WHATEVER"},
    "NextAction is unknown, one stubborn": {"next_action": "WHATEVER", "stuck": 1},
    "NextAction is unknown, accepts every call": {
        "next_action": "WHATEVER",
        "again": "ok",
        "drain_s": [10, 20],
    },
    "no instance is counted": {"counters": "none"},
    "no instance is counted, failed before": {"counters": "none", "state": "FAILED"},
    "no instance is counted, succeeded before": {"counters": "none", "state": "SUCCEED"},
    "too few are counted, failed before": {"counted_max": 3, "state": "FAILED"},
    "too few are counted, half running, reads FAILED": {
        "counted_max": 2,
        "state": "FAILED",
        "mix": {"RUNNING": 0.5},
    },
    "one runs again, failed before": {"state": "FAILED", "relapse_after_s": 25},
    "CANCELLED before": {"state": "FAILED", "finished_word": "CANCELLED"},
}
"""Jobs of which the cloud does not show the truth."""

REVIVED_AT_ONCE: Final[Table] = {"revive_after_s": 0.05}
REVIVED_SETTLING: Final[Table] = {"revive_after_s": 3}
DELETED_SETTLING: Final[Table] = {"vanish_after_s": 3}
OTHERS: Final[Mapping[str, Table]] = {
    "revived at once": REVIVED_AT_ONCE,
    "revived at once, twice": REVIVED_AT_ONCE | {"revivals": 2},
    "revived as it settles": REVIVED_SETTLING,
    "revived as it settles, twice": REVIVED_SETTLING | {"revivals": 2},
    "revived as it settles, one stubborn": REVIVED_SETTLING | {"stuck": 1},
    "half pending, revived as it settles": REVIVED_SETTLING | {"mix": {"PENDING": 0.5}},
    "revived as it settles, reads FAILED": {"drain_s": 6} | SEEN_FAILED_AT_ONCE | REVIVED_SETTLING,
    "150 instances, revived as it settles": REVIVED_SETTLING | {"instances": 150},
    "revived as it settles, then pending": REVIVED_SETTLING | {"revived_state": "PENDING"},
    "revived as it settles, then starting": REVIVED_SETTLING | {"revived_state": "STARTING"},
    "revived after all": {"revive_after_s": 25},
    "deleted once stopped": {"vanish_after_s": 0},
    "deleted once stopped, reads FAILED early": {
        "drain_s": 6,
        "failed_early_s": 4,
        "vanish_after_s": 0,
    },
    "deleted as it settles": DELETED_SETTLING,
    "deleted after all": {"vanish_after_s": 25},
}
"""Effects of RetryJobs and DeleteJob by another client after TerminateJob."""
OTHERS_WITH_OWN_MACHINES: Final[Mapping[str, Table]] = {
    "revived as it settles, machines outlive each run": REVIVED_SETTLING | {"machine_linger_s": 2},
    "revived as it settles, then starting, no machine shown": REVIVED_SETTLING
    | {"revived_state": "STARTING", "starting_without_machine": True},
    "revived as it settles, one machine of each run stays": REVIVED_SETTLING | {"machines_stay": 1},
    "deleted as it settles, machines outlive it": DELETED_SETTLING | {"machine_linger_s": 8},
    "deleted as it settles, one machine stays": DELETED_SETTLING | {"machines_stay": 1},
}

BEFORE: Final[Mapping[str, Table]] = {
    "succeeded before": {"state": "SUCCEED"},
    "failed before": {"state": "FAILED"},
    "failed before, deleted": {"state": "FAILED", "vanish_after_s": 0},
    "succeeded before, deleted after all": {"state": "SUCCEED", "vanish_after_s": 25},
    "failed before, revived after all": {"state": "FAILED", "revive_after_s": 25},
    "SUBMITTED for ever": {"state": "SUBMITTED"},
    "SUBMITTED, then runs": {"state": "SUBMITTED", "submitted_s": [3, 5]},
    "SUBMITTED, then half pending": {
        "state": "SUBMITTED",
        "submitted_s": [3, 5],
        "mix": {"PENDING": 0.5},
    },
    "SUBMITTED, then succeeds at once": {
        "state": "SUBMITTED",
        "submitted_s": [3, 5],
        "succeeds_after_s": 0,
    },
    "succeeds as it is called": {"succeeds_after_s": [0.05, 1]},
    "fails as it is called": {"fails_after_s": [0.05, 1]},
    "would succeed while it drains": {"succeeds_after_s": 4, "drain_s": 8},
}
"""Events without any call."""
REFUSED: Final[Mapping[str, Table]] = {
    "refused on nodes": NODES | {"refuse_env": True},
    "refused on nodes, failed before": NODES | {"refuse_env": True, "state": "FAILED"},
    "refused on nodes, FAILED, half running": NODES
    | {"refuse_env": True, "state": "FAILED", "mix": {"RUNNING": 0.5}},
    "refused for good": {"refuse": "UnsupportedOperation.TerminateOperationWithEnvId"},
    "forbidden": {"forbidden": True},
}
UNKNOWN: Final = "unknown to the cloud"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of job; ``table`` is None where there is no such job."""

    name: str
    table: Table | None


def _both(tables: Mapping[str, Table]) -> Iterable[Kind]:
    for name, table in tables.items():
        for where, its in WHERE.items():
            yield Kind(f"{name}: {where}", _FOUR | table | its)


def _one(tables: Mapping[str, Table]) -> Iterable[Kind]:
    return (Kind(name, _FOUR | table) for name, table in tables.items())


_FOUR: Final[Table] = {"instances": 4, "drain_s": [0.5, 2], "instance_drain_s": 1}
KINDS: Final = (
    *(kind for tables in (SHAPES, COURSES, LIES, OTHERS, BEFORE) for kind in _both(tables)),
    *_one(SHAPES_OF_OWN_MACHINES),
    *_one(COURSES_OF_OWN_MACHINES),
    *_one(OTHERS_WITH_OWN_MACHINES),
    *_one(REFUSED),
    Kind(UNKNOWN, None),
)

JOBS_OF_A_RUN: Final = 8
SHARED_S: Final = 4.0
"""Time by which the replicas have shared the partitions, and may use their quotas."""
TROUBLED_EVERY: Final = 4
"""One of this number of seeds has all faults; the others have none."""
NO_CVM_EVERY: Final = 5
"""One of this number of seeds may not read machines."""
CVM: Final = frozenset({"DescribeInstances", "TerminateInstances"})
ENGINE: Final[Table] = HASTY | {
    "settle_s": SETTLE_S,
    "give_up_after_s": GIVE_UP_AFTER_S,
    "capture_before_max_s": 3.0,
    "poll": HASTY["poll"] | {"drain_max_interval_s": 1.0},
}
QUOTAS: Final = dict.fromkeys(LOWEST_DOCUMENTED.keys() - {"TerminateInstances"}, 20)
"""Quotas so large that no read waits for another."""


def of_a_run(seed: int) -> list[Kind]:
    """Return the kinds of a seed: consecutive seeds go through all of them, in changing orders."""
    first = JOBS_OF_A_RUN * (seed - 1)
    chosen = []
    for place in range(first, first + JOBS_OF_A_RUN):
        turn, number = divmod(place, len(KINDS))
        order = Random(f"turn {turn}").sample(KINDS, len(KINDS))
        chosen.append(order[number])
    return chosen


def faulty(seed: int) -> bool:
    return seed % TROUBLED_EVERY == 0


async def of_kinds(world: SimulatedWorld) -> None:
    """Jobs of several kinds, submitted at once."""
    truth = world.checkers
    assert isinstance(truth, Truth)
    for place in range(REPLICAS):
        world.start(place)
    await asyncio.sleep(SHARED_S)
    jobs: defaultdict[str, list[str]] = defaultdict(list)
    for cloud in world.clouds.values():
        if world.seed % NO_CVM_EVERY == 0:
            cloud.forbidden_actions = CVM
    for number, kind in enumerate(of_a_run(world.seed)):
        region = REGIONS[number % len(REGIONS)]
        cloud = world.clouds[f"{region}.cloud"]
        job_id = f"job-none{number:04}"
        if kind.table is not None:
            (job_id,) = cloud.add_groups(
                [kind.table | {"prefix": f"k{number:02}", "region": region}]
            )
        jobs[region].append(job_id)
        truth.follow(region, job_id, kind.name)
    watched = asyncio.create_task(truth.watch())
    async with asyncio.TaskGroup() as group:
        for region, its in jobs.items():
            group.create_task(world.client.submit(its, region, key=region))
        if faulty(world.seed):
            await FaultInjection(world).run()
            world.end_faults()
    await watched
    truth.check_ends()
    # Calls that left before the last end are still to be answered.
    await asyncio.sleep(2 * CALL_TIMEOUT_S)
    await world.end()


def run(seed: int, template: Path, folder: Path) -> Result:
    bounds = Bounds(settle_s=SETTLE_S, give_up_after_s=GIVE_UP_AFTER_S, faulty=faulty(seed))
    with patch.object(loop, "IDLE_MAX_S", SOON_S):  # else half of its time passes between counts
        return simulate(
            seed,
            template,
            folder / f"seed{seed}",
            engine=ENGINE,
            quotas=QUOTAS,
            run=of_kinds,
            checkers=partial(Truth, bounds=bounds),
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.kinds")
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--at-least", type=int, help="how often each kind must be run")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args()
    seeds = range(given.first, given.first + given.seeds)
    at_least = given.at_least
    if at_least is None:
        at_least = len(seeds) * JOBS_OF_A_RUN // len(KINDS)
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        folder = Path(name)
        template = folder / "template.db"
        make_template(template)
        return many(seeds, template, folder, given.processes, at_least=at_least)


def many(seeds: range, template: Path, folder: Path, processes: int, *, at_least: int) -> int:
    began = time.monotonic()
    fired: Counter[str] = Counter()
    failed = 0
    with ProcessPoolExecutor(processes) as pool:
        for result in pool.map(partial(run, template=template, folder=folder), seeds, chunksize=4):
            fired += result.fired
            if result.violations:
                failed += 1
                print(f"seed {result.seed}: {result.violations[0][:600]}")
                print(f"  replay: python -m tests.simulation.kinds --first {result.seed} --seeds 1")
                sys.stdout.flush()
    rare = print_counts(fired, at_least=at_least)
    judged = sum(fired[how] for how in JUDGED)
    print(*(f"{fired[how]:6} of {judged} {how}" for how in JUDGED), sep="\n")
    print(f"{fired[DECEIVED]:6} times the cloud said of a live job that it has stopped")
    seconds = time.monotonic() - began
    print(
        f"{len(seeds)} seeds in {seconds:.0f} s, {failed} with a violation; {len(KINDS)} kinds,"
        f" {fired[EXACTLY] / max(1, judged):.1%} of terminations {EXACTLY}"
    )
    return 1 if failed or rare else 0


def print_counts(fired: Counter[str], *, at_least: int) -> list[str]:
    """Print a line per kind; return those that ran too seldom."""
    rare = []
    for kind in KINDS:
        ends = {
            what.removeprefix(f"{kind.name} ended "): count
            for what, count in fired.items()
            if what.startswith(f"{kind.name} ended ")
        }
        runs = sum(ends.values())
        counted = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
        print(f"{runs:6} {kind.name}: {counted}")
        if runs < at_least:
            rare.append(kind.name)
    if rare:
        print(f"run fewer than {at_least} times: {rare}")
    return rare


if __name__ == "__main__":
    sys.exit(main())
