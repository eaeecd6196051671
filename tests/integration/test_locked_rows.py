"""PostgreSQL: another session keeps one row locked, and all other jobs are terminated meanwhile."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import asyncpg
import pytest
from sqlalchemy import make_url

from tests.support.service import service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.postgres import Server

JOBS: Final = [f"job-many{n:04}" for n in range(1, 13)]
ONE: Final = JOBS[6]
OTHERS: Final = [job for job in JOBS if job != ONE]
GROUP: Final = {"prefix": "many", "count": len(JOBS), "drain_s": [0.5, 1.0]}


@asynccontextmanager
async def somebody_locks(url: str, query: str) -> AsyncIterator[None]:
    connection = await asyncpg.connect(
        make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    )
    try:
        async with connection.transaction():
            assert len(await connection.fetch(query)) == 1
            yield
    finally:
        await connection.close()


@pytest.mark.thorough
@pytest.mark.parametrize(
    "query",
    [
        f"SELECT FROM terminations WHERE job_id = '{ONE}' FOR UPDATE",
        "SELECT FROM operations WHERE jobs_total = 1 FOR UPDATE",
    ],
    ids=["its own", "its operation's"],
)
@pytest.mark.parametrize("called", [False, True], ids=["before its call", "after its call"])
async def test_a_row_that_another_session_keeps_locked_delays_no_other(
    postgres: Server, caplog: pytest.LogCaptureFixture, query: str, *, called: bool
) -> None:
    async with postgres.database() as url, service(url, GROUP) as running:
        alone = await running.submit(ONE)
        if called:
            await running.until(alone, ONE, "draining")
        async with somebody_locks(url, query):
            many = await running.submit(*OTHERS)
            for job in OTHERS:
                await running.until(many, job, "verified")
            # The failures that it caused have ended, and do not occur again.
            (locked,) = [
                r.message for r in caplog.records if "of their operations, locked" in r.message
            ]
            assert (await running.terminations(alone))[ONE]["id"] in locked
            async with running.client.get("/readyz") as answer:
                assert answer.status == 200, await answer.text()
        await running.until(alone, ONE, "verified")
    (free,) = [r.message for r in caplog.records if "are no longer locked" in r.message]
    assert "1 terminations" in free
