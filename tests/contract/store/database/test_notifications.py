"""PostgreSQL: notifications between replicas, and the connection that listens for them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from orchestrator.domain.leasing.leases import FencingToken
from orchestrator.store.database import database as module
from orchestrator.store.database import postgresql
from orchestrator.store.partition.lease_store import SqlLeaseStore
from orchestrator.store.records.queries import SqlRecords
from tests.support.leases import HOUR_S
from tests.support.notifications import Notifications, wait_until_listening
from tests.support.postgresql_replicas import (
    changed,
    end_sessions,
    logged,
    replicas,
    until,
    wait_until_available,
)
from tests.support.stored_operations import PARTITION, submit
from tests.unit.domain.build import NOW

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.store.database.transaction import Transaction
    from tests.support.postgres import Server
    from tests.support.tcp_proxy import TcpProxy

pytestmark = pytest.mark.usefixtures("log_from_info")


async def test_a_notification_arrives_after_the_commit_and_never_without_one(
    postgresql_url: str,
) -> None:
    received = Notifications()
    async with replicas(postgresql_url, 2) as (one, other), other.listening(received.append):
        await wait_until_listening(one, received)
        notified = asyncio.Event()

        async def work(transaction: Transaction) -> None:
            await transaction.notify("committed")
            notified.set()
            await transaction.execute(text("SELECT pg_sleep(0.2)"))
            assert received == []

        async def undone(transaction: Transaction) -> None:
            await transaction.notify("undone")
            raise LookupError

        with pytest.raises(LookupError):
            await one.write(undone)
        await one.write(work)
        assert notified.is_set()
        await submit(SqlRecords(one, lambda: NOW), 1, "job-1")
        assert await received.until(PARTITION) == ["committed", PARTITION]


async def test_joining_releasing_and_leaving_send_notifications(postgresql_url: str) -> None:
    received = Notifications()
    async with replicas(postgresql_url, 2) as (one, other), other.listening(received.append):
        await wait_until_listening(one, received)
        leases = SqlLeaseStore(one)
        for change in (
            leases.join("me", [PARTITION], HOUR_S),
            leases.release(FencingToken(PARTITION, 1)),
            leases.leave("me"),
        ):
            received.clear()
            await change
            assert await received.until("") == [""]


async def test_a_listener_continues_after_its_connection_is_lost(
    postgres: Server, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LISTEN_AGAIN_S", 0.05)
    received = Notifications()
    async with replicas(postgresql_url, 2) as (one, other), other.listening(received.append):
        for _ in range(3):
            await wait_until_listening(one, received)
            await end_sessions(postgres, postgresql_url)
            await wait_until_available(one)
        await wait_until_listening(one, received)


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Times at which the replica tried to listen for notifications."""
    listen, began = postgresql.Postgresql.listen, []

    async def counted(self: postgresql.Postgresql, *callbacks: Callable[..., None]) -> None:
        began.append(time.monotonic())
        await listen(self, *callbacks)

    monkeypatch.setattr(postgresql.Postgresql, "listen", counted)
    return began


async def test_a_listener_notices_a_silent_network(
    proxied: tuple[TcpProxy, str],
    own_url: str,
    impatient: float,
    tries: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(postgresql, "STALLED_CHECK_S", 0.2)
    proxy, url = proxied
    received = Notifications()
    async with (
        replicas(own_url, 1) as (one,),
        replicas(url, 1) as (other,),
        other.listening(received.append),
    ):
        await wait_until_listening(one, received)
        proxy.blackhole(True)
        before = len(tries)
        await until(lambda: len(tries) > before)
        proxy.cut()
        proxy.blackhole(False)
        await wait_until_listening(one, received)


async def test_a_listener_that_cannot_connect_logs_it_once(
    own_url: str,
    tries: list[float],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "LISTEN_AGAIN_S", 0.02)
    gone = changed(own_url, port=1)
    async with replicas(gone, 1) as (database,), database.listening(Notifications().append):
        await until(lambda: len(tries) >= 5)
    assert len(logged(caplog)) == 1


@pytest.mark.parametrize("hole", [False, True])
async def test_a_listener_ends_at_once(
    proxied: tuple[TcpProxy, str], own_url: str, hole: bool, caplog: pytest.LogCaptureFixture
) -> None:
    proxy, url = proxied
    received = Notifications()
    async with replicas(own_url, 1) as (one,), replicas(url, 1) as (other,):
        async with other.listening(received.append):
            await wait_until_listening(one, received)
            proxy.blackhole(hole)
            began = time.monotonic()
        took = time.monotonic() - began
        left = [task for task in asyncio.all_tasks() if task.get_name() == "store-listener"]
        proxy.blackhole(False)
    assert took < module.CLOSE_S + 0.5
    assert left == []
    assert not [record.getMessage() for record in caplog.records if record.exc_info]
