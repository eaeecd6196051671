"""Databases of earlier versions, with all that is in them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from alembic import command
from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import create_async_engine

from orchestrator.domain.audit.verification import verify
from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.errors import ConfigurationError
from orchestrator.domain.leasing.lease import FencingToken
from orchestrator.domain.model.observation import Withdrawn
from orchestrator.services.certification import Certification
from orchestrator.store import schema
from orchestrator.store.database.database import Database
from orchestrator.store.database.migrations import alembic_config, upgrade
from orchestrator.store.database.url import shown
from orchestrator.store.partition.partition_store import PartitionStore
from orchestrator.store.records.operation_history import SqlHistories
from tests.contract.store.conftest import PARTITION
from tests.contract.store.database.test_migrations import ATTEMPT, OPERATION, TERMINATION
from tests.contract.store.test_chain import chains
from tests.contract.store.test_store import to_sweep
from tests.leases import hold
from tests.unit.domain.build import NOW, POLICY, later

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sqlalchemy import Connection

    from tests.postgres import Server

JOBS = 400
"""Of 401 subjects with some three events each, more than are linked at once."""


@pytest.fixture
async def database_url(template: tuple[Server, str] | None, tmp_path: Path) -> AsyncIterator[str]:
    """An empty one."""
    if template is None:
        yield f"sqlite+aiosqlite:///{tmp_path}/orchestrator.db"
    else:
        server, _ = template
        async with server.database() as url:
            yield url


def first_version(connection: Connection) -> None:
    """An operation of which a job has not ended, as revision 0001 had it."""
    command.upgrade(alembic_config(connection), "0001")
    numbers = range(JOBS)
    connection.execute(
        insert(schema.operations).values(OPERATION | {"jobs_total": JOBS, "jobs_unfinished": 1})
    )
    ended = {"state": "withdrawn", "finished_at": later(9), "revision": 2, "look_at": None}
    connection.execute(
        insert(schema.terminations),
        [
            TERMINATION
            | {"id": f"trm_{number}", "job_id": f"job-{number}", "finished_at": None}
            | ({"look_at": NOW} if number == 0 else ended)
            for number in numbers
        ],
    )
    connection.execute(
        insert(schema.operation_terminations),
        [{"operation_id": "op_1", "termination_id": f"trm_{number}"} for number in numbers],
    )
    rows: list[dict[str, Any]] = [
        {"at": NOW, "operation_id": "op_1", "type": "accepted", "why": "budget"}
    ]
    moves = [
        (0, "accepted", None, "queued"),
        (5, "seen_submitted", "queued", "held"),
        (9, "withdrawn", "held", "withdrawn"),
    ]
    rows += [
        {
            "at": later(seconds + 0.25),
            "termination_id": f"trm_{number}",
            "type": kind,
            "evidence": 0,
        }
        | {"from_state": before, "to_state": after, "why": "é" if seconds == 5 else None}
        for seconds, kind, before, after in moves
        for number in numbers
        if number or kind == "accepted"
    ]
    columns = dict.fromkeys(name for row in rows for name in row)
    connection.execute(insert(schema.events), [columns | row for row in rows])


async def as_it_was(url: str) -> list[dict[str, Any]]:
    engine = create_async_engine(url)
    kept = [schema.events.c[name] for name in ("id", "at", "termination_id", "type", "why")]
    async with engine.begin() as connection:
        await connection.run_sync(first_version)
        rows = (await connection.execute(select(*kept).order_by("id"))).mappings().all()
    await engine.dispose()
    return [dict(row) for row in rows]


async def test_events_of_the_first_version_are_chained_as_they_are(database_url: str) -> None:
    before = await as_it_was(database_url)
    assert len(before) > 1000
    upgraded = await upgrade(database_url)
    reached = f"upgraded from schema revision 0001 to {upgraded.revision}"
    assert str(upgraded) == f"{shown(database_url)}: {reached}"
    async with Database(database_url, lambda: datetime.now(UTC)) as database:
        found = await chains(database)
        after = sorted(
            (each for events in found.values() for each in events), key=lambda e: e["id"]
        )
        assert [{name: each[name] for name in before[0]} for each in after] == before
        assert {each["facts"] for each in after} == {None}
        await hold(database, PARTITION)
        store = PartitionStore(database, FencingToken(PARTITION, 1))
        (queued,) = await to_sweep(store, 10)
        await store.apply([(queued, decide(queued, Withdrawn(), later(20), POLICY))], later(20))
        assert [len((await chains(database))[each]) for each in ("op_1", "trm_0", "trm_1")] == [
            2,
            2,
            3,
        ]
        certification = Certification(histories=SqlHistories(database), now=lambda: NOW)
        data = (await certification.issue("op_1")).data
    assert verify(data) == []
    first, second, *_ = json.loads(data)["certificate"]["jobs"]
    said = "what {} of its {} events rested on: it was not kept then"
    assert first["not_proven"][-1] == said.format(1, 2)
    assert second["not_proven"][-1] == said.format(3, 3)


async def test_a_start_in_the_year_1_is_one_at_once(database_url: str) -> None:
    """PostgreSQL had it as -infinity; infinite times and numbers are mended there, too."""
    engine = create_async_engine(database_url)
    shared = engine.dialect.name == "postgresql"
    then = "'-infinity'" if shared else "'0001-01-01 00:00:00.000000'"
    async with engine.begin() as connection:
        await connection.run_sync(lambda sync: command.upgrade(alembic_config(sync), "0007"))
        await connection.execute(
            insert(schema.terminations).values(TERMINATION | {"finished_at": None, "look_at": NOW})
        )
        await connection.execute(text(f"UPDATE terminations SET not_before = {then}"))
        if shared:
            infinite = "look_at = 'infinity', settle_s = 'nan', moved_at = '-infinity'"
            await connection.execute(text(f"UPDATE terminations SET {infinite}"))
    await engine.dispose()
    await upgrade(database_url)
    async with Database(database_url, lambda: datetime.now(UTC)) as database:
        await hold(database, PARTITION)
        (row,) = await to_sweep(PartitionStore(database, FencingToken(PARTITION, 1)), 10)
    assert (row.not_before, row.set_aside) == (None, None)
    assert not shared or row.settle_s == 0


def before_first_calls_were_kept(connection: Connection) -> None:
    """Two operations that run, the jobs of one called."""
    command.upgrade(alembic_config(connection), "0007")
    for number in (1, 2):
        operation_id, termination_id = f"op_{number}", f"trm_{number}"
        connection.execute(insert(schema.operations).values(OPERATION | {"id": operation_id}))
        ids = {"id": termination_id, "job_id": f"job-{number}"}
        connection.execute(insert(schema.terminations).values(TERMINATION | ids))
        link = {"operation_id": operation_id, "termination_id": termination_id}
        connection.execute(insert(schema.operation_terminations).values(link))
    answer = {"answered_at": later(9), "outcome": "accepted"}
    for number, seconds in ((1, 7), (2, 5)):
        call = {"termination_id": "trm_2", "number": number, "sent_at": later(seconds)}
        connection.execute(insert(schema.attempts).values(ATTEMPT | call | answer))


async def test_an_operation_that_was_called_is_known_to_be(database_url: str) -> None:
    """Else its next call would be told as its first."""
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.run_sync(before_first_calls_were_kept)
    await upgrade(database_url)
    kept = select(schema.operations.c.id, schema.operations.c.first_called_at).order_by("id")
    async with engine.connect() as connection:
        rows = (await connection.execute(kept)).all()
    await engine.dispose()
    assert [tuple(row) for row in rows] == [("op_1", None), ("op_2", later(5))]


def queued_before_there_were_turns(connection: Connection) -> None:
    """Three jobs of one operation and two of another, one of them shared, as revision 0007 had."""
    command.upgrade(alembic_config(connection), "0007")
    wanted = {"op_1": (0, 1, 2), "op_2": (2, 3)}
    connection.execute(
        insert(schema.operations),
        [
            OPERATION | {"id": id_, "jobs_total": len(jobs), "jobs_unfinished": len(jobs)}
            for id_, jobs in wanted.items()
        ],
    )
    waiting = {"job_state": "RUNNING", "run": 1, "call_at": NOW, "look_at": later(60)}
    connection.execute(
        insert(schema.terminations),
        [
            TERMINATION | waiting | {"id": f"trm_{number}", "job_id": f"job-{number}"}
            for number in range(4)
        ],
    )
    connection.execute(
        insert(schema.operation_terminations),
        [
            {"operation_id": id_, "termination_id": f"trm_{number}"}
            for id_, jobs in wanted.items()
            for number in jobs
        ],
    )


async def test_operations_that_were_queued_before_take_turns(database_url: str) -> None:
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.run_sync(queued_before_there_were_turns)
    await engine.dispose()
    await upgrade(database_url)
    async with Database(database_url, lambda: datetime.now(UTC)) as database:
        await hold(database, PARTITION)
        store = PartitionStore(database, FencingToken(PARTITION, 1))
        ready, _ = await store.callable(NOW, 10, capture_wait_s=0)
        assert [row.job_id for row in ready] == ["job-2", "job-0", "job-3", "job-1"]
        async with database.read() as connection:
            turns = await connection.execute(select(schema.operations.c.turn).order_by("seq"))
            assert turns.scalars().all() == [2, 2]


async def test_tables_without_a_schema_revision_are_refused_and_told_as_such(
    database_url: str,
) -> None:
    await upgrade(database_url)
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE alembic_version"))
    await engine.dispose()
    with pytest.raises(ConfigurationError, match=r"alembic_version.* is missing: restore that"):
        await upgrade(database_url)
