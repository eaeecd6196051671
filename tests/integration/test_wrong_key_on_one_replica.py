"""Two replicas, of which one has a key that the cloud refuses: each of them reports which."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any

import aiohttp
from pydantic import SecretStr

from orchestrator.simulator.http.app import serve
from tests.support import HANG_S
from tests.support.service import Service, daemon, settings, simulator

if TYPE_CHECKING:
    from tests.support.postgres import Server

PROCESS = f"{socket.gethostname()}-{os.getpid()}"
"""Settings of both."""
CODE = "AuthFailure.SignatureFailure"
FAIL, ADVICE = f"; cloud API calls fail ({CODE}: ", "; check the account's key"
JOBS = {"main": "job-main0001", "second": "job-second01"}


async def troubles(replica: Service) -> Any:
    async with asyncio.timeout(HANG_S):
        while True:
            if troubles := (await replica.get("/readyz"))["troubles"]:
                return troubles
            await asyncio.sleep(0.05)


async def test_a_failure_names_the_replica_that_has_it(postgres: Server) -> None:
    """Run two replicas, each of which drives one of two accounts."""
    cloud = simulator({"ids": list(JOBS.values()), "drain_s": 3600})
    async with postgres.database() as url, serve(cloud) as cloud_url:
        account = settings(cloud_url, url).accounts["main"]
        credentials = account.credentials.model_copy(update={"secret_key": SecretStr("another")})
        mistaken = account.model_copy(update={"credentials": credentials})
        right, wrong = (
            settings(cloud_url, url, accounts=dict.fromkeys(JOBS, each))
            for each in (account, mistaken)
        )
        async with (
            daemon(right) as at_right,
            daemon(wrong) as at_wrong,
            aiohttp.ClientSession(at_right) as to_right,
            aiohttp.ClientSession(at_wrong) as to_wrong,
        ):
            here, there = Service(wrong, cloud, to_wrong), Service(right, cloud, to_right)
            submitted = {name: await here.submit(job, account=name) for name, job in JOBS.items()}
            (place,) = await troubles(here)
            assert await troubles(here) == {place: CODE}
            assert await troubles(there) == {place: f"{CODE}, at replica {PROCESS}"}
            operation = submitted[place.partition("@")[0]]
            (termination,) = (await here.terminations(operation)).values()
            assert FAIL in termination["waiting_for"]
            assert ADVICE in termination["next_action"]
            (termination,) = (await there.terminations(operation)).values()
            assert (
                FAIL.replace(" fail", f" of replica {PROCESS} fail") in termination["waiting_for"]
            )
            assert ADVICE.replace("; ", f"; at replica {PROCESS}: ") in termination["next_action"]
