"""PostgreSQL: replicas whose transactions conflict."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url, select, text, update
from sqlalchemy.exc import DBAPIError

from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.errors import RowsLocked, StoreUnavailable
from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.pacing.backoff import backoff_s
from orchestrator.store import schema
from orchestrator.store.database import database as module
from orchestrator.store.database import postgresql
from orchestrator.store.database.database import Database
from orchestrator.store.partition.lease_store import SqlLeaseStore
from orchestrator.store.partition.partition_store import PartitionStore
from orchestrator.store.records.queries import SqlRecords
from tests.support.leases import HOUR_S, hold
from tests.support.postgresql_replicas import (
    SOON_S,
    another_session,
    counts,
    fails,
    logged,
    replicas,
    until,
    wait_until_available,
    write_name,
    written_names,
)
from tests.support.stored_operations import PARTITION, due_for_batch_poll, submit
from tests.unit.domain.build import NOW, POLICY, later, read

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orchestrator.store.database.transaction import Transaction
    from tests.support.postgres import Server

CONFLICTS = ("40001", "40P01", "23505")
UNMADE = (
    "database writes may not have been made, since the daemon stops; the next start continues "
    "their work"
)


# --- one write that conflicts with others --------------------------------------------------------


@pytest.mark.parametrize("state", CONFLICTS)
async def test_a_write_that_conflicts_often_is_written_in_the_end(
    postgresql_url: str, state: str
) -> None:
    tries: list[float] = []
    async with replicas(postgresql_url, 1) as (database,):
        await database.write(fails(state, tries, times=5))
    assert len(tries) == 6


@pytest.mark.parametrize("state", CONFLICTS)
async def test_a_write_that_always_conflicts_fails_alone_and_in_time(
    postgresql_url: str,
    state: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Writes that shared its transaction are made, and its retries delay no other write."""
    monkeypatch.setattr(module, "CONTENDED_MAX_S", 1.0)
    tries: list[float] = []
    async with replicas(postgresql_url, 1) as (database,):
        began = asyncio.get_running_loop().time()
        losing = asyncio.create_task(database.write(fails(state, tries)))
        await asyncio.gather(database.write(write_name("a")), database.write(write_name("b")))
        await wait_until_available(database)
        assert not losing.done()
        with pytest.raises(StoreUnavailable, match="conflicts with other transactions did not end"):
            await losing
        assert await written_names(database) == {"a", "b"}
    assert tries[-1] - began >= module.CONTENDED_MAX_S - module.CONTENDED_PAUSE_MAX_S
    # Another try follows in time only; a busy machine may begin it later.
    assert tries[-2] - tries[0] < module.CONTENDED_MAX_S
    ((level, said),) = logged(caplog)
    assert level == "ERROR"
    # The first time it shared a transaction.
    assert f"conflicted with other transactions {len(tries) - 1} times: " in said


async def test_the_wait_after_a_conflict_grows_and_is_random(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONTENDED_BASE_S", 0.05)
    tries: list[float] = []
    async with Database(postgresql_url, lambda: NOW, Random(1)) as database:
        await database.write(fails("40P01", tries, times=4))
    chance = Random(1)
    pauses = [
        backoff_s(n, base_s=0.05, max_s=module.CONTENDED_PAUSE_MAX_S, jitter=chance.random())
        for n in range(1, 5)
    ]
    gaps = [after - before for before, after in pairwise(tries)]
    # A transaction takes some milliseconds, and more on a machine that is busy.
    assert all(pause <= gap for pause, gap in zip(pauses, gaps, strict=True)), (pauses, gaps)
    assert sum(gaps) < sum(pauses) + 1.0


async def test_a_write_that_waits_to_be_retried_is_dropped_at_the_close(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "CLOSE_S", 0.2)
    tries: list[float] = []
    async with replicas(postgresql_url, 1) as (database,):
        losing = asyncio.create_task(database.write(fails("40P01", tries)))
        await until(lambda: len(tries) > 1)
    with pytest.raises(StoreUnavailable, match="closed"):
        await losing
    assert logged(caplog) == [("ERROR", f"1 {UNMADE}")]


@pytest.mark.parametrize(
    ("state", "conflict"),
    [
        *((state, True) for state in CONFLICTS),
        ("23503", False),  # a foreign key
        ("23514", False),  # a CHECK
        ("40002", False),
        ("42P01", False),  # no such table
        ("55P03", False),  # waited too long for a lock
        ("57014", False),  # took too long
    ],
)
async def test_which_errors_count_as_conflicts(
    postgresql_url: str, state: str, conflict: bool
) -> None:
    """Only such a failure is retried."""
    tries: list[float] = []
    async with replicas(postgresql_url, 1) as (database,):
        if conflict:
            await database.write(fails(state, tries, times=1))
        else:
            with pytest.raises((DBAPIError, StoreUnavailable)):
                await database.write(fails(state, tries, times=1))
        async with database.dialect.writers.connect() as connection:
            with pytest.raises(DBAPIError) as caught:
                await connection.execute(text(f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$"))
        assert database.dialect.is_conflict(caught.value) is conflict
        # Only the server can say so.
        assert not database.dialect.is_conflict(OSError(state))
        assert not database.dialect.is_conflict(LookupError(state))
    assert (len(tries) > 1) is conflict


# --- deadlocks -----------------------------------------------------------------------------------


def grow(*names: str) -> Callable[[Transaction], Awaitable[None]]:
    """Lock rows in this order in one write."""

    async def work(transaction: Transaction) -> None:
        for name in names:
            p = schema.partitions
            await transaction.execute(update(p).where(p.c.name == name).values(epoch=p.c.epoch + 1))
            if name == names[0]:
                await transaction.execute(text("SELECT pg_sleep(0.1)"))

    return work


async def test_of_two_deadlocked_writes_both_are_written(postgresql_url: str) -> None:
    async with replicas(postgresql_url, 2) as (one, other):
        await one.write(write_name("a"))
        await one.write(write_name("b"))
        async with asyncio.timeout(SOON_S):
            await asyncio.gather(one.write(grow("a", "b")), other.write(grow("b", "a")))
        async with one.read() as connection:
            found = await connection.execute(select(schema.partitions.c.epoch))
            assert found.scalars().all() == [2, 2]


async def let_all_leases_expire(transaction: Transaction) -> None:
    expired_at = await transaction.clock() - timedelta(seconds=1)
    await transaction.execute(update(schema.replicas).values(expires_at=expired_at))


async def test_two_late_renewals_at_once_end_with_one_of_them_alive(postgresql_url: str) -> None:
    async with replicas(postgresql_url, 2) as both:
        leases = [SqlLeaseStore(each) for each in both]
        for turn in range(4):
            names = [f"replica-{turn}-{n}" for n in range(2)]
            for store, name in zip(leases, names, strict=True):
                await store.join(name, ["p1"], HOUR_S)
            await both[0].write(let_all_leases_expire)
            found = await asyncio.gather(
                *(store.renew(name, HOUR_S) for store, name in zip(leases, names, strict=True))
            )
            assert [standing is None for standing in found].count(True) == 1
            for name in names:
                await leases[0].leave(name)


# --- operations that share jobs ------------------------------------------------------------------


async def overlapping(replicas: list[Database], *, operations: int, jobs: int, each: int) -> None:
    """Submit operations that share jobs to all replicas at once, with job ids in any order."""
    chance = Random(1)
    names = [f"job-{number:03}" for number in range(jobs)]
    await asyncio.gather(
        *(
            submit(
                SqlRecords(replicas[number % len(replicas)], lambda: NOW),
                number,
                *chance.sample(names, each),
            )
            for number in range(operations)
        )
    )
    assert await counts(replicas[0]) == (operations, operations, jobs, jobs)


async def test_operations_that_share_jobs_are_all_stored(postgresql_url: str) -> None:
    async with replicas(postgresql_url, 4) as all_of_them:
        await overlapping(all_of_them, operations=120, jobs=100, each=50)


async def test_operations_that_share_jobs_never_wait_for_each_other(
    postgres: Server, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each transaction locks jobs in one order; here each has a single operation."""
    monkeypatch.setattr(module, "GROUP_MAX", 1)
    async with replicas(postgresql_url, 4) as all_of_them:
        await overlapping(all_of_them, operations=120, jobs=40, each=20)
    ((deadlocks,),) = await postgres.fetch(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = $1",
        make_url(postgresql_url).database,
    )
    assert deadlocks == 0


async def test_writes_that_share_a_transaction_lock_in_one_order(
    postgresql_url: str,
) -> None:
    ran: list[str] = []

    def work(name: str) -> Callable[[Transaction], Awaitable[None]]:
        async def run(_: Transaction) -> None:
            ran.append(name)

        return run

    async with replicas(postgresql_url, 1) as (database,):
        names = ["c", "a", "", "b"]
        await asyncio.gather(*(database.write(work(name), lock_order=name) for name in names))
    assert ran == sorted(names)


# --- rows that another session keeps locked ------------------------------------------------------


async def test_locked_rows_are_skipped_by_writes_of_many_rows(postgresql_url: str) -> None:
    async with replicas(postgresql_url, 1) as (database,):
        (fence,) = await hold(database, PARTITION)
        store = PartitionStore(database, fence)
        await submit(SqlRecords(database, lambda: NOW), 1, "job-1", "job-2")
        rows = await due_for_batch_poll(store, 10)
        for row in rows:
            await store.set_aside(row.id, ValueError("a fault"))
        due, until_at = [row.id for row in rows], later(60)
        again_at = later(10**9)
        async with another_session(postgresql_url) as connection:
            await connection.exec_driver_sql(
                "SELECT FROM terminations WHERE job_id = 'job-1' FOR UPDATE"
            )
            async with asyncio.timeout(postgresql.LOCK_TIMEOUT_S / 2):
                assert [await store.retry_set_aside(again_at) for _ in range(2)] == [True, False]
                await store.postpone(due, until_at)
            await connection.rollback()
        assert await store.retry_set_aside(again_at)
        assert {
            row.job_id: row.schedule.next_poll_at == until_at
            for row in await due_for_batch_poll(store, 10)
        } == {
            "job-1": False,
            "job-2": True,
        }


async def test_a_write_of_many_rows_names_the_locked_ones_and_no_loop_reads_them(
    postgresql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with replicas(postgresql_url, 1) as (database,):
        (fence,) = await hold(database, PARTITION)
        store = PartitionStore(database, fence)
        await submit(SqlRecords(database, lambda: NOW), 1, "job-1", "job-2")
        rows = await due_for_batch_poll(store, 10)
        changes = [(row, decide(row, read(JobState.RUNNING), NOW, POLICY)) for row in rows]
        async with another_session(postgresql_url) as connection:
            await connection.exec_driver_sql(
                "SELECT FROM terminations WHERE job_id = 'job-1' FOR UPDATE"
            )
            writing = asyncio.create_task(store.apply(changes, NOW))
            await asyncio.gather(database.write(write_name("a")), database.write(write_name("b")))
            with pytest.raises(RowsLocked, match="is locked by another session") as caught:
                await writing
            assert caught.value.termination_ids == {rows[0].id}
            assert [row.job_id for row in await due_for_batch_poll(store, 10)] == ["job-2"]
            assert not await store.forget_unlocked()
            assert {"a", "b"} < await written_names(database)
            await connection.rollback()
        assert await store.forget_unlocked()
        assert [row.job_id for row in await due_for_batch_poll(store, 10)] == ["job-1", "job-2"]
        await store.apply(changes, NOW)
    about = [said for said in caplog.messages if rows[0].id in said]
    assert [said.partition(rows[0].id)[2][:22] for said in about] == [
        ") wait: another sessio",
        ") are no longer locked",
    ]
