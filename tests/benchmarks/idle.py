"""What accounts without work cost, and how soon the first call follows a request beside them."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from orchestrator.simulator.http.app import serve
from tests.benchmarks.alone import measured
from tests.benchmarks.databases import new_database
from tests.benchmarks.figures import Figure
from tests.support import HANG_S
from tests.support.postgres import any_server
from tests.support.service import daemon, settings, simulator

if TYPE_CHECKING:
    from orchestrator.simulator.simulator import Simulator

MOST_PERCENT = {1: 1.0, 100: 2.0, 1000: 5.0}
"""Share of a core that so many idle accounts may take."""
SETTLE_S = 8.0
IDLE_S = 20.0
REQUESTS = 5
BETWEEN_REQUESTS_S = 1.0


@dataclass(frozen=True, slots=True)
class IdleRun:
    """The share of a core in percent, and the median time from a request to its first call."""

    cpu_percent: float
    first_call_s: float


async def run() -> list[Figure]:
    figures = []
    with any_server() as server:
        for name in ("SQLite", "PostgreSQL"):
            found = {}
            for accounts in MOST_PERCENT:
                async with new_database(server if name == "PostgreSQL" else None) as url:
                    found[accounts] = await measured(_measure, accounts, url)
            figures += _figures(name, found)
    return figures


def _figures(name: str, found: dict[int, IdleRun]) -> list[Figure]:
    one, *_, most = found.values()
    ratio = most.first_call_s / one.first_call_s
    return [
        *(
            Figure(
                name=f"{name}: CPU with {accounts} idle accounts",
                value=found[accounts].cpu_percent,
                most=MOST_PERCENT[accounts],
                unit="%",
            )
            for accounts in found
        ),
        Figure(name=f"{name}: request to first call, 1 account", value=one.first_call_s, unit="s"),
        Figure(name=f"{name}: the same beside 999 idle ones, ratio", value=ratio, most=1.5),
    ]


async def _measure(accounts: int, database_url: str) -> IdleRun:
    cloud = simulator({"count": REQUESTS, "instances": 1, "drain_s": 3600})
    jobs = [str(job["job_id"]) for job in cloud.truth()]
    async with serve(cloud) as cloud_url:
        made = settings(cloud_url, database_url)
        account = made.accounts["main"]
        names = [f"account-{number}" for number in range(accounts)]
        made = made.model_copy(update={"accounts": dict.fromkeys(names, account)})
        async with daemon(made) as api, aiohttp.ClientSession(api) as client:
            await asyncio.sleep(SETTLE_S)
            began_at, cpu_s = time.monotonic(), time.process_time()
            await asyncio.sleep(IDLE_S)
            used_s, idle_s = time.process_time() - cpu_s, time.monotonic() - began_at
            waits_s = []
            for number, job in enumerate(jobs):
                account_name = names[-1 - number % accounts]
                waits_s.append(await _first_call_s(client, cloud, account_name, job))
                await asyncio.sleep(BETWEEN_REQUESTS_S)
    return IdleRun(100 * used_s / idle_s, statistics.median(waits_s))


async def _first_call_s(
    client: aiohttp.ClientSession, cloud: Simulator, account: str, job: str
) -> float:
    """Submit a job; return the seconds until the cloud has received the first call about it."""
    known, asked_at = len(cloud.calls), time.time()
    body = {"account": account, "jobs": [job], "reason": "benchmark"}
    async with client.post("/v1/operations", json=body) as answer:
        answer.raise_for_status()
    async with asyncio.timeout(HANG_S):
        while True:
            if calls := [call for call in cloud.calls[known:] if job in call.job_ids]:
                return calls[0].at - asked_at
            await asyncio.sleep(0.001)
