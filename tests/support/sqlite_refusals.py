"""Errors of SQLite files that cannot be used."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from orchestrator.domain.errors import ConfigurationError
from orchestrator.store.database.migrations import upgrade

if TYPE_CHECKING:
    from pathlib import Path


async def refusal(path: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        await upgrade(f"sqlite+aiosqlite:///{path}")
    for thread in threading.enumerate():
        if "_connection_worker_thread" in thread.name:
            # The driver ends the thread by itself, and needs this loop for that.
            await asyncio.to_thread(thread.join)
    (problem,) = caught.value.problems
    assert problem.startswith(f"database.url: {path} cannot be used: ")
    return problem
