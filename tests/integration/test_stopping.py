"""The daemon as a process that is told to stop: how long it takes, and what it leaves behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest
from aiohttp import web

from orchestrator.cli.demo.subprocesses import Child, child, free_ports
from orchestrator.simulator.http.app import application
from orchestrator.simulator.simulator import Call, Simulator
from orchestrator.simulator.traffic.fault_injection import read_faults
from tests.integration.test_crash_points import called_unread
from tests.support import HANG_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

REGION: Final = "ap-guangzhou"
SECRET_ID: Final = "AKIDEXAMPLE"
SECRET_KEY: Final = "example"
QUOTAS: Final = {"TerminateJob": 20, "DescribeJob": 20, "DescribeJobs": 20, "DescribeTask": 20}
JOBS: Final = ("job-runs0001", "job-runs0002", "job-runs0003")
ACCOUNTS: Final = ("first", "second")
ANSWER_S: Final = 1.0
STOP_MAX_S: Final = 10.0
IDLE_STOP_MAX_S: Final = 2.0
POLL_S: Final = 0.02
HANG: Final = {"TerminateJob": {"hang": {"probability": 1.0, "hang_s": 300}}}
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
poll = {{ sweep_min_s = 0.05, sweep_max_s = 0.1, held_s = 0.1 }}
"""


@dataclass(slots=True)
class Cloud:
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
        """Whether a TerminateJob of each of these has arrived."""
        return {*jobs} <= {job_id for call in self.calls("TerminateJob") for job_id in call.job_ids}


@pytest.fixture
async def cloud() -> AsyncIterator[Cloud]:
    simulator = Simulator(secret_keys={SECRET_ID: SECRET_KEY}, limits_per_s=QUOTAS, seed=1)
    simulator.add_groups([{"ids": list(JOBS), "instances": 5, "drain_s": 0.5}])
    made = Cloud(simulator)
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


@dataclass(slots=True)
class Daemon:
    """Where the daemon runs, however often it is started."""

    directory: Path
    port: int
    client: aiohttp.ClientSession
    starts: int = 0

    @asynccontextmanager
    async def started(self) -> AsyncIterator[Child]:
        """A new process, as soon as there is one; stopped at the end of the block."""
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
        """Its terminations by job, once it has finished."""
        await self.reached(operation_id, lambda operation: operation["state"] == "finished")
        found = await self._get(f"/v1/operations/{operation_id}/terminations")
        return {each["job_id"]: each for each in found["terminations"]}

    async def reached(self, operation_id: str, condition: Callable[[Any], bool]) -> None:
        """Wait until this is so of the operation."""
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


@pytest.fixture
async def daemon(tmp_path: Path, cloud: Cloud) -> AsyncIterator[Daemon]:
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


async def until(condition: Callable[[], bool], process: Child) -> None:
    async with asyncio.timeout(HANG_S):
        while not condition():
            process.check()
            await asyncio.sleep(POLL_S)


async def stopped(process: Child, number: signal.Signals) -> float:
    """Tell it to stop; the seconds until it is gone, which it must be with exit code 0."""
    told_s = monotonic()
    process.process.send_signal(number)
    await gone(process)
    return monotonic() - told_s


async def gone(process: Child) -> None:
    async with asyncio.timeout(HANG_S):
        code = await process.process.wait()
    told = process.log.read_text()
    assert code == 0, told
    assert "Traceback" not in told


@asynccontextmanager
async def half_a_request(daemon: Daemon) -> AsyncIterator[None]:
    """A client that began to submit and does not go on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
    writer.write(
        b"POST /v1/operations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Expect: 100-continue\r\nContent-Length: 100\r\n\r\n"
    )
    try:
        async with asyncio.timeout(HANG_S):
            assert b" 100 " in await reader.readline()
        yield
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.timeout(120)
async def test_what_hangs_does_not_keep_it(cloud: Cloud, daemon: Daemon) -> None:
    """Calls of two partitions and a request; the next process reads the jobs in doubt first."""
    cloud.simulator.faults.replace(read_faults(HANG), now=cloud.simulator.now())
    async with daemon.serving() as process:
        first = await daemon.submit(*JOBS[:2], account=ACCOUNTS[0])
        second = await daemon.submit(JOBS[2], account=ACCOUNTS[1])
        await until(lambda: cloud.called(*JOBS), process)
        async with half_a_request(daemon):
            assert await stopped(process, signal.SIGTERM) < STOP_MAX_S
    cloud.simulator.faults.replace({}, now=cloud.simulator.now())
    async with daemon.serving():
        ended = await daemon.finished(first) | await daemon.finished(second)
    assert {each["job_id"]: each["state"] for each in ended.values()} == dict.fromkeys(
        JOBS, "verified"
    )
    for each in ended.values():
        outcomes = [attempt["outcome"] for attempt in each["attempts"]]
        assert outcomes == ["interrupted", "accepted"]
    assert called_unread(cloud.simulator.calls) == []


async def test_jobs_that_are_waited_for_do_not_keep_it(cloud: Cloud, daemon: Daemon) -> None:
    """Held, draining, and an idle client: no call is under way."""
    cloud.simulator.add_groups(
        [{"ids": ["job-held0001"], "state": "SUBMITTED"}, {"ids": ["job-long0001"], "drain_s": 300}]
    )
    async with daemon.serving() as process:
        operation_id = await daemon.submit("job-held0001", "job-long0001", account=ACCOUNTS[0])
        wanted = {"held": 1, "draining": 1}
        await daemon.reached(
            operation_id, lambda each: wanted.items() <= each["progress"]["jobs"].items()
        )
        assert await stopped(process, signal.SIGTERM) < IDLE_STOP_MAX_S


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_with_nothing_to_do_it_stops_at_once(daemon: Daemon, number: signal.Signals) -> None:
    async with daemon.serving() as process:
        assert await stopped(process, number) < IDLE_STOP_MAX_S


@pytest.mark.parametrize(
    ("first", "more"),
    [
        (signal.SIGTERM, ()),
        (signal.SIGTERM, (signal.SIGTERM, signal.SIGINT)),
        (signal.SIGINT, (signal.SIGINT, signal.SIGTERM)),
    ],
    ids=["once", "SIGTERM first", "SIGINT first"],
)
async def test_answers_under_way_are_written(
    cloud: Cloud, daemon: Daemon, first: signal.Signals, more: tuple[signal.Signals, ...]
) -> None:
    """However often it is told meanwhile; the next process has nothing to doubt."""
    cloud.answers.clear()
    async with daemon.serving() as process:
        operation_id = await daemon.submit(*JOBS, account=ACCOUNTS[0])
        await until(lambda: cloud.waiting == len(JOBS), process)
        process.process.send_signal(first)
        await until(lambda: "stopping" in process.log.read_text(), process)
        for number in more:
            process.process.send_signal(number)
        cloud.answer_in(ANSWER_S)
        await gone(process)
    rows = daemon.rows("SELECT number, outcome, request_id FROM attempts ORDER BY request_id")
    answered = sorted(call.request_id for call in cloud.calls("TerminateJob"))
    assert rows == [(1, "accepted", request_id) for request_id in answered]
    assert len(rows) == len(JOBS)
    async with daemon.serving():
        ended = await daemon.finished(operation_id)
    assert {each["state"] for each in ended.values()} == {"verified"}
    assert len(cloud.calls("TerminateJob")) == len(JOBS)


async def test_told_while_it_starts(cloud: Cloud, daemon: Daemon) -> None:
    """From the moment on that it listens to signals it ends with 0, without a call to the cloud."""
    async with daemon.started() as process:
        await until(lambda: catches(process.process.pid, signal.SIGTERM), process)
        await stopped(process, signal.SIGTERM)
    assert cloud.simulator.calls == []
    async with daemon.serving() as process:
        await stopped(process, signal.SIGTERM)


async def test_told_at_birth(cloud: Cloud, daemon: Daemon) -> None:
    """Before there is anything to end, the signal itself may do it."""
    async with daemon.started() as process:
        process.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(HANG_S):
            assert await process.process.wait() in (0, -signal.SIGTERM)
        assert "Traceback" not in process.log.read_text()
    async with daemon.serving() as process:
        await stopped(process, signal.SIGTERM)


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for this signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(int(mask, 16) & 1 << number - 1)
