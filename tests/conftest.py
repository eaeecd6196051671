"""What many tests need: a database file of their own, with partitions that are held."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import hypothesis
import pytest

from orchestrator.store.database import Database
from orchestrator.store.migrate import upgrade
from tests.leases import hold
from tests.postgres import any_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.postgres import Server

# A shell starts what it puts in the background with SIGINT ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says something of the machine, not of the code.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


PARTITIONS = ("main@cloud", "main@host", "other@host")
"""What the test's replica holds, each under epoch 1."""


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    with any_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_template(postgres: Server) -> str:
    """A database with the schema, to copy."""
    return asyncio.run(postgres.create_template(upgrade))


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path}/orchestrator.db"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    await upgrade(database_url)
    async with Database(database_url, lambda: datetime.now(UTC)) as opened:
        await hold(opened, *PARTITIONS)
        yield opened
