"""PostgreSQL: another server becomes the primary."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import make_url, text

from orchestrator.domain.errors import ConfigurationError, StoreUnavailable
from orchestrator.store.database import database as module
from orchestrator.store.database import postgresql
from orchestrator.store.database.migrations import upgrade
from tests.support.notifications import Notifications, notify, wait_until_listening
from tests.support.postgres import own_server
from tests.support.postgresql_replicas import (
    SOON_S,
    changed,
    fails,
    replicas,
    wait_until_available,
    write_name,
    written_names,
)
from tests.support.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from orchestrator.store.database.database import Database
    from orchestrator.store.database.transaction import Transaction
    from tests.support.postgres import OwnServer

PORT = text("SELECT inet_server_port()")


@pytest.fixture(scope="module")
def primary() -> Iterator[OwnServer]:
    with own_server() as server:
        yield server


@pytest.fixture
async def url(primary: OwnServer) -> AsyncIterator[str]:
    async with primary.database() as url:
        await upgrade(url)
        yield url


@contextmanager
def standby_of(primary: OwnServer) -> Iterator[OwnServer]:
    with own_server(standby_of=primary) as server:
        yield server


@pytest.fixture
def standby(primary: OwnServer, url: str) -> Iterator[OwnServer]:
    """A standby, started after ``url`` exists."""
    with standby_of(primary) as server:
        yield server


async def tells(server: OwnServer, statement: str, answer: object) -> None:
    """Wait until a server answers a query with this value."""
    async with asyncio.timeout(SOON_S):
        while (await server.fetch(statement))[0][0] != answer:  # noqa: ASYNC110 - of a server
            await asyncio.sleep(0.01)


async def catches_up(standby: OwnServer, primary: OwnServer) -> None:
    """Wait until the standby has everything that the primary has written."""
    ((at,),) = await primary.fetch("SELECT pg_current_wal_lsn()::text")
    await tells(standby, f"SELECT pg_last_wal_replay_lsn() >= '{at}'", True)


async def promote(standby: OwnServer) -> None:
    assert (await standby.fetch("SELECT pg_promote()"))[0][0]


async def takes_writes(server: OwnServer, yes: bool) -> None:
    """Make the server accept or refuse writes; open sessions stay, as on a managed service."""
    await server.fetch(f"ALTER SYSTEM SET default_transaction_read_only = {not yes}")
    await server.fetch("SELECT pg_reload_conf()")
    await tells(server, "SHOW default_transaction_read_only", "off" if yes else "on")


async def ports(database: Database) -> set[int]:
    """Return the ports of the servers that any open connection writes to and reads from."""

    async def work(transaction: Transaction) -> int:
        return await transaction.scalar(PORT) or 0

    async def read() -> int:
        async with database.read() as connection:
            found = await connection.scalar(PORT)
            await asyncio.sleep(0.01)  # so that all readers are used
            return found or 0

    return {await database.write(work), *await asyncio.gather(*(read() for _ in range(8)))}


async def test_sessions_on_the_old_primary_are_replaced_at_once(
    primary: OwnServer, standby: OwnServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address leads to the new primary, while sessions to the old one stay open."""
    monkeypatch.setattr(module, "LISTEN_AGAIN_S", 0.05)
    monkeypatch.setattr(postgresql, "STALLED_CHECK_S", 0.05)
    received = Notifications()
    async with TcpProxy(primary.port) as proxy:
        address = changed(url, port=proxy.port)
        async with replicas(address, 2) as (database, other), database.listening(received.append):
            await database.write(write_name("before"))
            assert await ports(database) == {primary.port}
            await wait_until_listening(other, received)
            await catches_up(standby, primary)
            await promote(standby)
            proxy.lead_to(standby.port)
            try:
                await takes_writes(primary, False)
                began = time.monotonic()
                await database.write(write_name("after"))
                assert await written_names(database) == {"before", "after"}
                assert await ports(database) == {standby.port}
                assert time.monotonic() - began < postgresql.CONNECT_TIMEOUT_S
                await wait_until_available(other)
                async with asyncio.timeout(SOON_S):
                    while "again" not in received:
                        await notify(other, "again")
                        await asyncio.sleep(0.02)
            finally:
                await takes_writes(primary, True)


async def test_of_several_hosts_the_one_that_accepts_writes_is_used(
    primary: OwnServer, standby: OwnServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any position, also if the first host does not answer at all."""
    monkeypatch.setattr(postgresql, "CONNECT_TIMEOUT_S", 0.5)
    name = make_url(url).database
    async with TcpProxy(primary.port) as silent:
        silent.blackhole(True)
        hosts = f"127.0.0.1:{silent.port},127.0.0.1:{standby.port},127.0.0.1:{primary.port}"
        several = f"postgresql://postgres@{hosts}/{name}"
        await upgrade(several)
        async with replicas(several, 1) as (database,):
            await database.write(write_name("before"))
            assert await ports(database) == {primary.port}
            await catches_up(standby, primary)
            await asyncio.to_thread(primary.stop)
            try:
                with pytest.raises(StoreUnavailable) as caught:
                    await database.write(write_name("meanwhile"))
                said = str(caught.value)
                assert f"127.0.0.1:{silent.port} does not answer" in said
                assert f"127.0.0.1:{standby.port} accepts no writes" in said
                assert f"127.0.0.1:{primary.port} cannot be used" in said
                await promote(standby)
                await wait_until_available(database)
                await database.write(write_name("after"))
                assert await written_names(database) == {"before", "after"}
                assert await ports(database) == {standby.port}
            finally:
                silent.blackhole(False)
                await asyncio.to_thread(primary.start)


async def test_a_standby_alone_is_refused_at_the_start(standby: OwnServer, url: str) -> None:
    name = make_url(url).database
    there = f"postgresql://postgres@127.0.0.1:{standby.port}/{name}?target_session_attrs=primary"
    with pytest.raises(ConfigurationError, match=f"127.0.0.1:{standby.port} accepts no writes"):
        await upgrade(there)


@pytest.mark.parametrize("state", ["25006", "57P01", "57P02", "57P03", "57P05"])
async def test_an_unusable_session_is_replaced_and_the_write_runs_again(
    url: str, state: str
) -> None:
    """Also if a pooler returns the error and keeps the session open."""
    tries: list[float] = []
    sessions: list[Any] = []

    async def work(transaction: Transaction) -> None:
        raw: Any = await transaction.connection.get_raw_connection()
        sessions.append(raw.driver_connection)
        await fails(state, tries, times=1)(transaction)

    async with replicas(url, 1) as (database,):
        await database.write(work)
    first, second = sessions
    assert first is not second
    assert first.is_closed()
