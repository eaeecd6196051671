"""What many tests need: a database file of their own, with partitions that are held."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import hypothesis
import pytest

from orchestrator.store.database.database import Database
from orchestrator.store.database.migrations import upgrade
from tests.support.leases import hold
from tests.support.postgres import any_server, folder_in_memory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.support.postgres import Server

# A shell starts what it puts in the background with SIGINT ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Where tmp_path lies: each commit to a file on a disk waits for that disk.
if (memory := folder_in_memory()) and not os.statvfs(memory).f_flag & os.ST_NOEXEC:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))

# How long an example takes says something of the machine, not of the code; and what a change is
# judged by must be the same each time.
hypothesis.settings.register_profile(
    "any machine",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("any machine")


def pytest_xdist_auto_num_workers() -> int:
    """How many processes run the tests with ``-n auto``: many tests wait for something."""
    return (os.cpu_count() or 1) + 1


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


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the schema, to copy: an upgrade takes longer than most tests."""
    path = tmp_path_factory.mktemp("template") / "orchestrator.db"
    asyncio.run(upgrade(f"sqlite+aiosqlite:///{path}"))
    return path


@pytest.fixture
def sqlite_url(tmp_path: Path, sqlite_template: Path) -> str:
    path = tmp_path / "orchestrator.db"
    shutil.copyfile(sqlite_template, path)
    return f"sqlite+aiosqlite:///{path}"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url, lambda: datetime.now(UTC)) as opened:
        await hold(opened, *PARTITIONS)
        yield opened
