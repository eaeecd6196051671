"""How fast requests are accepted: of one job, and of many.

Requests of one job come from 32 clients in a process of their own, in turns to the daemon and to a
server that gives a static answer; both are in one process. A request of many jobs is followed by an
insert of the rows that it stored, with the driver alone, into another database of the same kind.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
import statistics
import time
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import asyncpg
from aiohttp import web
from aiohttp.test_utils import TestServer

from orchestrator.settings.sections import Quotas
from orchestrator.simulator.http.app import serve
from orchestrator.store.database.migrations import upgrade
from tests.benchmarks.alone import measured
from tests.benchmarks.databases import new_database
from tests.benchmarks.figures import Figure
from tests.benchmarks.http_load import requests_per_s
from tests.support.postgres import any_server
from tests.support.service import daemon, settings, simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

CLIENTS: Final = 32
ROUNDS: Final = 5
ROUND_S: Final = 3.0
ONE_MIN, MANY_MIN = 0.10, 0.5
MANY_JOBS: Final = (1_000, 10_000)
_ROWS_OF: Final = {
    "operations": "id = {0}",
    "terminations": "id IN (SELECT termination_id FROM operation_terminations "
    "WHERE operation_id = {0})",
    "operation_terminations": "operation_id = {0}",
    "events": "operation_id = {0} OR termination_id IN (SELECT termination_id FROM "
    "operation_terminations WHERE operation_id = {0})",
}
"""The rows that a request stores: the condition for each table, with the id of the operation."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """By round: requests of one job a second, and seconds of a request of many jobs."""

    one: list[tuple[float, float]]
    """Of the daemon, and of the server with a static answer."""
    many: dict[int, list[tuple[float, float]]]
    """By the number of jobs: of the daemon, and of the driver alone."""


async def run() -> list[Figure]:
    figures = []
    with any_server() as server:
        for name in ("SQLite", "PostgreSQL"):
            used = server if name == "PostgreSQL" else None
            async with new_database(used) as url, new_database(used) as other:
                accepted = await measured(_measure, url, other)
            figures += _figures(name, accepted)
    return figures


def _figures(name: str, accepted: Accepted) -> list[Figure]:
    figures = [
        Figure(
            name=f"{name}: requests of one job, {CLIENTS} clients",
            value=statistics.median(rate for rate, _ in accepted.one),
            unit="/s",
        ),
        Figure.of_ratios(f"{name}: the same, to a static answer", accepted.one, least=ONE_MIN),
    ]
    for jobs, seconds in accepted.many.items():
        took_s = statistics.median(ours for ours, _ in seconds)
        raw_first = [(raw, ours) for ours, raw in seconds]
        figures += [
            Figure(name=f"{name}: a request of {jobs} jobs", value=took_s, unit="s"),
            Figure.of_ratios(f"{name}: raw insert of its rows, to it", raw_first, least=MANY_MIN),
        ]
    return figures


async def _measure(url: str, other: str) -> Accepted:
    cloud = simulator()
    async with serve(cloud) as cloud_url:
        made = settings(cloud_url, url, engine={})
        account = made.accounts["main"].model_copy(update={"quotas": Quotas()})
        made = made.model_copy(update={"accounts": {"main": account}})
        async with daemon(made) as api, _static_server() as static:
            one, many = [], dict[int, list[tuple[float, float]]]()
            for number in range(ROUNDS):
                ours = await measured(_rate, api, f"ours{number}")
                one.append((ours, await measured(_rate, static, "static")))
            await upgrade(other)
            for jobs in MANY_JOBS:
                many[jobs] = [
                    await _one_of_many(api, url, other, f"many{jobs}x{number}", jobs)
                    for number in range(ROUNDS)
                ]
            return Accepted(one, many)


async def _rate(url: str, name: str) -> float:
    """Return the requests a second of all clients."""
    return await requests_per_s(
        f"{url.rstrip('/')}/v1/operations", _bodies(name), clients=CLIENTS, seconds=ROUND_S
    )


def _bodies(name: str) -> Iterator[bytes]:
    for number in itertools.count():
        yield _body([f"job-{name}n{number:07}"])


def _body(jobs: Sequence[str]) -> bytes:
    # A job is not polled before this time, so that nothing but accepting takes time.
    not_before = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    return json.dumps({"jobs": jobs, "reason": "benchmark", "not_before": not_before}).encode()


async def _one_of_many(api: str, url: str, other: str, name: str, jobs: int) -> tuple[float, float]:
    """Return the seconds of a request of so many jobs, and of an insert of its rows."""
    body = _body([f"job-{name}n{number:07}" for number in range(jobs)])
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(api) as client:
        began_at = time.monotonic()
        async with client.post("/v1/operations", data=body, headers=headers) as answer:
            answer.raise_for_status()
            operation_id = (await answer.json())["id"]
        took_s = time.monotonic() - began_at
    inserted = _inserted_by_sqlite if url.startswith("sqlite") else _inserted_by_postgresql
    return took_s, await inserted(url, other, operation_id)


async def _inserted_by_sqlite(url: str, other: str, operation_id: str) -> float:
    found: dict[str, list[dict[str, Any]]] = {}
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        connection.row_factory = sqlite3.Row
        for table, condition in _ROWS_OF.items():
            query = f"SELECT * FROM {table} WHERE {condition.format('?1')}"
            found[table] = [dict(row) for row in connection.execute(query, (operation_id,))]
    with closing(sqlite3.connect(other.removeprefix("sqlite:///"))) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        began_at = time.monotonic()
        for table, rows in found.items():
            connection.executemany(*_insert(table, rows, "?"))
        connection.commit()
        took_s = time.monotonic() - began_at
        for table in reversed(found):
            connection.execute(f"DELETE FROM {table}")
        connection.commit()
    return took_s


async def _inserted_by_postgresql(url: str, other: str, operation_id: str) -> float:
    found: dict[str, list[dict[str, Any]]] = {}
    connection = await asyncpg.connect(_plain(url))
    for table, condition in _ROWS_OF.items():
        query = f"SELECT * FROM {table} WHERE {condition.format('$1')}"
        found[table] = [dict(row) for row in await connection.fetch(query, operation_id)]
    await connection.close()
    connection = await asyncpg.connect(_plain(other))
    began_at = time.monotonic()
    async with connection.transaction():
        for table, rows in found.items():
            await connection.executemany(*_insert(table, rows, "$"))
    took_s = time.monotonic() - began_at
    for table in reversed(found):
        await connection.execute(f"DELETE FROM {table}")
    await connection.close()
    return took_s


def _plain(url: str) -> str:
    return url.replace("+asyncpg", "")


def _insert(
    table: str, rows: Sequence[Mapping[str, Any]], mark: str
) -> tuple[str, list[tuple[Any, ...]]]:
    """Return an INSERT of the columns that have a value, and its parameters for each row."""
    names = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    marks = [mark if mark == "?" else f"{mark}{number + 1}" for number in range(len(names))]
    columns = ", ".join(f'"{name}"' for name in names)
    statement = f"INSERT INTO {table} ({columns}) VALUES ({', '.join(marks)})"
    return statement, [tuple(row[name] for name in names) for row in rows]


@asynccontextmanager
async def _static_server() -> AsyncIterator[str]:
    """Serve one answer to every request, which has been read."""

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({"id": "op_1"}, status=202)

    app = web.Application()
    app.add_routes([web.post("/v1/operations", answer)])
    async with TestServer(app) as server:
        yield str(server.make_url(""))
