"""What many tests need: a database file of their own."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from orchestrator.store.database import Database
from orchestrator.store.migrate import upgrade

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

# A shell starts what it puts in the background with SIGINT ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path}/orchestrator.db"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    await upgrade(database_url)
    async with Database(database_url) as opened:
        yield opened
