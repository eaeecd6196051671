"""The daemon and the simulator in one process, over real HTTP on loopback."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

from orchestrator.daemon import prepared, serving
from orchestrator.settings import Settings
from orchestrator.simulator.http.app import serve
from orchestrator.simulator.simulator import Simulator
from orchestrator.simulator.traffic.fault_injection import read_faults
from tests.support import HANG_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SECRETS = {"AKIDEXAMPLE": "example-secret-key"}
QUOTAS = {"TerminateJob": 50, "DescribeJob": 50, "DescribeJobs": 50, "DescribeTask": 50}


@dataclass(slots=True)
class Service:
    """A running daemon with its settings, its cloud, and a client of its API."""

    settings: Settings
    simulator: Simulator
    client: aiohttp.ClientSession

    async def get(self, path: str) -> Any:
        async with self.client.get(path) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def submit(self, *jobs: str, **more: Any) -> str:
        body = {"jobs": jobs, "reason": "a test"} | more
        async with self.client.post("/v1/operations", json=body) as answer:
            assert answer.status == 202, await answer.text()
            return str((await answer.json())["id"])

    async def terminations(self, operation_id: str) -> dict[str, Any]:
        listed = await self.get(f"/v1/operations/{operation_id}/terminations?limit=1000")
        return {t["job_id"]: t for t in listed["terminations"]}

    async def until(self, operation_id: str, job_id: str, *states: str) -> Any:
        """Return the termination once it is in one of these states."""
        async with asyncio.timeout(HANG_S):
            while True:
                found = (await self.terminations(operation_id))[job_id]
                if found["state"] in states:
                    return found
                await asyncio.sleep(0.05)

    async def finished(self, operation_id: str) -> Any:
        """Return the operation once it has finished."""
        async with asyncio.timeout(HANG_S):
            while True:
                operation = await self.get(f"/v1/operations/{operation_id}")
                if operation["state"] == "finished":
                    return operation
                await asyncio.sleep(0.05)


def settings(cloud_url: str, database_url: str, **changes: Any) -> Settings:
    account = {
        "endpoint": cloud_url,
        "cvm_endpoint": cloud_url,
        "regions": ["ap-guangzhou", "ap-shanghai"],
        "default_region": "ap-guangzhou",
        "credentials": {
            "provider": "static",
            "secret_id": "AKIDEXAMPLE",
            "secret_key": SECRETS["AKIDEXAMPLE"],
        },
        "quotas": QUOTAS,
    }
    values: dict[str, Any] = {
        "server": {"port": 0},
        "database": {"url": database_url},
        "engine": {
            "settle_s": 0.2,
            "call_timeout_s": 2.0,
            "not_found_after_s": 1.0,
            "refused_after_s": 1.0,
            "poll": {
                "batch_min_interval_s": 0.05,
                "batch_max_interval_s": 0.1,
                "held_interval_s": 0.1,
                "settling_interval_s": 0.1,
            },
        },
        "accounts": {"main": account},
    }
    return Settings(**(values | changes))


def simulator(*groups: dict[str, Any], faults: dict[str, Any] | None = None) -> Simulator:
    made = Simulator(
        secret_keys=SECRETS, limits_per_s=QUOTAS, faults=read_faults(faults or {}), seed=1
    )
    if groups:
        made.add_groups(list(groups))
    return made


@asynccontextmanager
async def daemon(made: Settings) -> AsyncIterator[str]:
    """Run a daemon in this process until the block is left; yields the URL of its API."""
    async with prepared(made) as parts, serving(parts) as url:
        yield url


@asynccontextmanager
async def service(
    database_url: str,
    *groups: dict[str, Any],
    faults: dict[str, Any] | None = None,
    **changes: Any,
) -> AsyncIterator[Service]:
    """Run both until the block is left."""
    cloud = simulator(*groups, faults=faults)
    async with serve(cloud) as cloud_url:
        made = settings(cloud_url, database_url, **changes)
        async with daemon(made) as url, aiohttp.ClientSession(url) as client:
            yield Service(made, cloud, client)
