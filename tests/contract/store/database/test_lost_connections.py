"""PostgreSQL: connections that end, by the server's doing or with the server."""

from __future__ import annotations

import asyncio
import re
from threading import Thread
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from orchestrator.domain.errors import StoreUnavailable
from orchestrator.store import schema
from orchestrator.store.database import database as module
from tests.support.postgresql_load import more, under_load
from tests.support.postgresql_replicas import (
    SOON_S,
    assert_each_outage_is_logged_once,
    end_sessions,
    logged,
    replicas,
    until,
    wait_until_available,
    write_name,
    written_names,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.store.database.transaction import Transaction
    from tests.support.postgres import OwnServer, Server
    from tests.support.tcp_proxy import TcpProxy

pytestmark = pytest.mark.usefixtures("log_from_info")


async def test_connections_that_the_server_ends_lose_nothing(
    postgres: Server, postgresql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with replicas(postgresql_url, 1) as (database,):
        async with under_load(database) as load:
            for _ in range(10):
                await more(load)
                assert await end_sessions(postgres, postgresql_url) > 0
            await more(load)
        await load.check()
    assert load.longest_s < SOON_S
    assert not [record for record in caplog.records if record.exc_info]
    assert_each_outage_is_logged_once(caplog)


@pytest.mark.parametrize("turns", range(4))
async def test_a_session_that_ends_between_statements_is_reported_as_a_lost_connection(
    postgres: Server, postgresql_url: str, turns: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The message names no protocol states of the driver, after any ``turns`` of the loop."""

    async def ended() -> None:
        while await end_sessions(postgres, postgresql_url):
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

    async with replicas(postgresql_url, 1) as (database,):
        with pytest.raises(StoreUnavailable) as unwritten:
            await database.write(use)
        with pytest.raises(StoreUnavailable) as unread:
            async with database.read() as connection:
                await use(connection)
    for problem in (unwritten, unread):
        assert re.search(r": (the )?connection was (closed|lost) in the middle", str(problem.value))
    assert "state" not in caplog.text.replace("statement", "")


async def test_connections_that_ended_while_idle_are_replaced_without_an_error(
    postgres: Server, postgresql_url: str
) -> None:
    async with replicas(postgresql_url, 1) as (database,):
        for number in range(3):
            await database.write(write_name(f"p{number}"))
            await asyncio.gather(*(written_names(database) for _ in range(4)))
            assert await end_sessions(postgres, postgresql_url) > 1
        assert await written_names(database) == {"p0", "p1", "p2"}


async def test_a_write_that_fails_in_its_commit_is_not_run_again(
    proxied: tuple[TcpProxy, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit may have been applied."""
    proxy, url = proxied
    runs = 0

    async def work(transaction: Transaction) -> str:
        nonlocal runs
        runs += 1
        return await write_name("a")(transaction)

    async with replicas(url, 1) as (database,):
        with monkeypatch.context() as patched:
            # check() is called right before the commit.
            patched.setattr(database.dialect, "check", proxy.cut)
            with pytest.raises(StoreUnavailable):
                await database.write(work)
        assert runs == 1
        await wait_until_available(database)


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
    assert_each_outage_is_logged_once(caplog)
    assert {(level, text.split(":")[0].split(" after")[0]) for level, text in logged(caplog)} == {
        ("ERROR", "database reads fail"),
        ("ERROR", "database writes fail"),
        ("WARNING", "database reads work again"),
        ("WARNING", "database writes work again"),
    }
