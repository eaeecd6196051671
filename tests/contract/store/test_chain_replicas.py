"""Replicas that write events of the same subjects at the same time."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from orchestrator.domain.audit.certificate_verification import verify
from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.errors import StoreUnavailable
from orchestrator.domain.leasing.leases import FencingToken
from orchestrator.domain.model.observation import Withdrawn
from orchestrator.services.certification import Certification
from orchestrator.store.database.database import Database
from orchestrator.store.partition.partition_store import PartitionStore
from orchestrator.store.records.operation_history import SqlHistories
from orchestrator.store.records.queries import SqlRecords
from orchestrator.store.schema import operations
from tests.support.leases import hold
from tests.support.stored_operations import PARTITION, chains, due_for_batch_poll, submit
from tests.unit.domain.build import NOW, POLICY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orchestrator.store.database.transaction import Transaction
    from tests.support.postgres import Server

OTHER = "other@host"


@pytest.fixture
async def replicas(postgres: Server, postgres_template: str) -> AsyncIterator[list[Database]]:
    """Four replicas on one database; the first one holds both partitions."""
    async with postgres.database(postgres_template) as url, AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(Database(url, lambda: datetime.now(UTC)))
            for _ in range(4)
        ]
        await hold(opened[0], PARTITION, OTHER)
        yield opened


async def write(database: Database, count: int, *, locked: bool) -> int:
    """Record events of one operation; return how many were stored."""

    async def work(transaction: Transaction) -> None:
        if locked:
            row = select(operations.c.id).where(operations.c.id == "op_1").with_for_update()
            await transaction.execute(row)
        transaction.record(at=NOW, operation_id="op_1", type="more")

    stored = 0
    for _ in range(count):
        try:
            await database.write(work)
        except StoreUnavailable:
            continue
        stored += 1
    return stored


async def test_events_written_under_the_row_lock_are_always_linked(
    replicas: list[Database],
) -> None:
    await submit(SqlRecords(replicas[0], lambda: NOW), 1, "job-1")
    stored = await asyncio.gather(*(write(each, 25, locked=True) for each in replicas))
    assert stored == [25] * 4
    assert len((await chains(replicas[0]))["op_1"]) == 1 + 4 * 25


async def test_events_written_without_the_row_lock_may_fail_and_never_fork(
    replicas: list[Database],
) -> None:
    await submit(SqlRecords(replicas[0], lambda: NOW), 1, "job-1")
    stored = await asyncio.gather(*(write(each, 25, locked=False) for each in replicas))
    assert len((await chains(replicas[0]))["op_1"]) == 1 + sum(stored)


async def test_operations_that_share_jobs_end_with_whichever_is_the_last(
    replicas: list[Database],
) -> None:
    """All replicas take requests while the jobs that these join end, in two partitions."""
    jobs = [f"job-{number}" for number in range(20)]
    first, *others = replicas
    await submit(SqlRecords(first, lambda: NOW), 1, *jobs)
    await submit(SqlRecords(first, lambda: NOW), 2, *jobs, partition=OTHER, account="b")

    async def end(partition: str) -> None:
        store = PartitionStore(first, FencingToken(partition, 1))
        while rows := await due_for_batch_poll(store, 7):
            await asyncio.gather(
                *(store.apply([(row, decide(row, Withdrawn(), NOW, POLICY))], NOW) for row in rows)
            )

    async def join(number: int, database: Database) -> None:
        for each in range(10):
            records = SqlRecords(database, lambda: NOW)
            await submit(records, 100 * number + each, *jobs[each : each + 5])

    joining = (join(number, each) for number, each in enumerate(others, start=3))
    await asyncio.gather(end(PARTITION), end(OTHER), *joining)
    await end(PARTITION)
    found = await chains(first)
    ends = [events for subject_id, events in found.items() if subject_id.startswith("op_")]
    assert [[each["type"] for each in events] for events in ends] == [["accepted", "finished"]] * 32
    certification = Certification(histories=SqlHistories(first), now=lambda: NOW)
    for number in (1, 2, 300, 409, 505):
        assert verify((await certification.issue(f"op_{number}")).data) == []
