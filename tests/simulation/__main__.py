"""``python -m tests.simulation --seeds 2000``: many seeds on all cores; ``--replay SEED`` one."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from orchestrator.domain.model.lifecycle import Event
from orchestrator.simulator.traffic.fault_injection import Fault
from tests.simulation.faults import POINTS
from tests.simulation.world import Result, make_template, simulate

SEEDS_OF_A_RUN = 2000
FIRED_AT_LEAST = 100
"""Number of seeds in which each fault must have happened: one that never did proves nothing."""
UNREACHED = (Event.GAVE_UP, Event.WITHDRAWN)
"""States that cannot occur here: no withdrawal, and no job that keeps the engine from its end."""
MUST_FIRE = (
    *("killed", "stopped", "paused", "paused beyond its lease", "paused in a transaction"),
    *(f"killed {point}" for point in POINTS),
    *(f"paused {point}" for point in POINTS),
    *("clock jumped ahead", "clock jumped back", "could not start"),
    *("database's clock stepped ahead", "database's clock stepped back"),
    *("cloud away", "lost request", "lost answer", "lost answer to TerminateJob", "silent call"),
    "slow way",
    *(f"cloud: {fault}" for fault in Fault if fault is not Fault.HANG),
    *("database away", "commit fails", "commit is reported as failed"),
    *("client got 503", "client was not answered", "client was answered again"),
    *("asked again for the same jobs", "a partition passed on", "a stale write was refused"),
    *("row planted", "row set aside", "row repaired", "asked after a time without work"),
    *(
        "a call was held back",
        "attempt: outcome_unknown",
        "attempt: interrupted",
        "a replica rejoined",
    ),
    *(f"event: {event}" for event in (*Event, "accepted", "finished") if event not in UNREACHED),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--replay", type=int, help="run this one alone, and tell its story")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--until-found", action="store_true", help="stop at a violation")
    given = parser.parse_args()
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        folder = Path(name)
        template = folder / "template.db"
        make_template(template)
        if given.replay is not None:
            return tell(simulate(given.replay, template, folder / "replay", story_turns=None))
        seeds = range(given.first, given.first + given.seeds)
        return many(seeds, template, folder, given.processes, until_found=given.until_found)


def tell(result: Result) -> int:
    print(result.story)
    print(f"seed {result.seed}: {result.turns} turns, fingerprint {result.fingerprint:08x}")
    print(*result.violations, sep="\n")
    return 1 if result.violations else 0


def run(seed: int, template: Path, folder: Path) -> Result:
    return simulate(seed, template, folder / f"seed{seed}")


def many(seeds: range, template: Path, folder: Path, processes: int, *, until_found: bool) -> int:
    began = time.monotonic()
    fired: Counter[str] = Counter()
    failed = 0
    with ProcessPoolExecutor(processes) as pool:
        for result in pool.map(partial(run, template=template, folder=folder), seeds, chunksize=4):
            fired += result.fired
            if result.violations:
                failed += 1
                print(f"seed {result.seed}: {result.violations[0][:600]}")
                print(f"  replay: python -m tests.simulation --replay {result.seed}")
                sys.stdout.flush()
                if until_found:
                    pool.shutdown(cancel_futures=True)
                    return 1
    for what, count in sorted(fired.items()):
        print(f"{count:9} {what}")
    seconds = time.monotonic() - began
    print(f"{len(seeds)} seeds in {seconds:.0f} s, {failed} with a violation")
    needed = FIRED_AT_LEAST * len(seeds) / SEEDS_OF_A_RUN
    rare = {what: fired[what] for what in MUST_FIRE if fired[what] < needed}
    if rare:
        print(f"fewer than {needed:g} times: {rare}")
    return 1 if failed or rare else 0


if __name__ == "__main__":
    sys.exit(main())
