"""PostgreSQL: a network that drops all packets."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.domain.errors import StoreUnavailable
from orchestrator.store.database import database as module
from orchestrator.store.database import postgresql, sqlite
from orchestrator.store.database.database import Database
from orchestrator.store.database.postgresql_connections import Connection
from tests.support.postgresql_load import more, under_load
from tests.support.postgresql_replicas import (
    SOON_S,
    assert_each_outage_is_logged_once,
    replicas,
    until,
    wait_until_available,
    write_name,
    written_names,
)
from tests.unit.domain.build import NOW

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.tcp_proxy import TcpProxy


pytestmark = pytest.mark.usefixtures("log_from_info")


@pytest.mark.parametrize("cut", [False, True])
async def test_in_a_silent_network_every_call_ends_and_afterwards_the_database_works(
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
            await wait_until_available(database)
            await more(load, 20)
        await load.check()
        # The machine itself may pause the test.
        assert load.longest_s < impatient + 1.0
    assert not [record for record in caplog.records if record.exc_info]
    assert_each_outage_is_logged_once(caplog)


async def test_with_the_real_limits_a_write_in_a_silent_network_ends_in_time(
    proxied: tuple[TcpProxy, str],
) -> None:
    """So does a write that waits behind it."""
    proxy, url = proxied
    async with replicas(url, 1) as (database,):
        await wait_until_available(database)
        proxy.blackhole(True)

        async def late(after: float) -> float:
            await asyncio.sleep(after)
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match="does not answer"):
                await database.write(write_name(f"p{after}"))
            return time.monotonic() - began

        took = await asyncio.gather(late(0.0), late(0.05), late(1.0))
        proxy.cut()
        proxy.blackhole(False)
    assert max(took) < SOON_S


async def test_a_connection_that_becomes_silent_during_its_ping_is_waited_for_once(
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
        await wait_until_available(database)
        monkeypatch.setattr(Connection, "fetchrow", swallowed)
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: database.write(write_name("a")),
            lambda: written_names(database),
        ]
        for call in calls:
            proxy.blackhole(False)
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match="does not answer"):
                await call()
            assert time.monotonic() - began < 1.5 * postgresql.STATEMENT_TIMEOUT_S


async def test_in_a_silent_network_the_database_closes_in_time_and_leaves_nothing_behind(
    proxied: tuple[TcpProxy, str], caplog: pytest.LogCaptureFixture
) -> None:
    proxy, url = proxied
    database = await Database(url, lambda: NOW).__aenter__()
    await wait_until_available(database)
    await asyncio.gather(*(written_names(database) for _ in range(8)))
    proxy.blackhole(True)
    waiting = [asyncio.create_task(database.write(write_name(name))) for name in ("a", "b")]
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
