"""The daemon as a process, with a simulated cloud in the test's own process."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp import web

from orchestrator.cli.demo.subprocesses import Child, child
from tests.support import HANG_S

if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from orchestrator.simulator.simulator import Call, Simulator

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


REGION: Final = "ap-guangzhou"
SECRET_ID: Final = "AKIDEXAMPLE"
SECRET_KEY: Final = "example"
QUOTAS: Final = {"TerminateJob": 20, "DescribeJob": 20, "DescribeJobs": 20, "DescribeTask": 20}
JOBS: Final = ("job-runs0001", "job-runs0002", "job-runs0003")
ACCOUNTS: Final = ("first", "second")
STOP_MAX_S: Final = 10.0
POLL_S: Final = 0.02
ACCOUNT: Final = """
[accounts.{name}]
endpoint = "{cloud}"
cvm_endpoint = "{cloud}"
regions = ["{region}"]
quotas = {{ TerminateJob = 20, DescribeJob = 20, DescribeJobs = 20, DescribeTask = 20 }}
credentials = {{ provider = "static", secret_id = "{secret_id}", secret_key = "{secret_key}" }}
"""
CONFIG: Final = """
[server]
port = {port}
[database]
url = "sqlite:///{directory}/orchestrator.db"
[engine]
settle_s = 0
poll = {{ batch_min_interval_s = 0.05, batch_max_interval_s = 0.1, held_interval_s = 0.1 }}
"""


@dataclass(slots=True)
class DelayableCloud:
    """The simulator in this process; a TerminateJob waits until ``answers`` is set."""

    simulator: Simulator
    url: str = ""
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0

    def answer_in(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self.answers.set)

    def calls(self, action: str) -> list[Call]:
        return [call for call in self.simulator.calls if call.action == action]

    def called(self, *jobs: str) -> bool:
        """Return whether a TerminateJob of each of these has arrived."""
        return {*jobs} <= {job_id for call in self.calls("TerminateJob") for job_id in call.job_ids}


@dataclass(slots=True)
class Daemon:
    """The files and the port of a daemon, for any number of starts."""

    directory: Path
    port: int
    client: aiohttp.ClientSession
    starts: int = 0

    @asynccontextmanager
    async def started(self) -> AsyncIterator[Child]:
        """Start a new process, which is stopped at the end of the block."""
        self.starts += 1
        arguments = ("serve", "--config", str(self.directory / "orchestrator.toml"))
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ORCHESTRATOR_")}
        async with child(
            f"daemon-{self.starts}",
            *arguments,
            directory=self.directory,
            environment=environment,
        ) as process:
            yield process

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Child]:
        async with self.started() as process:
            async with asyncio.timeout(HANG_S):
                while not await self._ready():
                    process.check()
                    await asyncio.sleep(POLL_S)
            yield process

    async def _ready(self) -> bool:
        with suppress(aiohttp.ClientError):
            async with self.client.get("/readyz") as answer:
                return answer.status == 200
        return False

    async def submit(self, *jobs: str, account: str) -> str:
        body = {"jobs": jobs, "reason": "a test", "account": account}
        async with self.client.post("/v1/operations", json=body) as answer:
            assert answer.status == 202, await answer.text()
            return str((await answer.json())["id"])

    async def finished(self, operation_id: str) -> dict[str, Any]:
        """Return its terminations by job, once it has finished."""
        await self.reached(operation_id, lambda operation: operation["state"] == "finished")
        found = await self._get(f"/v1/operations/{operation_id}/terminations")
        return {each["job_id"]: each for each in found["terminations"]}

    async def reached(self, operation_id: str, condition: Callable[[Any], bool]) -> None:
        """Wait until the operation fulfils the condition."""
        async with asyncio.timeout(HANG_S):
            while not condition(  # noqa: ASYNC110 - it is another process
                await self._get(f"/v1/operations/{operation_id}")
            ):
                await asyncio.sleep(POLL_S)

    async def _get(self, path: str) -> Any:
        async with self.client.get(path) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.directory / "orchestrator.db")) as connection:
            return connection.execute(query).fetchall()


async def until(condition: Callable[[], bool], process: Child) -> None:
    async with asyncio.timeout(HANG_S):
        while not condition():
            process.check()
            await asyncio.sleep(POLL_S)


async def stopped(process: Child, number: signal.Signals) -> float:
    """Stop it; return the seconds until it has ended, which it must with exit code 0."""
    signalled_s = monotonic()
    process.process.send_signal(number)
    await gone(process)
    return monotonic() - signalled_s


async def gone(process: Child) -> None:
    async with asyncio.timeout(HANG_S):
        code = await process.process.wait()
    logged = process.log.read_text()
    assert code == 0, logged
    assert "Traceback" not in logged
