"""Replicas on one PostgreSQL database, what they write, and what tests do to their sessions."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, make_url, select, text
from sqlalchemy.ext.asyncio import create_async_engine

from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.errors import StoreUnavailable
from orchestrator.domain.model.observation import Withdrawn
from orchestrator.store import schema
from orchestrator.store.database import database as module
from orchestrator.store.database.database import Database
from orchestrator.store.partition.partition_store import PartitionStore
from orchestrator.store.records.queries import SqlRecords
from tests.support.stored_operations import due_for_batch_poll
from tests.unit.domain.build import NOW, POLICY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import pytest
    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.domain.leasing.leases import FencingToken
    from orchestrator.store.database.transaction import Transaction
    from tests.support.postgres import Server

SOON_S = 10.0
"""Longer than anything here takes, unless it hangs: the daemon's limit for every call."""
PASSWORD = "hunter2"


def changed(url: str, **changes: Any) -> str:
    return make_url(url).set(**changes).render_as_string(hide_password=False)


@asynccontextmanager
async def replicas(url: str, count: int) -> AsyncIterator[list[Database]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(Database(url, lambda: datetime.now(UTC)))
            for _ in range(count)
        ]


@asynccontextmanager
async def another_session(url: str) -> AsyncIterator[AsyncConnection]:
    """Another session, in a transaction."""
    engine = create_async_engine(url)
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


def write_name(name: str) -> Callable[[Transaction], Awaitable[str]]:
    """Make one write."""

    async def work(transaction: Transaction) -> str:
        await transaction.execute(insert(schema.partitions).values(name=name, epoch=0))
        return name

    return work


async def written_names(database: Database) -> set[str]:
    async with database.read() as connection:
        return set((await connection.execute(select(schema.partitions.c.name))).scalars())


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(2 * SOON_S):
        while not happened():  # noqa: ASYNC110 - of another process, or a log
            await asyncio.sleep(0.01)


async def wait_until_available(database: Database) -> None:
    """Wait until the database can be written and read again, within the promised time."""
    async with asyncio.timeout(SOON_S):
        while True:
            try:
                await SqlRecords(database, lambda: NOW).ping()
            except StoreUnavailable:
                await asyncio.sleep(0.01)
            else:
                return


async def blocked(server: Server, url: str, count: int = 1) -> None:
    """Wait until this number of the database's backends wait for a lock."""
    name = make_url(url).database
    async with asyncio.timeout(SOON_S):
        while True:
            ((waiting,),) = await server.fetch(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE datname = $1 AND wait_event_type = 'Lock'",
                name,
            )
            if waiting >= count:
                return
            await asyncio.sleep(0.01)


async def end_sessions(server: Server, url: str) -> int:
    """Make the server end all connections to a database."""
    found = await server.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1",
        make_url(url).database,
    )
    return len(found)


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == module.__name__
    ]


def assert_each_outage_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Its start and end, and no failure between; a busy machine may cause outages of its own."""
    for subject in ("database reads", "database writes"):
        levels = [level for level, text in logged(caplog) if text.startswith(subject)]
        assert levels[::2] == ["ERROR"] * len(levels[::2])
        assert levels[1::2] == ["WARNING"] * len(levels[1::2])


async def ran(database: Database, statement: str) -> None:
    async def work(transaction: Transaction) -> None:
        await transaction.execute(text(statement))

    await database.write(work)


async def withdraw_all(database: Database, fence: FencingToken) -> None:
    store = PartitionStore(database, fence)
    while rows := await due_for_batch_poll(store, 100):
        await store.apply([(row, decide(row, Withdrawn(), NOW, POLICY)) for row in rows], NOW)


async def counts(database: Database) -> tuple[int, ...]:
    """Count the operations, the unfinished ones, the terminations, and the live ones."""
    async with database.read() as connection:
        found = await connection.execute(
            text(
                "SELECT (SELECT count(*) FROM operations),"
                " (SELECT count(*) FROM operations WHERE finished_at IS NULL),"
                " (SELECT count(*) FROM terminations),"
                " (SELECT count(*) FROM terminations WHERE finished_at IS NULL)"
            )
        )
        return tuple(found.one())


def fails(
    state: str, tries: list[float], *, times: int = 2**31
) -> Callable[[Transaction], Awaitable[None]]:
    """A write that fails with this SQLSTATE a number of times."""

    async def work(transaction: Transaction) -> None:
        tries.append(time.monotonic())
        if len(tries) <= times:
            await transaction.execute(text(f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$"))

    return work
