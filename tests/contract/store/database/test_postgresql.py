"""PostgreSQL: several replicas on one database, and network failures."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from shutil import copytree
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import delete, event, insert, make_url, select, text, update
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import await_only

from orchestrator.domain.bounds import COUNT_MAX
from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.errors import ConfigurationError, LeaseLost, StoreUnavailable
from orchestrator.domain.leasing.lease import FencingToken
from orchestrator.domain.model.batch_job import InstanceCounters, JobState
from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.observation import Withdrawn
from orchestrator.domain.model.operation import KEY_LIFETIME
from orchestrator.store import schema
from orchestrator.store.database import database as module
from orchestrator.store.database import migrations, postgresql, sqlite
from orchestrator.store.database.database import Database
from orchestrator.store.database.migrations import alembic_config, upgrade
from orchestrator.store.database.postgresql_connections import Connection
from orchestrator.store.database.url import dialect_of
from orchestrator.store.partition.lease_store import SqlLeaseStore
from orchestrator.store.partition.partition_store import PartitionStore
from orchestrator.store.records.queries import SqlRecords
from tests.contract.store.conftest import PARTITION
from tests.contract.store.test_store import submit, to_sweep
from tests.support.leases import HOUR_S, hold
from tests.support.postgres import own_server
from tests.support.tcp_proxy import TcpProxy
from tests.unit.domain.build import NOW, POLICY, read

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from sqlalchemy import Connection as SyncConnection
    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.store.database.transaction import Transaction
    from tests.support.postgres import OwnServer, Server

HEAD = ScriptDirectory.from_config(alembic_config()).get_current_head()
NEXT = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "next", {head!r}


def upgrade():
    op.add_column("terminations", sa.Column("new", sa.Text()))
"""
"""A migration of a later version."""
SOON_S = 10.0
"""Longer than anything here takes, unless it hangs: the daemon's limit for every call."""
PASSWORD = "hunter2"


@pytest.fixture
async def database_url(postgres: Server, postgres_template: str) -> AsyncIterator[str]:
    async with postgres.database(postgres_template) as url:
        yield url


@pytest.fixture(scope="module")
def own() -> Iterator[OwnServer]:
    """A server that a test may stop, and from which it may exclude its own user."""
    settings = {"max_connections": "15", "superuser_reserved_connections": "1"}
    with own_server(settings) as server:
        yield server


@pytest.fixture
async def own_url(own: OwnServer) -> AsyncIterator[str]:
    async with own.database() as url:
        await upgrade(url)
        yield url


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="orchestrator")


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
async def somebody(url: str) -> AsyncIterator[AsyncConnection]:
    """Another session, in a transaction."""
    engine = create_async_engine(url)
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


def note(name: str) -> Callable[[Transaction], Awaitable[str]]:
    """Make one write."""

    async def work(transaction: Transaction) -> str:
        await transaction.execute(insert(schema.partitions).values(name=name, epoch=0))
        return name

    return work


async def noted(database: Database) -> set[str]:
    async with database.read() as connection:
        return set((await connection.execute(select(schema.partitions.c.name))).scalars())


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(2 * SOON_S):
        while not happened():  # noqa: ASYNC110 - of another process, or a log
            await asyncio.sleep(0.01)


async def works(database: Database) -> None:
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


async def cut_off(server: Server, url: str) -> int:
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


# --- the schema ----------------------------------------------------------------------------------


async def made_of(url: str) -> dict[str, list[Any]]:
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
    async with somebody(url) as connection:
        return {
            name: sorted(tuple(row) for row in await connection.exec_driver_sql(statement))
            for name, statement in asked.items()
        }


def differences(connection: SyncConnection) -> list[Any]:
    options = {"compare_type": True, "compare_server_default": True}
    context = MigrationContext.configure(connection, opts=options)
    return list(compare_metadata(context, schema.metadata))


async def test_an_upgraded_database_is_what_the_tables_say(
    postgres: Server, database_url: str
) -> None:
    """Includes what Alembic does not compare: the text of a CHECK, the WHERE of an index."""
    async with somebody(database_url) as connection:
        assert await connection.run_sync(differences) == []
    async with postgres.database() as url:
        async with somebody(url) as connection:
            await connection.run_sync(schema.metadata.create_all)
            # Only so that both can be described by the same queries.
            await connection.exec_driver_sql("CREATE TABLE alembic_version ()")
            await connection.commit()
        made = await made_of(url)
    assert await made_of(database_url) == made
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
    database_url: str,
    limit: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also if the user or the database has shorter limits of its own."""
    for name in ("STATEMENT_TIMEOUT_S", "LOCK_TIMEOUT_S", "IDLE_TIMEOUT_S"):
        monkeypatch.setattr(postgresql, name, 0.1)
    if limit:
        theirs = make_url(database_url).database
        await postgres.fetch(f'ALTER DATABASE "{theirs}" SET {limit} = 200')
    async with somebody(database_url) as connection:
        await connection.exec_driver_sql("SET statement_timeout = 0")
        await dialect_of(database_url).before_upgrade(connection)
        waiting = asyncio.create_task(upgrade(database_url))
        await blocked(postgres, database_url)
        await asyncio.wait([waiting], timeout=0.5)
        await connection.rollback()
    assert (await waiting).revision == HEAD
    assert caplog.messages == ["the start waits until another session has upgraded the database"]


@pytest.mark.parametrize(
    "holding",
    ["SELECT count(*) FROM terminations", "LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE"],
)
async def test_an_upgrade_waits_for_what_is_locked_without_holding_up_others(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holding: str
) -> None:
    """All sessions that want the table wait behind an upgrade that waits for it."""
    versions = tmp_path / "migrations"
    copytree(migrations.MIGRATIONS, versions)
    (versions / "versions" / "next.py").write_text(NEXT.format(head=HEAD))
    async with replicas(database_url, 1) as (running,):
        monkeypatch.setattr(migrations, "MIGRATIONS", versions)
        async with somebody(database_url) as connection:
            await connection.exec_driver_sql(holding)
            async with asyncio.timeout(SOON_S):
                with pytest.raises(StoreUnavailable, match="in pg_stat_activity"):
                    await upgrade(database_url)
            await SqlRecords(running, lambda: NOW).ping()
            await connection.rollback()
        upgraded = await upgrade(database_url)
        assert (upgraded.before, upgraded.revision) == (HEAD, "next")


@pytest.mark.parametrize("state", ["40001", "40P01", "55P03"])
async def test_an_upgrade_that_others_were_in_the_way_of_is_tried_again(
    database_url: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loses(connection: SyncConnection) -> None:
        connection.exec_driver_sql(f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$")

    monkeypatch.setattr(migrations, "_upgrade", loses)
    with pytest.raises(StoreUnavailable) as caught:
        await upgrade(database_url)
    assert "see whether the server runs" not in str(caught.value)


async def test_a_database_that_lets_nobody_in_is_waited_for(own: OwnServer, own_url: str) -> None:
    name = make_url(own_url).database
    await own.fetch(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    with pytest.raises(StoreUnavailable, match="let it accept connections: ALTER DATABASE"):
        await upgrade(own_url)
    await own.fetch(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    assert (await upgrade(own_url)).revision == HEAD


async def test_a_database_of_a_newer_version_is_refused_and_left_alone(database_url: str) -> None:
    async with somebody(database_url) as connection:
        await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        await connection.commit()
    before = await made_of(database_url)
    with pytest.raises(ConfigurationError, match="schema revision 9999, unknown to this version"):
        await upgrade(database_url)
    assert await made_of(database_url) == before


# --- a database that cannot be used --------------------------------------------------------------


async def refusal(url: str, caplog: pytest.LogCaptureFixture) -> str:
    """Return the error of an upgrade that requires manual action; it hides the password."""
    with pytest.raises(ConfigurationError) as caught:
        await upgrade(url)
    async with Database(url, lambda: NOW) as database:
        with pytest.raises((StoreUnavailable, ProgrammingError)) as unwritten:
            await SqlRecords(database, lambda: NOW).ping()
    (problem,) = caught.value.problems
    assert PASSWORD not in f"{problem} {unwritten.value} {caplog.text}"
    return problem


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_no_server_yet(own: OwnServer, caplog: pytest.LogCaptureFixture, host: str) -> None:
    """The server may come up later: a start waits for it."""
    url = changed(own.url, host=host, port=1, password=PASSWORD)
    with pytest.raises(StoreUnavailable) as caught:
        await upgrade(url)
    problem = str(caught.value)
    assert problem.startswith(f"postgresql://postgres:***@{host}:1/")
    assert problem.endswith("see whether the server runs and can be reached")
    assert PASSWORD not in f"{problem} {caplog.text}"


async def test_a_server_that_starts_or_ends_is_waited_for(own: OwnServer) -> None:
    """So are a server that resets connections and one that does not answer."""
    async with own.database() as url, TcpProxy(own.port) as proxy:
        through = changed(url, port=proxy.port)
        await upgrade(through)
        proxy.refuse(on=True)
        with pytest.raises(StoreUnavailable):
            await upgrade(through)
        proxy.refuse(on=False)
        proxy.blackhole(on=True)
        with pytest.raises(StoreUnavailable, match="it does not answer"):
            await upgrade(through)
        proxy.cut()
        proxy.blackhole(on=False)
        await upgrade(through)


async def test_a_server_without_tls_is_not_waited_for(own: OwnServer) -> None:
    with pytest.raises(ConfigurationError, match="rejected SSL upgrade"):
        await upgrade(changed(own.url, query={"ssl": "require"}))


async def test_a_database_that_is_not_there(
    own: OwnServer, caplog: pytest.LogCaptureFixture
) -> None:
    problem = await refusal(changed(own.url, database="nowhere", password=PASSWORD), caplog)
    assert problem.endswith(
        'database "nowhere" does not exist; create that database, or name another one in the URL'
    )


@pytest.mark.parametrize(
    "table", ["operations", "terminations", "operation_terminations", "events", "attempts"]
)
async def test_a_table_that_may_not_be_written_makes_the_database_unavailable(
    own: OwnServer, table: str
) -> None:
    async with own.database() as url:
        await upgrade(url)
        async with Database(url, lambda: NOW) as owners:
            for statement in (
                "CREATE ROLE reader LOGIN",
                "GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO reader",
                f"REVOKE INSERT ON {table} FROM reader",
            ):
                await ran(owners, statement)
            async with Database(changed(url, username="reader"), lambda: NOW) as database:
                with pytest.raises(StoreUnavailable, match=f"denied for table {table}"):
                    await SqlRecords(database, lambda: NOW).ping()
            await ran(owners, f"GRANT INSERT ON {table} TO reader")
            async with Database(changed(url, username="reader"), lambda: NOW) as database:
                await SqlRecords(database, lambda: NOW).ping()
            await ran(owners, "DROP OWNED BY reader")
            await ran(owners, "DROP ROLE reader")


async def ran(database: Database, statement: str) -> None:
    async def work(transaction: Transaction) -> None:
        await transaction.execute(text(statement))

    await database.write(work)


@pytest.fixture
async def strict(own: OwnServer) -> AsyncIterator[OwnServer]:
    """A server that requires a password from one user."""
    ((name,),) = await own.fetch("SHOW hba_file")
    before = await asyncio.to_thread(Path(name).read_text)
    rule = "host all someone 127.0.0.1/32 scram-sha-256\n"
    await own.fetch(f"CREATE ROLE someone LOGIN PASSWORD '{PASSWORD}'")
    await asyncio.to_thread(Path(name).write_text, rule + before)
    await asyncio.to_thread(own.restart)
    yield own
    await asyncio.to_thread(Path(name).write_text, before)
    await asyncio.to_thread(own.restart)
    await own.fetch("DROP ROLE someone")


async def test_a_user_who_is_not_let_in_and_one_who_may_not_create_tables(
    strict: OwnServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with strict.database() as url:
        theirs = changed(url, username="someone", password=PASSWORD)
        problem = await refusal(theirs, caplog)
        assert problem.endswith(
            "permission denied for schema public; let the user create tables in it"
        )
        problem = await refusal(changed(theirs, password=f"not {PASSWORD}"), caplog)
        assert problem.endswith(
            'password authentication failed for user "someone"; '
            "check the user and the password in the URL"
        )
        problem = await refusal(changed(url, username="nobody", password=PASSWORD), caplog)
        assert problem.endswith("check the user in the URL, and the server's pg_hba.conf")


async def test_a_server_that_takes_no_writes_is_told_as_such(
    own: OwnServer, caplog: pytest.LogCaptureFixture
) -> None:
    """For example a standby that the URL names by mistake."""
    async with own.database() as url:
        await own.fetch(
            f'ALTER DATABASE "{make_url(url).database}" SET default_transaction_read_only = on'
        )
        problem = await refusal(url, caplog)
    assert "cannot execute CREATE TABLE in a read-only transaction" in problem
    assert "see whether the server runs" not in problem


async def test_no_connections_left(own: OwnServer, own_url: str) -> None:
    engine = create_async_engine(own_url, pool_size=30)
    try:
        async with replicas(own_url, 1) as (database,), AsyncExitStack() as stack:
            while True:
                try:
                    await stack.enter_async_context(engine.connect())
                except DBAPIError:
                    break
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match="let the server have more connections"):
                await upgrade(own_url)
            with pytest.raises(StoreUnavailable, match="too many clients"):
                await database.write(note("a"))
            with pytest.raises(StoreUnavailable, match="too many clients"):
                await noted(database)
            assert time.monotonic() - began < SOON_S
            await stack.aclose()
            await engine.dispose()
            await works(database)
            assert await noted(database) == set()
    finally:
        await engine.dispose()


# --- the order of events -------------------------------------------------------------------------


async def test_a_reader_who_goes_on_after_an_event_misses_none(database_url: str) -> None:
    """With many writers, some of which take long between their events and their commits."""
    async with replicas(database_url, 4) as (*writers, reader):
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


# --- operations ----------------------------------------------------------------------------------


async def withdraw_all(database: Database, fence: FencingToken) -> None:
    store = PartitionStore(database, fence)
    while rows := await to_sweep(store, 100):
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


@pytest.mark.parametrize("key", [None, "k-{turn}", "one that ends between two turns"])
async def test_two_replicas_are_asked_for_the_same_jobs_at_once(
    database_url: str, key: str | None
) -> None:
    rounds = 60
    async with replicas(database_url, 2) as both:
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


async def test_what_joins_a_termination_that_is_ending_is_not_left_unfinished(
    database_url: str,
) -> None:
    """In either order: the live termination is joined before its end, or a new one is created."""
    rounds = 60
    async with replicas(database_url, 2) as both:
        (fence,) = await hold(both[0], PARTITION)
        store = PartitionStore(both[0], fence)
        records = [SqlRecords(each, lambda: NOW) for each in both]
        for turn in range(rounds):
            job = f"job-{turn}"
            await submit(records[0], 2 * turn, job)
            (before,) = await to_sweep(store, 10)
            end = decide(before, Withdrawn(), NOW, POLICY)
            await asyncio.gather(
                store.apply([(before, end)], NOW), submit(records[1], 2 * turn + 1, job)
            )
            await withdraw_all(both[0], fence)
        assert (await counts(both[0]))[:2] == (2 * rounds, 0)


async def test_what_joins_waits_for_an_end_that_is_being_written(
    postgres: Server, database_url: str
) -> None:
    async with replicas(database_url, 2) as (one, other):
        (fence,) = await hold(one, PARTITION)
        records = SqlRecords(other, lambda: NOW)
        await submit(records, 1, "job-1")
        (before,) = await to_sweep(PartitionStore(one, fence), 10)
        async with somebody(database_url) as connection:
            # The end of a termination as another replica writes it, up to its commit.
            await connection.execute(
                update(schema.terminations).values(
                    state=State.WITHDRAWN, finished_at=NOW, next_poll_at=None
                )
            )
            joining = asyncio.create_task(submit(records, 2, "job-1"))
            await blocked(postgres, database_url)
            assert not joining.done()
            await connection.commit()
        await joining
        (again,) = await to_sweep(PartitionStore(one, fence), 10)
        assert again.id != before.id
        await withdraw_all(one, fence)
        second = await records.operation("op_2")
        assert second is not None
        assert second.finished_at is not None


async def test_the_last_two_jobs_of_an_operation_end_at_once_in_two_partitions(
    postgres: Server, database_url: str
) -> None:
    """One job was submitted before the host in the account's configuration changed."""
    async with replicas(database_url, 2) as (one, other):
        old, new = await hold(one, PARTITION, "main@new")
        records = SqlRecords(one, lambda: NOW)
        await submit(records, 1, "job-1")
        await submit(records, 2, "job-1", "job-2", partition="main@new")
        stores = [PartitionStore(one, old), PartitionStore(other, new)]
        rows = [(await to_sweep(store, 10))[0] for store in stores]
        ends = [(row, decide(row, Withdrawn(), NOW, POLICY)) for row in rows]
        async with somebody(database_url) as connection:
            # Both have counted the unfinished jobs before either goes on.
            await connection.exec_driver_sql("SELECT FROM operations WHERE id = 'op_2' FOR UPDATE")
            writing = [
                asyncio.create_task(store.apply([end], NOW))
                for store, end in zip(stores, ends, strict=True)
            ]
            await blocked(postgres, database_url, 2)
            await connection.rollback()
        assert await asyncio.gather(*writing) == [1, 1]
        second = await records.operation("op_2")
        assert second is not None
        assert (second.outcome, second.finished_at) == ("withdrawn", NOW)


async def test_what_is_taken_from_an_answer_can_be_stored(database_url: str) -> None:
    async with replicas(database_url, 1) as (database,):
        (fence,) = await hold(database, PARTITION)
        store, records = PartitionStore(database, fence), SqlRecords(database, lambda: NOW)
        await submit(records, 1, "job-1")
        (before,) = await to_sweep(store, 10)
        many = InstanceCounters(running=COUNT_MAX, failed=COUNT_MAX)
        seen = decide(before, read(JobState.RUNNING, many), NOW, POLICY)
        await store.apply([(before, seen)], NOW)
        found = await records.operation("op_1")
        assert found is not None
        assert (found.instances.total, found.instances.live) == (2 * COUNT_MAX, COUNT_MAX)


# --- the fence -----------------------------------------------------------------------------------


async def test_nobody_takes_a_partition_while_its_holder_writes(
    postgres: Server, database_url: str
) -> None:
    async with replicas(database_url, 2) as (one, other):
        (fence,) = await hold(one, PARTITION)
        holds, goes_on = asyncio.Event(), asyncio.Event()

        async def work(transaction: Transaction) -> None:
            await transaction.hold(fence)
            holds.set()
            await goes_on.wait()
            await transaction.execute(
                update(schema.partitions).values(trouble_code="C", trouble_message="m")
            )

        writing = asyncio.create_task(one.write(work))
        await holds.wait()
        taking = asyncio.create_task(SqlLeaseStore(other).take("another", {PARTITION: 1}))
        await blocked(postgres, database_url)
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
            await transaction.hold(fence)
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


async def test_whatever_order_they_come_in_nothing_stale_is_written(database_url: str) -> None:
    """Each write stores its epoch, which never decreases."""
    rivals = Rivals()
    async with replicas(database_url, 3) as (*drivers, watcher):
        await hold(watcher, "p1")
        async with asyncio.timeout(3 * SOON_S), asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(rivals.watch(watcher))
            for number, each in enumerate(drivers):
                tasks.create_task(rivals.drive(each, f"replica-{number}"))
    seen = watching.result()
    assert seen == sorted(seen)
    assert len(set(seen)) > 10


@pytest.mark.parametrize("within_a_statement", [False, True])
async def test_a_replica_paused_within_a_transaction_holds_others_up_for_a_short_time(
    database_url: str, *, within_a_statement: bool
) -> None:
    """The delay is shorter than their lock timeout, and the paused replica has written nothing."""
    assert postgresql.IDLE_TIMEOUT_S + postgresql.STALLED_CHECK_S < postgresql.LOCK_TIMEOUT_S
    async with replicas(database_url, 2) as (one, other), other.listening(lambda _: None):
        (fence,) = await hold(one, PARTITION)
        holds, goes_on = asyncio.Event(), asyncio.Event()
        runs = 0

        async def work(transaction: Transaction) -> None:
            nonlocal runs
            runs += 1
            await transaction.hold(fence)
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
        await works(one)


# --- connections that are lost -------------------------------------------------------------------


class Load:
    """Writers and readers that never stop, and the result of each of their calls."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.written: set[str] = set()
        self.failed: set[str] = set()
        self.wrong: list[BaseException] = []
        self.longest_s = 0.0
        self.unavailable = 0
        self._stop = False

    async def run(self) -> None:
        calls = [self._forever(self._write, n) for n in range(4)]
        calls += [self._forever(self._read, n) for n in range(4)]
        await asyncio.gather(*calls)

    def stop(self) -> None:
        self._stop = True

    async def _forever(self, call: Callable[[str], Awaitable[None]], worker: int) -> None:
        number = 0
        while not self._stop:
            number += 1
            began = time.monotonic()
            try:
                await call(f"{worker}-{number}")
            except StoreUnavailable:
                self.unavailable += 1
            except Exception as error:  # noqa: BLE001 - asserted on
                self.wrong.append(error)
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            await asyncio.sleep(0.005)

    async def _write(self, name: str) -> None:
        try:
            await self.database.write(note(name))
        except StoreUnavailable:
            self.failed.add(name)
            raise
        self.written.add(name)

    async def _read(self, _: str) -> None:
        async with self.database.read() as connection:
            await connection.execute(select(schema.probes))
            await connection.execute(select(schema.partitions).limit(1))

    async def check(self) -> None:
        """Assert that no acknowledged write is lost; one reported as failed may be there or not."""
        assert self.wrong == []
        there = await noted(self.database)
        assert self.written <= there
        assert there <= self.written | self.failed
        assert len(self.written) > 10


@asynccontextmanager
async def under_load(database: Database) -> AsyncIterator[Load]:
    load = Load(database)
    running = asyncio.create_task(load.run())
    try:
        yield load
    finally:
        load.stop()
        async with asyncio.timeout(2 * SOON_S):
            await running


async def more(load: Load, count: int = 5) -> None:
    """Wait for more writes."""
    goal = len(load.written) + count
    await until(lambda: len(load.written) >= goal)


async def test_connections_that_the_server_ends_lose_nothing(
    postgres: Server, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with replicas(database_url, 1) as (database,):
        async with under_load(database) as load:
            for _ in range(10):
                await more(load)
                assert await cut_off(postgres, database_url) > 0
            await more(load)
        await load.check()
    assert load.longest_s < SOON_S
    assert not [record for record in caplog.records if record.exc_info]
    assert len(logged(caplog)) <= 4


@pytest.mark.parametrize("turns", range(4))
async def test_a_session_that_ends_between_statements_is_told_as_a_lost_connection(
    postgres: Server, database_url: str, turns: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The message names no protocol states of the driver, after any ``turns`` of the loop."""

    async def ended() -> None:
        while await cut_off(postgres, database_url):
            pass

    async def use(connection: AsyncConnection | Transaction) -> None:
        await connection.execute(select(schema.partitions.c.name))
        # In a thread for which the loop waits, as if the process were paused.
        thread = Thread(target=asyncio.run, args=(ended(),))
        thread.start()
        thread.join()
        for _ in range(turns):
            await asyncio.sleep(0)
        await connection.execute(select(schema.partitions.c.name))

    async with replicas(database_url, 1) as (database,):
        with pytest.raises(StoreUnavailable) as unwritten:
            await database.write(use)
        with pytest.raises(StoreUnavailable) as unread:
            async with database.read() as connection:
                await use(connection)
    for problem in (unwritten, unread):
        assert re.search(r": (the )?connection was (closed|lost) in the middle", str(problem.value))
    assert "state" not in caplog.text.replace("statement", "")


@pytest.mark.parametrize("tls", ["disable", "prefer", "require"])
@pytest.mark.parametrize("agrees", [b"", b"S"], ids=["at once", "when TLS begins"])
async def test_a_server_that_hangs_up_on_whoever_connects_is_waited_for(
    tls: str, agrees: bytes
) -> None:
    """A load balancer without a server behind it does so."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(agrees)
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(StoreUnavailable) as caught:
            await upgrade(f"postgresql://me:{PASSWORD}@127.0.0.1:{port}/db?sslmode={tls}")
    assert re.search(
        "cannot be used: (it closes connections as they are made"
        "|connection was closed in the middle of operation); see whether",
        str(caught.value),
    )


async def test_connections_that_ended_while_nobody_used_them_are_replaced_unnoticed(
    postgres: Server, database_url: str
) -> None:
    async with replicas(database_url, 1) as (database,):
        for number in range(3):
            await database.write(note(f"p{number}"))
            await asyncio.gather(*(noted(database) for _ in range(4)))
            assert await cut_off(postgres, database_url) > 1
        assert await noted(database) == {"p0", "p1", "p2"}


async def test_what_fails_in_its_commit_is_not_run_again(
    proxied: tuple[TcpProxy, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit may have been applied."""
    proxy, url = proxied
    runs = 0

    async def work(transaction: Transaction) -> str:
        nonlocal runs
        runs += 1
        return await note("a")(transaction)

    async with replicas(url, 1) as (database,):
        with monkeypatch.context() as patched:
            # check() is called right before the commit.
            patched.setattr(database.dialect, "check", proxy.cut)
            with pytest.raises(StoreUnavailable):
                await database.write(work)
        assert runs == 1
        await works(database)


async def test_a_server_that_stops_and_starts_again_under_load(
    own: OwnServer, own_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "CALM_S", 0.1)
    async with replicas(own_url, 1) as (database,):
        async with under_load(database) as load:
            await more(load)
            await asyncio.to_thread(own.stop)
            failed = load.unavailable
            await until(lambda: load.unavailable >= failed + 20)
            await asyncio.to_thread(own.start)
            await more(load, 20)
            await until(lambda: len(logged(caplog)) >= 4)
        await load.check()
        assert load.longest_s < 0.5 * SOON_S
    assert not [record for record in caplog.records if record.exc_info]
    assert sorted(
        (level, text.split(":")[0].split(" after")[0]) for level, text in logged(caplog)
    ) == [
        ("ERROR", "database reads fail"),
        ("ERROR", "database writes fail"),
        ("WARNING", "database reads work again"),
        ("WARNING", "database writes work again"),
    ]


# --- a network that drops all packets ------------------------------------------------------------

CLOSING_S = 2.0
"""Time that the driver takes to close a connection that does not answer; it cannot be set."""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> float:
    """Shorten all timeouts; return how long a call may then take."""
    waits = {"CONNECT_TIMEOUT_S": 0.4, "STATEMENT_TIMEOUT_S": 0.6}
    for name, seconds in waits.items():
        monkeypatch.setattr(postgresql, name, seconds)
    for name, seconds in {"READ_WAIT_S": 0.5, "CALM_S": 0.2, "LISTEN_AGAIN_S": 0.1}.items():
        monkeypatch.setattr(module, name, seconds)
    # A write waits for the one before it, a read for a connection.
    return 2 * (sum(waits.values()) + CLOSING_S)


@pytest.fixture
async def proxied(own: OwnServer, own_url: str) -> AsyncIterator[tuple[TcpProxy, str]]:
    async with TcpProxy(own.port) as proxy:
        yield proxy, changed(own_url, port=proxy.port)
        proxy.blackhole(False)


@pytest.mark.parametrize("cut", [False, True])
async def test_in_a_black_hole_every_call_ends_and_afterwards_it_works_again(
    proxied: tuple[TcpProxy, str], impatient: float, cut: bool, caplog: pytest.LogCaptureFixture
) -> None:
    proxy, url = proxied
    async with replicas(url, 1) as (database,):
        async with under_load(database) as load:
            await more(load)
            proxy.blackhole(True)
            failed = load.unavailable
            await until(lambda: load.unavailable >= failed + 20)
            if cut:
                proxy.cut()
            proxy.blackhole(False)
            await works(database)
            await more(load, 20)
        await load.check()
        # The machine itself may pause the test.
        assert load.longest_s < impatient + 1.0
    assert not [record for record in caplog.records if record.exc_info]
    assert len(logged(caplog)) <= 4


async def test_with_the_real_limits_a_write_in_a_black_hole_ends_in_time(
    proxied: tuple[TcpProxy, str],
) -> None:
    """So does a write that waits behind it."""
    proxy, url = proxied
    async with replicas(url, 1) as (database,):
        await works(database)
        proxy.blackhole(True)

        async def late(after: float) -> float:
            await asyncio.sleep(after)
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match="does not answer"):
                await database.write(note(f"p{after}"))
            return time.monotonic() - began

        took = await asyncio.gather(late(0.0), late(0.05), late(1.0))
        proxy.cut()
        proxy.blackhole(False)
    assert max(took) < SOON_S


async def test_a_connection_that_falls_silent_as_it_is_pinged_is_waited_for_once(
    proxied: tuple[TcpProxy, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is lost after BEGIN and before the query, so the pre-ping has to roll back."""
    proxy, url = proxied
    monkeypatch.setattr(postgresql, "STATEMENT_TIMEOUT_S", 2.0)
    fetchrow = Connection.fetchrow

    async def swallowed(*args: Any) -> Any:
        proxy.blackhole(True)
        return await fetchrow(*args)

    async with replicas(url, 1) as (database,):
        await works(database)
        monkeypatch.setattr(Connection, "fetchrow", swallowed)
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: database.write(note("a")),
            lambda: noted(database),
        ]
        for call in calls:
            proxy.blackhole(False)
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match="does not answer"):
                await call()
            assert time.monotonic() - began < 1.5 * postgresql.STATEMENT_TIMEOUT_S


async def test_in_a_black_hole_it_closes_in_time_and_leaves_nothing_behind(
    proxied: tuple[TcpProxy, str], caplog: pytest.LogCaptureFixture
) -> None:
    proxy, url = proxied
    database = await Database(url, lambda: NOW).__aenter__()
    await works(database)
    await asyncio.gather(*(noted(database) for _ in range(8)))
    proxy.blackhole(True)
    waiting = [asyncio.create_task(database.write(note(name))) for name in ("a", "b")]
    await asyncio.sleep(0)
    began = time.monotonic()
    await database.__aexit__()
    took = time.monotonic() - began
    results = await asyncio.gather(*waiting, return_exceptions=True)
    left = [task for task in asyncio.all_tasks() if task.get_name() == "store-writer"]
    assert took < module.CLOSE_S + sqlite.BUSY_TIMEOUT_S + 1.0
    assert {type(result) for result in results} == {StoreUnavailable}
    assert left == []
    assert not [record.getMessage() for record in caplog.records if record.exc_info]


# --- notifications -------------------------------------------------------------------------------


class Heard(list[str]):
    """Notifications received, in order."""

    async def until(self, notice: str) -> list[str]:
        await until(lambda: notice in self)
        return list(self)


async def listens(database: Database, heard: Heard) -> None:
    """Wait until notifications arrive."""
    async with asyncio.timeout(SOON_S):
        while "listening?" not in heard:
            await notify(database, "listening?")
            await asyncio.sleep(0.02)
    # Wait for notifications that are still under way.
    await notify(database, "yes")
    await heard.until("yes")
    heard.clear()


async def notify(database: Database, notice: str) -> None:
    async def work(transaction: Transaction) -> None:
        await transaction.notify(notice)

    await database.write(work)


async def test_what_is_told_is_heard_after_the_commit_and_never_without_one(
    database_url: str,
) -> None:
    heard = Heard()
    async with replicas(database_url, 2) as (one, other), other.listening(heard.append):
        await listens(one, heard)
        told_before = asyncio.Event()

        async def work(transaction: Transaction) -> None:
            await transaction.notify("committed")
            told_before.set()
            await transaction.execute(text("SELECT pg_sleep(0.2)"))
            assert heard == []

        async def undone(transaction: Transaction) -> None:
            await transaction.notify("undone")
            raise LookupError

        with pytest.raises(LookupError):
            await one.write(undone)
        await one.write(work)
        assert told_before.is_set()
        await submit(SqlRecords(one, lambda: NOW), 1, "job-1")
        assert await heard.until(PARTITION) == ["committed", PARTITION]


async def test_who_comes_and_what_is_given_back_is_told_of(database_url: str) -> None:
    heard = Heard()
    async with replicas(database_url, 2) as (one, other), other.listening(heard.append):
        await listens(one, heard)
        leases = SqlLeaseStore(one)
        for change in (
            leases.join("me", [PARTITION], HOUR_S),
            leases.release(FencingToken(PARTITION, 1)),
            leases.leave("me"),
        ):
            heard.clear()
            await change
            assert await heard.until("") == [""]


async def test_a_listener_goes_on_after_its_connection_is_lost(
    postgres: Server, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LISTEN_AGAIN_S", 0.05)
    heard = Heard()
    async with replicas(database_url, 2) as (one, other), other.listening(heard.append):
        for _ in range(3):
            await listens(one, heard)
            await cut_off(postgres, database_url)
            await works(one)
        await listens(one, heard)


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Times at which the replica tried to listen for notifications."""
    listen, began = postgresql.Postgresql.listen, []

    async def counted(self: postgresql.Postgresql, *callbacks: Callable[..., None]) -> None:
        began.append(time.monotonic())
        await listen(self, *callbacks)

    monkeypatch.setattr(postgresql.Postgresql, "listen", counted)
    return began


async def test_a_listener_notices_that_nothing_passes_any_more(
    proxied: tuple[TcpProxy, str],
    own_url: str,
    impatient: float,
    tries: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(postgresql, "STALLED_CHECK_S", 0.2)
    proxy, url = proxied
    heard = Heard()
    async with (
        replicas(own_url, 1) as (one,),
        replicas(url, 1) as (other,),
        other.listening(heard.append),
    ):
        await listens(one, heard)
        proxy.blackhole(True)
        before = len(tries)
        await until(lambda: len(tries) > before)
        proxy.cut()
        proxy.blackhole(False)
        await listens(one, heard)


async def test_a_listener_that_cannot_connect_says_so_once(
    own_url: str,
    tries: list[float],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "LISTEN_AGAIN_S", 0.02)
    gone = changed(own_url, port=1)
    async with replicas(gone, 1) as (database,), database.listening(Heard().append):
        await until(lambda: len(tries) >= 5)
    assert len(logged(caplog)) == 1


@pytest.mark.parametrize("hole", [False, True])
async def test_a_listener_ends_at_once(
    proxied: tuple[TcpProxy, str], own_url: str, hole: bool, caplog: pytest.LogCaptureFixture
) -> None:
    proxy, url = proxied
    heard = Heard()
    async with replicas(own_url, 1) as (one,), replicas(url, 1) as (other,):
        async with other.listening(heard.append):
            await listens(one, heard)
            proxy.blackhole(hole)
            began = time.monotonic()
        took = time.monotonic() - began
        left = [task for task in asyncio.all_tasks() if task.get_name() == "store-listener"]
        proxy.blackhole(False)
    assert took < module.CLOSE_S + 0.5
    assert left == []
    assert not [record.getMessage() for record in caplog.records if record.exc_info]


# --- limits that are the transaction's own -------------------------------------------------------


async def test_each_transaction_has_its_limits_and_leaves_none_behind(database_url: str) -> None:
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    asked = text("SELECT " + ", ".join(f"current_setting('{name}')" for name in names))
    limits = ["5s", "4s", "3s"]
    async with replicas(database_url, 1) as (database,):

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


async def test_nothing_is_taken_from_who_joins_and_takes_while_a_renewal_reads(
    database_url: str,
) -> None:
    """Each of the two reads of a renewal sees what was committed before it."""
    async with replicas(database_url, 2) as (one, other):
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
