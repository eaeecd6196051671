"""PostgreSQL: upgrades of the schema, several at once, and beside sessions that hold locks."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from shutil import copytree
from typing import TYPE_CHECKING, Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import make_url

from orchestrator.domain.errors import ConfigurationError, StoreUnavailable
from orchestrator.store import schema
from orchestrator.store.database import database as module
from orchestrator.store.database import migrations, postgresql
from orchestrator.store.database.migrations import alembic_config, upgrade
from orchestrator.store.database.url import dialect_of
from orchestrator.store.records.queries import SqlRecords
from tests.support.postgresql_replicas import SOON_S, another_session, blocked, replicas
from tests.unit.domain.build import NOW

if TYPE_CHECKING:
    from sqlalchemy import Connection as SyncConnection

    from tests.support.postgres import Server

pytestmark = pytest.mark.usefixtures("log_from_info")

HEAD = ScriptDirectory.from_config(alembic_config()).get_current_head()
NEXT = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "next", {head!r}


def upgrade():
    op.add_column("terminations", sa.Column("new", sa.Text()))
"""
"""A migration of a later version."""


async def description_of(url: str) -> dict[str, list[Any]]:
    """Return the server's own description of the tables, except Alembic's."""
    asked = {
        "columns": (
            "SELECT table_name, column_name, data_type, is_nullable, column_default "
            "FROM information_schema.columns WHERE table_schema = 'public' "
            "AND table_name <> 'alembic_version'"
        ),
        "constraints": (
            "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) "
            "FROM pg_constraint WHERE connamespace = 'public'::regnamespace "
            "AND conrelid <> 'alembic_version'::regclass"
        ),
        "indexes": (
            "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' "
            "AND tablename <> 'alembic_version'"
        ),
    }
    async with another_session(url) as connection:
        return {
            name: sorted(tuple(row) for row in await connection.exec_driver_sql(statement))
            for name, statement in asked.items()
        }


def differences(connection: SyncConnection) -> list[Any]:
    options = {"compare_type": True, "compare_server_default": True}
    context = MigrationContext.configure(connection, opts=options)
    return list(compare_metadata(context, schema.metadata))


async def test_an_upgraded_database_is_what_the_tables_say(
    postgres: Server, postgresql_url: str
) -> None:
    """Includes what Alembic does not compare: the text of a CHECK, the WHERE of an index."""
    async with another_session(postgresql_url) as connection:
        assert await connection.run_sync(differences) == []
    async with postgres.database() as url:
        async with another_session(url) as connection:
            await connection.run_sync(schema.metadata.create_all)
            # Only so that both can be described by the same queries.
            await connection.exec_driver_sql("CREATE TABLE alembic_version ()")
            await connection.commit()
        made = await description_of(url)
    assert await description_of(postgresql_url) == made
    assert any("CHECK" in definition for _, _, definition in made["constraints"])
    assert any("WHERE (finished_at IS NULL)" in definition for _, definition in made["indexes"])


async def test_many_upgrade_at_once(postgres: Server) -> None:
    async with postgres.database() as url:
        found = await asyncio.gather(*(upgrade(url) for _ in range(8)))
        assert [each.revision for each in found] == [HEAD] * 8
        # One upgrade created it.
        assert sorted(str(each.before) for each in found) == [*[str(HEAD)] * 7, "None"]


async def test_processes_upgrade_at_once(postgres: Server) -> None:
    program = (
        "import asyncio, sys; from orchestrator.store.database.migrations import upgrade; "
        "print(asyncio.run(upgrade(sys.argv[1])).revision)"
    )
    async with postgres.database() as url:
        started = [
            await asyncio.create_subprocess_exec(
                sys.executable,
                *("-c", program, url),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd=Path(module.__file__).parents[3],
            )
            for _ in range(3)
        ]
        ended = await asyncio.gather(*(process.communicate() for process in started))
        assert [out.decode().strip() for out, _ in ended] == [HEAD] * 3, ended


@pytest.mark.parametrize("limit", [None, "statement_timeout", "lock_timeout"])
async def test_an_upgrade_waits_for_another_one_as_long_as_that_takes(
    postgres: Server,
    postgresql_url: str,
    limit: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also if the user or the database has shorter limits of its own."""
    for name in ("STATEMENT_TIMEOUT_S", "LOCK_TIMEOUT_S", "IDLE_TIMEOUT_S"):
        monkeypatch.setattr(postgresql, name, 0.1)
    if limit:
        theirs = make_url(postgresql_url).database
        await postgres.fetch(f'ALTER DATABASE "{theirs}" SET {limit} = 200')
    async with another_session(postgresql_url) as connection:
        await connection.exec_driver_sql("SET statement_timeout = 0")
        await dialect_of(postgresql_url).before_upgrade(connection)
        waiting = asyncio.create_task(upgrade(postgresql_url))
        await blocked(postgres, postgresql_url)
        await asyncio.wait([waiting], timeout=0.5)
        await connection.rollback()
    assert (await waiting).revision == HEAD
    assert caplog.messages == ["the start waits until another session has upgraded the database"]


@pytest.mark.parametrize(
    "holding",
    ["SELECT count(*) FROM terminations", "LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE"],
)
async def test_an_upgrade_waits_for_locked_tables_without_delaying_others(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holding: str
) -> None:
    """All sessions that want the table wait behind an upgrade that waits for it."""
    versions = tmp_path / "migrations"
    copytree(migrations.MIGRATIONS, versions)
    (versions / "versions" / "next.py").write_text(NEXT.format(head=HEAD))
    async with replicas(postgresql_url, 1) as (running,):
        monkeypatch.setattr(migrations, "MIGRATIONS", versions)
        async with another_session(postgresql_url) as connection:
            await connection.exec_driver_sql(holding)
            async with asyncio.timeout(SOON_S):
                with pytest.raises(StoreUnavailable, match="in pg_stat_activity"):
                    await upgrade(postgresql_url)
            await SqlRecords(running, lambda: NOW).ping()
            await connection.rollback()
        upgraded = await upgrade(postgresql_url)
        assert (upgraded.before, upgraded.revision) == (HEAD, "next")


@pytest.mark.parametrize("state", ["40001", "40P01", "55P03"])
async def test_an_upgrade_that_conflicts_with_other_sessions_is_tried_again(
    postgresql_url: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loses(connection: SyncConnection) -> None:
        connection.exec_driver_sql(f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$")

    monkeypatch.setattr(migrations, "_upgrade", loses)
    with pytest.raises(StoreUnavailable) as caught:
        await upgrade(postgresql_url)
    assert "see whether the server runs" not in str(caught.value)


async def test_a_database_of_a_newer_version_is_refused_and_left_alone(postgresql_url: str) -> None:
    async with another_session(postgresql_url) as connection:
        await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        await connection.commit()
    before = await description_of(postgresql_url)
    with pytest.raises(ConfigurationError, match="schema revision 9999, unknown to this version"):
        await upgrade(postgresql_url)
    assert await description_of(postgresql_url) == before
