"""PostgreSQL: the time limits of a transaction, and the order in which events become visible."""

from __future__ import annotations

import asyncio
import time
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete, insert, select, text, update

from orchestrator.domain.errors import LeaseLost
from orchestrator.domain.leasing.leases import FencingToken
from orchestrator.store import schema
from orchestrator.store.database import postgresql
from orchestrator.store.partition.lease_store import SqlLeaseStore
from orchestrator.store.records.queries import SqlRecords
from tests.support.leases import hold
from tests.support.postgresql_replicas import replicas, wait_until_available
from tests.support.stored_operations import PARTITION
from tests.unit.domain.build import NOW

if TYPE_CHECKING:
    from orchestrator.store.database.database import Database
    from orchestrator.store.database.transaction import Transaction


async def test_a_reader_that_continues_after_an_event_misses_none(postgresql_url: str) -> None:
    """With many writers, some of which take long between their events and their commits."""
    async with replicas(postgresql_url, 4) as (*writers, reader):
        seen: list[int] = []
        done = False

        async def follow() -> None:
            events = schema.events.c
            while True:
                last = done
                query = select(events.id).where(events.id > max(seen, default=0))
                async with reader.read() as connection:
                    seen.extend((await connection.execute(query.order_by(events.id))).scalars())
                if last:
                    return

        async def write(database: Database, first: int) -> None:
            chance = Random(first)
            for number in range(first, first + 40):

                async def work(transaction: Transaction, number: int = number) -> None:
                    row = _OPERATION | {"id": f"op_{number}"}
                    await transaction.execute(insert(schema.operations).values(row))
                    for _ in range(3):
                        transaction.record(at=NOW, operation_id=f"op_{number}", type="accepted")
                    finish = transaction.finish

                    async def slowly() -> None:
                        await finish()
                        pause = select(text(f"pg_sleep({chance.random() * 0.01})"))
                        await transaction.execute(pause)

                    transaction.finish = slowly  # type: ignore[method-assign]

                await database.write(work)

        following = asyncio.create_task(follow())
        await asyncio.gather(*(write(each, 1000 * n) for n, each in enumerate(writers)))
        done = True
        await following
        async with reader.read() as connection:
            all_there_are = (await connection.execute(select(schema.events.c.id))).scalars().all()
    assert len(all_there_are) == 3 * 40 * 3
    assert set(seen) == set(all_there_are)


_OPERATION: dict[str, Any] = {
    "account": "main",
    "region": "ap-guangzhou",
    "partition": PARTITION,
    "reason": "budget",
    "requested_by": "me",
    "request_hash": "h",
    "duplicates_merged": 0,
    "jobs_total": 1,
    "jobs_unfinished": 1,
    "created_at": NOW,
}


@pytest.mark.parametrize("within_a_statement", [False, True])
async def test_a_replica_paused_within_a_transaction_delays_others_for_a_short_time(
    postgresql_url: str, *, within_a_statement: bool
) -> None:
    """The delay is shorter than their lock timeout, and the paused replica has written nothing."""
    assert postgresql.IDLE_TIMEOUT_S + postgresql.STALLED_CHECK_S < postgresql.LOCK_TIMEOUT_S
    async with replicas(postgresql_url, 2) as (one, other), other.listening(lambda _: None):
        (fence,) = await hold(one, PARTITION)
        holds, goes_on = asyncio.Event(), asyncio.Event()
        runs = 0

        async def work(transaction: Transaction) -> None:
            nonlocal runs
            runs += 1
            await transaction.lock_partition(fence)
            if within_a_statement and runs == 1:
                raw: Any = (await transaction.connection.get_raw_connection()).driver_connection
                await raw.prepare("SELECT 1")  # parsed, and not bound
            holds.set()
            await goes_on.wait()
            await transaction.execute(
                update(schema.partitions).values(trouble_code="C", trouble_message="m")
            )

        paused = asyncio.create_task(one.write(work))
        await holds.wait()
        began = time.monotonic()
        assert await SqlLeaseStore(other).take("another", {PARTITION: 1}) == [
            FencingToken(PARTITION, 2)
        ]
        assert time.monotonic() - began < postgresql.LOCK_TIMEOUT_S
        goes_on.set()
        with pytest.raises(LeaseLost):
            await paused
        assert runs == 2
        assert await SqlRecords(other, lambda: NOW).troubles() == {}
        await wait_until_available(one)


async def test_each_transaction_has_its_limits_and_leaves_none_behind(postgresql_url: str) -> None:
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    asked = text("SELECT " + ", ".join(f"current_setting('{name}')" for name in names))
    limits = ["5s", "4s", "3s"]
    async with replicas(postgresql_url, 1) as (database,):

        async def work(transaction: Transaction) -> list[str]:
            return list((await transaction.execute(asked)).one())

        assert await database.write(work) == limits
        async with database.read() as connection:
            assert list((await connection.execute(asked)).one()) == limits
            level = await connection.scalar(text("SHOW transaction_isolation"))
            assert level == "repeatable read"
            with pytest.raises(Exception, match="read-only transaction"):
                await connection.execute(delete(schema.events))
            await connection.rollback()
        for engine in (database.dialect.writers, database.dialect.readers):
            async with engine.connect() as connection:
                raw: Any = (await connection.get_raw_connection()).driver_connection
                assert [await raw.fetchval(f"SHOW {name}") for name in names] == ["0"] * 3
                assert await raw.fetchval("SELECT count(*) FROM pg_prepared_statements") <= 1
