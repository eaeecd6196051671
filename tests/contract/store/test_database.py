"""A database that cannot be used is told as such."""

from __future__ import annotations

import asyncio
import threading
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from orchestrator.domain.errors import ConfigurationError, StoreUnavailable
from orchestrator.store.database import READERS
from orchestrator.store.migrate import upgrade

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.store.database import Database


async def refusal(path: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        await upgrade(f"sqlite+aiosqlite:///{path}")
    for thread in threading.enumerate():
        if "_connection_worker_thread" in thread.name:
            # The driver has it end by itself, and it needs this loop for that.
            await asyncio.to_thread(thread.join)
    (problem,) = caught.value.problems
    assert problem.startswith(f"database.url: {path} cannot be used: ")
    return problem


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "unable to open database file" in await refusal(tmp_path / "nowhere" / "x.db")


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("to do: " * 1000)
    assert "file is not a database" in await refusal(path)
    assert path.read_text() == "to do: " * 1000


async def test_too_many_readers_are_told_to_come_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database._reader_engine.pool, "_timeout", 0.01)
    async with AsyncExitStack() as stack:
        for _ in range(READERS):
            await stack.enter_async_context(database.read())
        with pytest.raises(StoreUnavailable, match="too many"):
            await stack.enter_async_context(database.read())
