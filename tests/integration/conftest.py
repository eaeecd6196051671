"""The daemon as a process, and its simulated cloud."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web

from orchestrator.cli.demo.subprocesses import free_ports
from orchestrator.simulator.http.app import application
from orchestrator.simulator.simulator import Simulator
from tests.support.daemon_process import (
    ACCOUNT,
    ACCOUNTS,
    CONFIG,
    JOBS,
    QUOTAS,
    REGION,
    SECRET_ID,
    SECRET_KEY,
    Daemon,
    DelayableCloud,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
async def cloud() -> AsyncIterator[DelayableCloud]:
    simulator = Simulator(secret_keys={SECRET_ID: SECRET_KEY}, limits_per_s=QUOTAS, seed=1)
    simulator.add_groups([{"ids": list(JOBS), "instances": 5, "drain_s": 0.5}])
    made = DelayableCloud(simulator)
    made.answers.set()
    app = application(simulator)

    @web.middleware
    async def held(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.headers.get("X-TC-Action") == "TerminateJob":
            made.waiting += 1
            await made.answers.wait()
        return await handler(request)

    app.middlewares.append(held)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        made.url = "http://{}:{}".format(*runner.addresses[0][:2])
        yield made
    finally:
        await runner.cleanup()


@pytest.fixture
async def daemon(tmp_path: Path, cloud: DelayableCloud) -> AsyncIterator[Daemon]:
    (port,) = free_ports(1)
    parts = [CONFIG.format(port=port, directory=tmp_path)] + [
        ACCOUNT.format(
            name=name, cloud=cloud.url, region=REGION, secret_id=SECRET_ID, secret_key=SECRET_KEY
        )
        for name in ACCOUNTS
    ]
    (tmp_path / "orchestrator.toml").write_text("".join(parts))
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
        yield Daemon(tmp_path, port, client)
