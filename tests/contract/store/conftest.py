"""Fixtures of the contract that every database must fulfil: each test runs on each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orchestrator.domain.leasing.leases import FencingToken
from orchestrator.store.database import postgresql
from orchestrator.store.partition.partition_store import PartitionStore
from orchestrator.store.records.queries import SqlRecords
from tests.support import HANG_S
from tests.support.stored_operations import PARTITION
from tests.unit.domain.build import later

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orchestrator.store.database.database import Database
    from tests.support.postgres import Server


@pytest.fixture(params=["sqlite", "postgresql"])
def template(request: pytest.FixtureRequest) -> tuple[Server, str] | None:
    """A server and its database to copy; None for SQLite."""
    if request.param == "sqlite":
        return None
    return request.getfixturevalue("postgres"), request.getfixturevalue("postgres_template")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the server from ending sessions of a test that a busy machine holds up for seconds."""
    limits = postgresql._LIMITS_S | {"idle_in_transaction_session_timeout": HANG_S}
    monkeypatch.setattr(postgresql, "_LIMITS", postgresql._limits(limits))


@pytest.fixture
async def database_url(template: tuple[Server, str] | None, sqlite_url: str) -> AsyncIterator[str]:
    if template is None:
        yield sqlite_url
    else:
        server, name = template
        async with server.database(name) as url:
            yield url


@pytest.fixture
def store(database: Database) -> PartitionStore:
    return PartitionStore(database, FencingToken(PARTITION, 1))


@pytest.fixture
def records(database: Database) -> SqlRecords:
    """SqlRecords whose clock is five seconds after NOW."""
    return SqlRecords(database, lambda: later(5))
