"""Stored times follow the steps of the database's clock."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import insert, select, update

from orchestrator.domain.clock_steps import CLOCK_STEP_S
from orchestrator.domain.model.instance_scan import InstanceScan
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.unconfirmed import Unconfirmed, Verdict
from orchestrator.store.mapping.termination_rows import to_row
from orchestrator.store.partition import clock_steps
from orchestrator.store.partition.lease_store import SqlLeaseStore
from orchestrator.store.records.queries import SqlRecords
from orchestrator.store.schema import UtcDateTime, instances, partitions, terminations
from orchestrator.store.schema import clock_steps as steps
from tests.support.stored_operations import PARTITION, submit
from tests.support.termination_fields import with_fields
from tests.unit.domain.build import NOW, termination

if TYPE_CHECKING:
    from orchestrator.store.database.database import Database
    from orchestrator.store.database.transaction import Transaction

OTHER = "other@host"
STEP_S = 8 * 3600
"""As if a hardware clock were in local time."""
HOUR = timedelta(hours=1)
STAYS = ("created_at", "not_before", "finished_at")
PLANNED = (
    *("next_poll_at", "terminate_after", "capture_at", "rescan_at", "revival_checked_at"),
    "set_aside_until",
)
TIMES = [column.name for column in terminations.c if isinstance(column.type, UtcDateTime)]
OF_INSTANCES = [column.name for column in instances.c if isinstance(column.type, UtcDateTime)]
IN_DOCUMENTS = {
    "capture": [each.name for each in fields(InstanceScan) if "datetime" in str(each.type)],
    "rescan": [each.name for each in fields(InstanceScan) if "datetime" in str(each.type)],
    "unconfirmed": [each.name for each in fields(Unconfirmed) if "datetime" in str(each.type)],
}

if TYPE_CHECKING:
    Row = dict[str, Any]


def times(names: list[str], base: datetime) -> Row:
    """Return a time for each name, all different, also in the microseconds."""
    return {
        name: base + timedelta(seconds=number, microseconds=number * 98_765 % 1_000_000)
        for number, name in enumerate(names)
    }


def documents(base: datetime) -> Row:
    at = base + timedelta(microseconds=654_321)
    capture = InstanceScan(run=1, counted_at=at, ended_at=at + HOUR)
    full = with_fields(
        termination(),
        capture=capture,
        rescan=replace(capture, began_at=at - HOUR, ended_at=None),
        unconfirmed=Unconfirmed(
            verdict=Verdict.MISSING,
            since=at,
            last_at=at + HOUR,
            until=at - HOUR,
            answers=2,
            sources=("DescribeJob",),
        ),
    )
    row = to_row(full)
    return {name: row[name] for name in IN_DOCUMENTS}


async def wrote(database: Database, *statements: Any) -> None:
    async def work(transaction: Transaction) -> None:
        for statement in statements:
            await transaction.execute(statement)

    await database.write(work)


async def clock(database: Database) -> datetime:
    async def work(transaction: Transaction) -> datetime:
        return await transaction.clock()

    return await database.write(work)


async def known(database: Database, job_id: str, **values: Any) -> None:
    await wrote(
        database, update(terminations).where(terminations.c.job_id == job_id).values(values)
    )


async def stored(database: Database) -> dict[str, Row]:
    """Return all terminations by job id, each with its instances."""
    async with database.read() as connection:
        found = (await connection.execute(select(terminations))).mappings().all()
        of_all = await connection.execute(select(instances).order_by(instances.c.instance_index))
        rows = of_all.mappings().all()
    return {
        row["job_id"]: dict(row)
        | {
            "instances of it": [
                dict(each) for each in rows if each["termination_seq"] == row["seq"]
            ]
        }
        for row in found
    }


async def noted(database: Database) -> int:
    return await database.write(clock_steps.noted)


async def followed(database: Database) -> dict[str, int]:
    async with database.read() as connection:
        rows = await connection.execute(select(partitions.c.name, partitions.c.followed_s))
        return {row.name: row.followed_s for row in rows}


async def follow(database: Database, steps_s: int) -> None:
    await database.write(partial(clock_steps.follow, partition=PARTITION, steps_s=steps_s))


async def note(database: Database, known_s: int, by_s: int) -> None:
    await database.write(partial(clock_steps.note, known_s=known_s, by_s=by_s))


@pytest.fixture
async def base(database: Database) -> datetime:
    """Return a time so long ago that no moved time is in the future; a replica was always live."""
    await wrote(database, update(steps).values(away_s=0))
    at = await clock(database) - timedelta(days=2)
    records = SqlRecords(database, lambda: NOW)
    await submit(records, 1, "live", "ended", "watched")
    await submit(records, 2, "elsewhere", partition=OTHER)
    every = times(TIMES, at) | documents(at) | {"history": {"any": "sample"}}
    live = every | {"finished_at": None}
    ended = every | {"state": State.VERIFIED, "next_poll_at": None, "terminate_after": None}
    await known(database, "live", **live)
    await known(database, "elsewhere", **live)
    await known(database, "watched", **ended)
    await known(database, "ended", **ended | {"revival_checked_at": None})
    for row in (await stored(database)).values():
        its = {"termination_seq": row["seq"], "task": "a", "machine_id": "ins-1"}
        seen = its | {"instance_index": 0} | times(OF_INSTANCES, at)
        unseen = its | {"instance_index": 1, "observed_at": at}
        await wrote(database, insert(instances).values(seen), insert(instances).values(unseen))
    return at


@dataclass(frozen=True, slots=True)
class Moved:
    """Times from ``since`` on move by ``by_s``, earlier ones by ``before_by_s``."""

    since: datetime
    by_s: int
    before_by_s: int

    def by_s_of(self, at: datetime) -> int:
        return self.by_s if at >= self.since else self.before_by_s

    def time(self, at: datetime) -> datetime:
        return at + timedelta(seconds=self.by_s_of(at))

    def row(self, row: Row, names: list[str]) -> Row:
        return row | {name: self.time(row[name]) for name in names if row.get(name) is not None}

    def document(self, document: Row, names: list[str]) -> Row:
        times = {name: document[name] for name in names if document[name] is not None}
        assert times
        return document | {
            name: self.time(datetime.fromisoformat(time)).isoformat()
            for name, time in times.items()
        }

    def live(self, row: Row) -> Row:
        """Store an unfinished termination."""
        moved = self.row(row, [name for name in TIMES if name not in STAYS]) | {"history": None}
        for name, its in IN_DOCUMENTS.items():
            moved[name] = self.document(moved[name], its)
        moved["instances of it"] = [
            self.row(each, OF_INSTANCES) for each in moved["instances of it"]
        ]
        return moved

    def watched(self, row: Row) -> Row:
        """Store a finished termination that is watched for a revival."""
        return self.row(row, ["revival_watch_from", "revival_checked_at"])


# --- following -----------------------------------------------------------------------------------


@pytest.mark.parametrize("step_s", [1, 61, STEP_S, -3, -61, -STEP_S])
async def test_all_times_of_what_is_live_follow_a_step(
    database: Database, base: datetime, step_s: int
) -> None:
    before, moved = await stored(database), Moved(base, step_s, step_s)
    await follow(database, step_s)
    after = await stored(database)
    assert after.pop("live") == moved.live(before["live"])
    assert after.pop("watched") == moved.watched(before["watched"])
    assert after == {job_id: before[job_id] for job_id in ("ended", "elsewhere")}
    assert await followed(database) == {"main@cloud": 0, PARTITION: step_s, OTHER: 0}


@pytest.mark.parametrize("step_s", [STEP_S, -STEP_S])
async def test_a_step_that_is_undone_leaves_everything_as_it_was(
    database: Database, base: datetime, step_s: int
) -> None:
    await known(database, "live", history=None, not_before=base)
    before = await stored(database)
    await follow(database, step_s)
    assert await stored(database) != before
    await follow(database, 0)
    assert await stored(database) == before


@pytest.mark.parametrize(
    ("followed_s", "steps_s", "before_by_s"),
    [
        (0, 60, 60),
        (0, -60, 0),
        (0, -3600, 0),
        (0, -3602, 0),
        (0, -3603, -3603),
        (-60, -100, 0),
        (-60, 0, 0),
        (-60, 60, 60),
        (60, -60, -60),
        (60, 0, -60),
        (-4000, -60, 4000),
        (-4000, -5000, -1000),
    ],
)
async def test_a_clock_put_right_after_the_start_leaves_what_was_stored_before_it(
    database: Database, base: datetime, followed_s: int, steps_s: int, before_by_s: int
) -> None:
    """A step back by no more than the hour without a live replica may be such a correction."""
    since = base + timedelta(seconds=8)
    began_at = since - timedelta(seconds=followed_s)
    await wrote(
        database,
        update(partitions).where(partitions.c.name == PARTITION).values(followed_s=followed_s),
        update(steps).values(began_at=began_at, away_s=3600),
    )
    await known(database, "watched", revival_checked_at=since)
    moved, before = Moved(since, steps_s - followed_s, before_by_s), await stored(database)
    await follow(database, steps_s)
    after = await stored(database)
    assert after["live"] == moved.live(before["live"])
    assert after["watched"] == moved.watched(before["watched"])
    assert (await followed(database))[PARTITION] == steps_s


@pytest.mark.parametrize("steps_s", [-STEP_S, 60])
async def test_after_any_step_reads_and_calls_are_planned_for_now(
    database: Database, base: datetime, steps_s: int
) -> None:
    since = await clock(database)
    ahead = dict.fromkeys(PLANNED, since + 10 * HOUR)
    await known(database, "live", **ahead)
    await known(database, "watched", revival_checked_at=since + 10 * HOUR)
    before = await stored(database)
    await follow(database, steps_s)
    after, until = await stored(database), await clock(database)
    for name in PLANNED:
        assert since <= after["live"][name] <= until
    assert since <= after["watched"]["revival_checked_at"] <= until
    deadlines = ("give_up_from", "settle_from", "confirm_from")
    by = timedelta(seconds=steps_s)
    assert [after["live"][name] for name in deadlines] == [
        before["live"][name] + by for name in deadlines
    ]
    assert after["elsewhere"] == before["elsewhere"]
    assert base < since


@pytest.mark.parametrize("steps", [[-STEP_S], [60], [STEP_S], [60, 0]])
async def test_a_later_start_follows_the_step_of_the_clock(
    database: Database, base: datetime, steps: list[int]
) -> None:
    not_before = await clock(database) + 10 * HOUR
    await known(
        database, "live", not_before=not_before, next_poll_at=not_before, terminate_after=None
    )
    for steps_s in steps:
        await follow(database, steps_s)
    after = (await stored(database))["live"]
    assert (after["next_poll_at"], after["terminate_after"]) == (not_before, None)
    assert base < not_before


async def test_started_terminations_are_polled_now_although_their_start_lies_ahead_again(
    database: Database, base: datetime
) -> None:
    now = await clock(database)
    await known(
        database, "live", state=State.DRAINING, not_before=now + HOUR, next_poll_at=now + 2 * HOUR
    )
    await follow(database, -STEP_S)
    assert base < (await stored(database))["live"]["next_poll_at"] <= await clock(database)


async def test_a_step_is_followed_only_once(database: Database, base: datetime) -> None:
    await follow(database, STEP_S)
    await known(database, "live", next_poll_at=await clock(database) + HOUR)
    before = await stored(database)
    await follow(database, STEP_S)
    assert await stored(database) == before
    assert base < await clock(database)


async def test_a_partition_follows_as_it_is_taken_and_a_new_one_has_nothing_to_follow(
    database: Database, base: datetime
) -> None:
    await note(database, 0, STEP_S)
    before = (await stored(database))["live"]
    database.dialect.shared = True
    leases = SqlLeaseStore(database)
    await leases.join("another", [PARTITION, "main@new"], 60.0)
    assert await followed(database) == dict.fromkeys(["main@cloud", PARTITION, OTHER], 0) | {
        "main@new": STEP_S
    }
    await leases.take("another", {PARTITION: 1})
    after = await followed(database)
    assert (after[PARTITION], after[OTHER]) == (STEP_S, 0)
    live = (await stored(database))["live"]
    assert live["give_up_from"] - before["give_up_from"] == timedelta(seconds=STEP_S)
    standing = await leases.renew("another", 60.0)
    assert standing is not None
    assert (standing.steps_s, standing.followed_s[OTHER]) == (STEP_S, 0)
    assert base < standing.now


# --- recording -----------------------------------------------------------------------------------


async def test_a_step_that_two_replicas_see_counts_once(database: Database) -> None:
    leases = SqlLeaseStore(database)
    for measured_s in (STEP_S, STEP_S + 1):
        await leases.note_step(0, measured_s)
    assert await noted(database) == STEP_S
    await leases.note_step(STEP_S, -60)
    assert await noted(database) == STEP_S - 60


# --- the first replica that starts ---------------------------------------------------------------


async def see(database: Database, ahead_s: float) -> None:
    """Store the last time that the clock showed to a replica."""
    at = await clock(database) + timedelta(seconds=ahead_s)
    await wrote(database, update(steps).values(seen_at=at))


async def kept(database: Database) -> Row:
    async with database.read() as connection:
        return dict((await connection.execute(select(steps))).mappings().one())


async def restarted(database: Database) -> SqlLeaseStore:
    leases = SqlLeaseStore(database)
    await leases.leave("a replica")
    await leases.join("another", [PARTITION], 60.0)
    return leases


@pytest.mark.parametrize("ahead_s", [-STEP_S, 0, CLOCK_STEP_S - 1])
async def test_a_clock_that_continued_without_live_replicas_made_no_step(
    database: Database, ahead_s: float
) -> None:
    await see(database, ahead_s)
    since = await clock(database)
    await restarted(database)
    row = await kept(database)
    assert row["steps_s"] == 0
    assert since <= row["began_at"] == row["seen_at"] <= await clock(database)
    assert max(0, -ahead_s) <= row["away_s"] <= max(0, -ahead_s) + 2


@pytest.mark.parametrize(("away_s", "moves"), [(0, True), (STEP_S + 60, False)])
async def test_all_times_follow_a_clock_that_was_set_back_without_live_replicas(
    database: Database, base: datetime, away_s: int, *, moves: bool
) -> None:
    """Except those stored before a replica started with a wrong clock."""
    before = (await stored(database))["live"]
    await wrote(database, update(steps).values(began_at=base + HOUR + HOUR, away_s=away_s))
    await see(database, STEP_S)
    await restarted(database)
    row, after = await kept(database), (await stored(database))["live"]
    assert (row["steps_s"], row["away_s"], row["began_at"]) == (0, 0, row["seen_at"])
    by_s = (after["give_up_from"] - before["give_up_from"]).total_seconds()
    assert STEP_S - 2 <= -by_s <= STEP_S if moves else by_s == 0
    assert after == Moved(base, int(by_s), int(by_s)).live(before)


@pytest.mark.parametrize(("since_s", "undone"), [(STEP_S - 3, False), (STEP_S - 1, True)])
async def test_a_step_back_may_have_been_undone_without_live_replicas(
    database: Database, base: datetime, since_s: int, *, undone: bool
) -> None:
    before = (await stored(database))["live"]
    await note(database, 0, -STEP_S)
    await see(database, -since_s)
    await restarted(database)
    row, by_s = await kept(database), STEP_S if undone else 0
    assert (row["steps_s"], row["began_at"]) == (0, row["seen_at"])
    assert max(0, since_s - by_s) <= row["away_s"] <= max(0, since_s - by_s) + 2
    moved = Moved(base, by_s - STEP_S, by_s - STEP_S).live(before)
    assert (await stored(database))["live"]["give_up_from"] == moved["give_up_from"]


@pytest.mark.parametrize("step_s", [STEP_S, -STEP_S])
async def test_a_recorded_step_is_followed_before_the_sum_restarts(
    database: Database, base: datetime, step_s: int
) -> None:
    before = await stored(database)
    await note(database, 0, step_s)
    await restarted(database)
    moved, after = Moved(base, step_s, step_s), await stored(database)
    assert [after[job]["give_up_from"] for job in ("live", "elsewhere")] == [
        moved.live(before[job])["give_up_from"] for job in ("live", "elsewhere")
    ]
    assert await noted(database) == 0
    assert set((await followed(database)).values()) == {0}


async def test_no_step_is_recorded_before_the_first_replica(database: Database) -> None:
    await wrote(database, update(steps).values(seen_at=None))
    await restarted(database)
    row = await kept(database)
    assert (row["steps_s"], row["away_s"]) == (0, clock_steps.UNKNOWN_S)


async def test_a_step_back_is_recorded_once_even_if_replicas_die(database: Database) -> None:
    """By a replica that is live and sees it, or by the next one that starts."""
    standing = await SqlLeaseStore(database).renew("a replica", 60.0)
    assert standing is not None
    assert (await kept(database))["seen_at"] == standing.now
    await see(database, STEP_S)
    ahead = (await kept(database))["seen_at"]
    await SqlLeaseStore(database).renew("a replica", 60.0)
    assert (await kept(database))["seen_at"] == ahead
    await note(database, 0, -STEP_S)
    await restarted(database)
    assert await noted(database) == 0
