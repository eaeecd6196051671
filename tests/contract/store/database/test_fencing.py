"""PostgreSQL: replicas that take partitions from each other, and write to them."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, select, text, update
from sqlalchemy.util import await_only

from orchestrator.domain.errors import LeaseLost
from orchestrator.domain.leasing.leases import FencingToken
from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.store import schema
from orchestrator.store.partition.lease_store import SqlLeaseStore
from orchestrator.store.partition.partition_store import PartitionStore
from orchestrator.store.records.queries import SqlRecords
from tests.support.leases import HOUR_S, hold
from tests.support.postgresql_replicas import SOON_S, blocked, replicas
from tests.support.stored_operations import PARTITION
from tests.unit.domain.build import NOW

if TYPE_CHECKING:
    from orchestrator.store.database.database import Database
    from orchestrator.store.database.transaction import Transaction
    from tests.support.postgres import Server


async def test_a_partition_is_not_taken_while_its_holder_writes(
    postgres: Server, postgresql_url: str
) -> None:
    async with replicas(postgresql_url, 2) as (one, other):
        (fence,) = await hold(one, PARTITION)
        holds, goes_on = asyncio.Event(), asyncio.Event()

        async def work(transaction: Transaction) -> None:
            await transaction.lock_partition(fence)
            holds.set()
            await goes_on.wait()
            await transaction.execute(
                update(schema.partitions).values(trouble_code="C", trouble_message="m")
            )

        writing = asyncio.create_task(one.write(work))
        await holds.wait()
        taking = asyncio.create_task(SqlLeaseStore(other).take("another", {PARTITION: 1}))
        await blocked(postgres, postgresql_url)
        assert not taking.done()
        goes_on.set()
        await writing
        assert await taking == [FencingToken(PARTITION, 2)]
        # The lease was taken after the health was stored, and cleared it.
        assert await SqlRecords(other, lambda: NOW).troubles() == {}
        with pytest.raises(LeaseLost):
            await PartitionStore(one, fence).set_health(ErrorDetail(code="C", message="m"), None)


class Rivals:
    """Two replicas that take one partition from each other, and both write to it."""

    def __init__(self) -> None:
        self.written = self.lost = 0

    @property
    def done(self) -> bool:
        return self.written > 200 and self.lost > 20

    async def drive(self, database: Database, name: str) -> None:
        chance, leases = Random(name), SqlLeaseStore(database)
        while not self.done:
            async with database.read() as connection:
                epoch = await connection.scalar(select(schema.partitions.c.epoch)) or 0
            fences = await leases.take(name, {"p1": epoch})
            for fence in fences * chance.randrange(1, 6):
                await self._write(database, fence, chance.random() * 0.002)
            if fences and chance.random() < 0.2:
                await leases.release(fences[0])

    async def _write(self, database: Database, fence: FencingToken, pause_s: float) -> None:
        async def work(transaction: Transaction) -> None:
            await transaction.lock_partition(fence)
            await transaction.execute(text(f"SELECT pg_sleep({pause_s})"))
            await transaction.execute(update(schema.probes).values(number=fence.epoch))

        try:
            await database.write(work)
        except LeaseLost:
            self.lost += 1
        else:
            self.written += 1

    async def watch(self, database: Database) -> list[int]:
        seen = []
        while not self.done:
            async with database.read() as connection:
                seen.append(await connection.scalar(select(schema.probes.c.number)) or 0)
        return seen


async def test_nothing_stale_is_written_in_any_order_of_writes(postgresql_url: str) -> None:
    """Each write stores its epoch, which never decreases."""
    rivals = Rivals()
    async with replicas(postgresql_url, 3) as (*drivers, watcher):
        await hold(watcher, "p1")
        async with asyncio.timeout(3 * SOON_S), asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(rivals.watch(watcher))
            for number, each in enumerate(drivers):
                tasks.create_task(rivals.drive(each, f"replica-{number}"))
    seen = watching.result()
    assert seen == sorted(seen)
    assert len(set(seen)) > 10


async def test_nothing_is_taken_from_a_replica_that_joins_during_a_renewal(
    postgresql_url: str,
) -> None:
    """Each of the two reads of a renewal sees what was committed before it."""
    async with replicas(postgresql_url, 2) as (one, other):
        mine, theirs = SqlLeaseStore(one), SqlLeaseStore(other)
        await mine.join("me", ["new@cloud"], HOUR_S)
        taken: list[FencingToken] = []

        async def overtake() -> None:
            await theirs.join("they", ["new@cloud"], HOUR_S)
            standing = await theirs.renew("they", HOUR_S)
            assert standing is not None
            taken.extend(await theirs.take("they", {"new@cloud": standing.epochs["new@cloud"]}))

        @event.listens_for(one.dialect.writers.sync_engine, "after_cursor_execute")
        def between(_: Any, __: Any, statement: str, *___: Any) -> None:
            if not taken and statement.startswith("SELECT") and "FROM" in statement:
                await_only(overtake())

        standing = await mine.renew("me", HOUR_S)
        assert standing is not None
        assert taken == [FencingToken("new@cloud", 1)]
        free = {
            name: standing.epochs[name] for name, holder in standing.holders.items() if not holder
        }
        assert await mine.take("me", {name: free[name] for name in free if "new" in name}) == []
