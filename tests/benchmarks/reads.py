"""How fast operations are read while they run, beside a server that reads one row a request.

Both are served by one process to one client, in turns, for the same operations.
"""

from __future__ import annotations

import statistics
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from sqlalchemy import select
from sqlalchemy.ext.asyncio import create_async_engine

from orchestrator.settings.sections import Quotas
from orchestrator.simulator.http.app import serve
from orchestrator.store.schema import operations
from tests.benchmarks.alone import measured
from tests.benchmarks.databases import new_database
from tests.benchmarks.figures import Figure
from tests.support.postgres import any_server
from tests.support.service import daemon, settings, simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

LARGE_JOBS: Final = 10_000
SMALL_OPERATIONS, SMALL_JOBS = 100, 100
ROUNDS: Final = 5
ROUND_S: Final = 3.0
ONE_MIN, PAGE_MIN = 0.5, 5.0


@dataclass(frozen=True, slots=True)
class Reads:
    """Requests a second, by round: of a row, of the large operation, and of pages."""

    row: list[float]
    large: list[float]
    page: list[float]


async def run() -> list[Figure]:
    figures = []
    with any_server() as server:
        for name in ("SQLite", "PostgreSQL"):
            async with new_database(server if name == "PostgreSQL" else None) as url:
                reads = await measured(_measure, url)
            figures += [
                Figure(
                    name=f"{name}: a row of an operation",
                    value=statistics.median(reads.row),
                    unit="/s",
                ),
                Figure.of_ratios(
                    f"{name}: a running operation of {LARGE_JOBS} jobs, to a row",
                    zip(reads.large, reads.row, strict=True),
                    least=ONE_MIN,
                ),
                Figure.of_ratios(
                    f"{name}: {SMALL_OPERATIONS} running operations, to {SMALL_OPERATIONS} rows",
                    zip([SMALL_OPERATIONS * each for each in reads.page], reads.row, strict=True),
                    least=PAGE_MIN,
                ),
            ]
    return figures


async def _measure(url: str) -> Reads:
    jobs = LARGE_JOBS + SMALL_OPERATIONS * SMALL_JOBS
    cloud = simulator({"count": jobs, "instances": 1, "drain_s": 3600})
    ids = [str(job["job_id"]) for job in cloud.truth()]
    async with serve(cloud) as cloud_url:
        made = settings(cloud_url, url, engine={})
        account = made.accounts["main"].model_copy(update={"quotas": Quotas()})
        made = made.model_copy(update={"accounts": {"main": account}})
        async with (
            daemon(made) as api,
            aiohttp.ClientSession(api) as client,
            _one_row_server(url) as rows,
        ):
            for first in range(LARGE_JOBS, jobs, SMALL_JOBS):
                await _submit(client, ids[first : first + SMALL_JOBS])
            large = await _submit(client, ids[:LARGE_JOBS])
            reads = Reads([], [], [])
            for _ in range(ROUNDS):
                reads.row.append(await _rate(lambda: _get(rows, f"/{large}")))
                reads.large.append(await _rate(lambda: _get(client, f"/v1/operations/{large}")))
                reads.page.append(await _rate(lambda: _get(client, "/v1/operations?limit=100")))
            return reads


@asynccontextmanager
async def _one_row_server(url: str) -> AsyncIterator[aiohttp.ClientSession]:
    """Serve rows of ``operations`` by id: one query a request, and its row as JSON."""
    engine = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"))

    async def row(request: web.Request) -> web.Response:
        async with engine.connect() as connection:
            this = operations.c.id == request.match_info["id"]
            found = (await connection.execute(select(operations).where(this))).mappings().one()
            return web.json_response({name: str(value) for name, value in found.items()})

    app = web.Application()
    app.add_routes([web.get("/{id}", row)])
    async with TestServer(app) as server, aiohttp.ClientSession(server.make_url("")) as client:
        yield client
    await engine.dispose()


async def _submit(client: aiohttp.ClientSession, jobs: list[str]) -> str:
    body = {"jobs": jobs, "reason": "benchmark"}
    async with client.post("/v1/operations", json=body) as answer:
        answer.raise_for_status()
        return str((await answer.json())["id"])


async def _get(client: aiohttp.ClientSession, path: str) -> None:
    async with client.get(path) as answer:
        answer.raise_for_status()
        await answer.read()


async def _rate(request: Callable[[], Awaitable[None]]) -> float:
    """Return the requests a second of one client over ROUND_S."""
    began_at, count = time.monotonic(), 0
    while time.monotonic() < began_at + ROUND_S:
        await request()
        count += 1
    return count / (time.monotonic() - began_at)
