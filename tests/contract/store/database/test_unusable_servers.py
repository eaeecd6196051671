"""PostgreSQL: servers and databases that cannot be used: waited for, or refused with an advice."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.ext.asyncio import create_async_engine

from orchestrator.domain.errors import ConfigurationError, StoreUnavailable
from orchestrator.store.database.database import Database
from orchestrator.store.database.migrations import alembic_config, upgrade
from orchestrator.store.records.queries import SqlRecords
from tests.support.postgresql_replicas import (
    PASSWORD,
    SOON_S,
    changed,
    ran,
    replicas,
    wait_until_available,
    write_name,
    written_names,
)
from tests.support.tcp_proxy import TcpProxy
from tests.unit.domain.build import NOW

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.postgres import OwnServer

pytestmark = pytest.mark.usefixtures("log_from_info")


async def test_a_database_that_accepts_no_connections_is_waited_for(
    own: OwnServer, own_url: str
) -> None:
    name = make_url(own_url).database
    await own.fetch(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    with pytest.raises(StoreUnavailable, match="let it accept connections: ALTER DATABASE"):
        await upgrade(own_url)
    await own.fetch(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    assert (await upgrade(own_url)).revision == HEAD


HEAD = ScriptDirectory.from_config(alembic_config()).get_current_head()


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


async def test_a_user_who_may_not_connect_and_one_who_may_not_create_tables(
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


async def test_a_server_that_accepts_no_writes_is_refused_with_that_reason(
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
                await database.write(write_name("a"))
            with pytest.raises(StoreUnavailable, match="too many clients"):
                await written_names(database)
            assert time.monotonic() - began < SOON_S
            await stack.aclose()
            await engine.dispose()
            await wait_until_available(database)
            assert await written_names(database) == set()
    finally:
        await engine.dispose()


@pytest.mark.parametrize("tls", ["disable", "prefer", "require"])
@pytest.mark.parametrize("agrees", [b"", b"S"], ids=["at once", "when TLS begins"])
async def test_a_server_that_closes_every_new_connection_is_waited_for(
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
