"""A new database for one run: an SQLite file, or a database of a PostgreSQL server."""

from __future__ import annotations

import tempfile
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.postgres import Server


@asynccontextmanager
async def new_database(server: Server | None) -> AsyncIterator[str]:
    """Yield the URL of a PostgreSQL database, or without a server of an SQLite file."""
    if server is not None:
        async with server.database() as url:
            yield url
        return
    with tempfile.TemporaryDirectory() as folder:
        yield f"sqlite:///{folder}/bench.db"
