"""A row that cannot be read: every other termination ends as if it were not there.

It is repaired once they have ended; then it ends as well.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from orchestrator.domain.errors import StoreUnavailable

if TYPE_CHECKING:
    from tests.simulation.world import SimulatedWorld

GARBAGE: Final = {
    "instances": '{"running": "many"}',
    "tasks": "[{",
    "problem": '"text"',
    "capture": "[1]",
    "rescan": "{",
    "history": '{"samples": "none"}',
    "on_submitted": "wait",
    "escalation_level": "upstairs",
    "observed_at": "noon",
    "next_poll_at": "9999-12-31 23:59:59",
    "terminate_after": "tomorrow",
    "settle_s": 1e308,
    "give_up_after_s": "long",
    "failures": "a few",
}
"""Bad values by column: corrupt, of the wrong type, of another version, or at its type's limit."""
SHARE_OF_RUNS: Final = 0.4
AFTER_S: Final = (0.3, 4.0)
OTHERS_END_WITHIN_S: Final = 60.0
BUSY_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Planted:
    """The value that a row's column had before."""

    seq: int
    column: str
    before: Any


async def plant(world: SimulatedWorld) -> None:
    """In some runs, corrupt the row of a termination that is under way."""
    if world.random.random() >= SHARE_OF_RUNS:
        return
    await asyncio.sleep(world.random.uniform(*AFTER_S))
    column = world.random.choice(sorted(GARBAGE))
    rows = world.checkers.rows(
        f"SELECT seq, {column} AS before FROM terminations WHERE finished_at IS NULL"
    )
    if rows:
        row = world.random.choice(rows)
        world.planted = Planted(row["seq"], column, row["before"])
        await _write(world, world.planted, GARBAGE[column])
        world.fired["row planted"] += 1


async def repair(world: SimulatedWorld) -> None:
    """Wait until all others have ended and it is shown; then repair it, unless it was rewritten."""
    planted = world.planted
    if planted is None:
        return
    ends_at = world.loop.time() + OTHERS_END_WITHIN_S
    others = "SELECT job_id, state FROM terminations WHERE finished_at IS NULL AND seq <> ?"
    while left := world.checkers.rows(others, planted.seq):
        if world.loop.time() > ends_at:
            world.checkers.violated("planted", f"it holds up {[tuple(row) for row in left]}")
            break
        await asyncio.sleep(0.25)
    (row,) = world.checkers.rows(
        f"SELECT {planted.column} AS now, set_aside FROM terminations WHERE seq = ?", planted.seq
    )
    world.fired["row set aside"] += row["set_aside"] is not None
    await _see(world, set_aside=row["set_aside"] is not None)
    if row["now"] == GARBAGE[planted.column]:
        await _write(world, planted, planted.before)
        world.fired["row repaired"] += 1


async def _see(world: SimulatedWorld, *, set_aside: bool) -> None:
    """Check that every request is answered, and that readiness names the row."""
    found = world.some_life()
    if found is None or found[1].made is None:
        return
    life, context = found[1], found[1].made.context
    with suppress(StoreUnavailable):  # connections that were lost before
        listing = context.records.terminations(after=0, limit=1000)
        listed = await world.loop.spawn(life.name, listing)
        (stored,) = world.checkers.rows("SELECT count(*) AS n FROM terminations")
        if len(listed) != stored["n"]:
            world.checkers.violated("planted", f"{len(listed)} of {stored['n']} rows are listed")
        count, _ = await world.loop.spawn(life.name, context.records.set_aside(10))
        if set_aside and count != 1:
            world.checkers.violated("planted", f"{count} rows are reported as set aside")


async def _write(world: SimulatedWorld, planted: Planted, value: Any) -> None:
    """Write as by hand: the holder of the partition does not take part in it."""
    while True:
        try:
            with closing(sqlite3.connect(world.path, timeout=0, isolation_level=None)) as editor:
                editor.execute("BEGIN IMMEDIATE")
                editor.execute(
                    f"UPDATE terminations SET {planted.column} = ? WHERE seq = ?",
                    (value, planted.seq),
                )
                editor.execute("DELETE FROM engine_writes")
                editor.execute("COMMIT")
        except sqlite3.OperationalError:
            await asyncio.sleep(BUSY_S)
        else:
            return
