"""Statements visit the thread of their connection once, and answer as those of the driver do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiosqlite
import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from orchestrator.store.schema import partitions

if TYPE_CHECKING:
    from orchestrator.store.database.database import Database
    from orchestrator.store.database.transaction import Transaction

ROWS = [{"name": f"a{number}", "epoch": number, "followed_s": 0} for number in range(3)]
NAMES = (
    select(partitions.c.name)
    .where(partitions.c.name.in_([row["name"] for row in ROWS]))
    .order_by(partitions.c.name)
)


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite alone is tested here."""
    return sqlite_url


@pytest.fixture
def visits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the functions that were run in the threads of connections."""
    made: list[str] = []
    execute = aiosqlite.Connection._execute

    async def counted(connection: Any, function: Any, *args: Any, **known: Any) -> Any:
        made.append(function.__name__)
        return await execute(connection, function, *args, **known)

    monkeypatch.setattr(aiosqlite.Connection, "_execute", counted)
    return made


async def fill(transaction: Transaction) -> int:
    return (await transaction.execute(insert(partitions), ROWS)).rowcount


async def names(database: Database) -> list[str]:
    async with database.read() as connection:
        return list((await connection.execute(NAMES)).scalars())


async def test_a_statement_takes_one_visit(database: Database, visits: list[str]) -> None:
    assert await database.write(fill) == len(ROWS)
    await names(database)
    visits.clear()

    async with database.read(one_statement=True) as connection:
        assert list((await connection.execute(NAMES)).scalars()) == [row["name"] for row in ROWS]
    assert visits == ["execute"]

    visits.clear()
    async with database.read() as connection:
        await connection.execute(NAMES)
        await connection.execute(NAMES)
    assert visits == ["execute", "execute", "execute", "commit"]

    visits.clear()
    changed = await database.write(
        lambda transaction: transaction.execute(
            update(partitions).where(partitions.c.epoch == 2).values(epoch=7)
        )
    )
    assert changed.rowcount == 1
    assert visits == ["execute", "execute", "commit"]


async def test_a_failed_transaction_is_undone(database: Database, visits: list[str]) -> None:
    async def twice(transaction: Transaction) -> None:
        await fill(transaction)
        await transaction.execute(insert(partitions), ROWS)

    with pytest.raises(IntegrityError):
        await database.write(twice)
    assert visits[-1] == "rollback"
    assert await database.write(fill) == len(ROWS)


async def test_a_read_that_is_cancelled_leaves_no_transaction_behind(database: Database) -> None:
    for _ in range(50):
        task = asyncio.create_task(names(database))
        for _ in range(4):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await database.write(fill)
    assert await names(database) == [row["name"] for row in ROWS]
