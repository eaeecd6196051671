"""Databases on a PostgreSQL server that tests share, and on one that a test may stop."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from orchestrator.store.database import database as module
from orchestrator.store.database import postgresql
from orchestrator.store.database.migrations import upgrade
from tests.support.postgres import own_server
from tests.support.postgresql_replicas import changed
from tests.support.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.support.postgres import OwnServer, Server

CLOSING_S = 2.0
"""Time that the driver takes to close a connection that does not answer; it cannot be set."""


@pytest.fixture(autouse=True)
def patient() -> None:
    """Keep the real limits: they are what these tests test."""


@pytest.fixture
async def postgresql_url(postgres: Server, postgres_template: str) -> AsyncIterator[str]:
    """Return a database with the schema, on the server that tests share."""
    async with postgres.database(postgres_template) as url:
        yield url


@pytest.fixture(scope="package")
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


@pytest.fixture
def log_from_info(caplog: pytest.LogCaptureFixture) -> None:
    """Have ``caplog`` record what the daemon logs by default."""
    caplog.set_level(logging.INFO, logger="orchestrator")


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
    """Return a proxy to the server of ``own``, and the URL of ``own_url`` through it."""
    async with TcpProxy(own.port) as proxy:
        yield proxy, changed(own_url, port=proxy.port)
        proxy.blackhole(False)
