"""Writers and readers that use a database without pause, and the results of their calls."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sqlalchemy import select

from orchestrator.domain.errors import StoreUnavailable
from orchestrator.store import schema
from tests.support.postgresql_replicas import SOON_S, until, write_name, written_names

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from orchestrator.store.database.database import Database


class Load:
    """Writers and readers that never stop, and the result of each of their calls."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.written: set[str] = set()
        self.failed: set[str] = set()
        self.wrong: list[BaseException] = []
        self.longest_s = 0.0
        self.unavailable = 0
        self._stop = False

    async def run(self) -> None:
        calls = [self._forever(self._write, n) for n in range(4)]
        calls += [self._forever(self._read, n) for n in range(4)]
        await asyncio.gather(*calls)

    def stop(self) -> None:
        self._stop = True

    async def _forever(self, call: Callable[[str], Awaitable[None]], worker: int) -> None:
        number = 0
        while not self._stop:
            number += 1
            began = time.monotonic()
            try:
                await call(f"{worker}-{number}")
            except StoreUnavailable:
                self.unavailable += 1
            except Exception as error:  # noqa: BLE001 - asserted on
                self.wrong.append(error)
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            await asyncio.sleep(0.005)

    async def _write(self, name: str) -> None:
        try:
            await self.database.write(write_name(name))
        except StoreUnavailable:
            self.failed.add(name)
            raise
        self.written.add(name)

    async def _read(self, _: str) -> None:
        async with self.database.read() as connection:
            await connection.execute(select(schema.probes))
            await connection.execute(select(schema.partitions).limit(1))

    async def check(self) -> None:
        """Assert that no acknowledged write is lost; one reported as failed may be there or not."""
        assert self.wrong == []
        there = await written_names(self.database)
        assert self.written <= there
        assert there <= self.written | self.failed
        assert len(self.written) > 10


@asynccontextmanager
async def under_load(database: Database) -> AsyncIterator[Load]:
    load = Load(database)
    running = asyncio.create_task(load.run())
    try:
        yield load
    finally:
        load.stop()
        async with asyncio.timeout(2 * SOON_S):
            await running


async def more(load: Load, count: int = 5) -> None:
    """Wait for more writes."""
    goal = len(load.written) + count
    await until(lambda: len(load.written) >= goal)
