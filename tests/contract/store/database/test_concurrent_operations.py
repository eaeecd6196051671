"""PostgreSQL: operations that two replicas store and end at the same time."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import update

from orchestrator.domain.bounds import COUNT_MAX
from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.model.batch_job import InstanceCounters, JobState
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.observation import Withdrawn
from orchestrator.domain.model.operation import KEY_LIFETIME
from orchestrator.store import schema
from orchestrator.store.partition.partition_store import PartitionStore
from orchestrator.store.records.queries import SqlRecords
from tests.support.leases import hold
from tests.support.operation_records import operation_record
from tests.support.postgresql_replicas import (
    another_session,
    blocked,
    counts,
    replicas,
    withdraw_all,
)
from tests.support.stored_operations import PARTITION, due_for_batch_poll, submit
from tests.unit.domain.build import NOW, POLICY, read

if TYPE_CHECKING:
    from orchestrator.store.database.database import Database
    from tests.support.postgres import Server


@pytest.mark.parametrize("key", [None, "k-{turn}", "one that ends between two turns"])
async def test_two_replicas_receive_requests_for_the_same_jobs_at_once(
    postgresql_url: str, key: str | None
) -> None:
    rounds = 60
    async with replicas(postgresql_url, 2) as both:
        (fence,) = await hold(both[0], PARTITION)
        chance = Random(1)

        async def ask(each: Database, number: int, jobs: list[str]) -> str:
            records = SqlRecords(each, lambda: NOW)
            used, at = key and key.format(turn=number // 2), NOW + number // 2 * KEY_LIFETIME
            return await submit(records, number, *jobs, idempotency_key=used, created_at=at)

        for turn in range(rounds):
            jobs = [f"job-{turn}-{n}" for n in range(2)]
            asked = [ask(each, 2 * turn + n, chance.sample(jobs, 2)) for n, each in enumerate(both)]
            ids = await asyncio.gather(*asked)
            assert len(set(ids)) == (1 if key else 2)
        operations = rounds if key else 2 * rounds
        assert await counts(both[1]) == (operations, operations, 2 * rounds, 2 * rounds)
        await withdraw_all(both[0], fence)
        assert await counts(both[1]) == (operations, 0, 2 * rounds, 0)


async def test_an_operation_that_joins_an_ending_termination_is_not_left_unfinished(
    postgresql_url: str,
) -> None:
    """In either order: the live termination is joined before its end, or a new one is created."""
    rounds = 60
    async with replicas(postgresql_url, 2) as both:
        (fence,) = await hold(both[0], PARTITION)
        store = PartitionStore(both[0], fence)
        records = [SqlRecords(each, lambda: NOW) for each in both]
        for turn in range(rounds):
            job = f"job-{turn}"
            await submit(records[0], 2 * turn, job)
            (before,) = await due_for_batch_poll(store, 10)
            end = decide(before, Withdrawn(), NOW, POLICY)
            await asyncio.gather(
                store.apply([(before, end)], NOW), submit(records[1], 2 * turn + 1, job)
            )
            await withdraw_all(both[0], fence)
        assert (await counts(both[0]))[:2] == (2 * rounds, 0)


async def test_joining_waits_for_an_end_that_is_being_written(
    postgres: Server, postgresql_url: str
) -> None:
    async with replicas(postgresql_url, 2) as (one, other):
        (fence,) = await hold(one, PARTITION)
        records = SqlRecords(other, lambda: NOW)
        await submit(records, 1, "job-1")
        (before,) = await due_for_batch_poll(PartitionStore(one, fence), 10)
        async with another_session(postgresql_url) as connection:
            # The end of a termination as another replica writes it, up to its commit.
            await connection.execute(
                update(schema.terminations).values(
                    state=State.WITHDRAWN, finished_at=NOW, next_poll_at=None
                )
            )
            joining = asyncio.create_task(submit(records, 2, "job-1"))
            await blocked(postgres, postgresql_url)
            assert not joining.done()
            await connection.commit()
        await joining
        (again,) = await due_for_batch_poll(PartitionStore(one, fence), 10)
        assert again.id != before.id
        await withdraw_all(one, fence)
        second = await operation_record(records, "op_2")
        assert second is not None
        assert second.finished_at is not None


async def test_the_last_two_jobs_of_an_operation_end_at_once_in_two_partitions(
    postgres: Server, postgresql_url: str
) -> None:
    """One job was submitted before the host in the account's configuration changed."""
    async with replicas(postgresql_url, 2) as (one, other):
        old, new = await hold(one, PARTITION, "main@new")
        records = SqlRecords(one, lambda: NOW)
        await submit(records, 1, "job-1")
        await submit(records, 2, "job-1", "job-2", partition="main@new")
        stores = [PartitionStore(one, old), PartitionStore(other, new)]
        rows = [(await due_for_batch_poll(store, 10))[0] for store in stores]
        ends = [(row, decide(row, Withdrawn(), NOW, POLICY)) for row in rows]
        async with another_session(postgresql_url) as connection:
            # Both have counted the unfinished jobs before either goes on.
            await connection.exec_driver_sql("SELECT FROM operations WHERE id = 'op_2' FOR UPDATE")
            writing = [
                asyncio.create_task(store.apply([end], NOW))
                for store, end in zip(stores, ends, strict=True)
            ]
            await blocked(postgres, postgresql_url, 2)
            await connection.rollback()
        assert await asyncio.gather(*writing) == [1, 1]
        second = await operation_record(records, "op_2")
        assert second is not None
        assert (second.outcome, second.finished_at) == ("withdrawn", NOW)


async def test_the_largest_counts_can_be_stored(postgresql_url: str) -> None:
    async with replicas(postgresql_url, 1) as (database,):
        (fence,) = await hold(database, PARTITION)
        store, records = PartitionStore(database, fence), SqlRecords(database, lambda: NOW)
        await submit(records, 1, "job-1")
        (before,) = await due_for_batch_poll(store, 10)
        many = InstanceCounters(running=COUNT_MAX, failed=COUNT_MAX)
        seen = decide(before, read(JobState.RUNNING, many), NOW, POLICY)
        await store.apply([(before, seen)], NOW)
        found = await operation_record(records, "op_1")
        assert found is not None
        assert (found.instances.total, found.instances.live) == (2 * COUNT_MAX, COUNT_MAX)
