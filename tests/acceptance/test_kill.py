"""kill -9, ten times, while 200 jobs are terminated on a cloud that loses answers and throttles.

Simulator and daemon are processes; the result is checked by the simulator's truth and log, against
the answers of the daemon's REST API.
"""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections import Counter
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest

from orchestrator.cli.demo.subprocesses import Child, child, free_ports
from orchestrator.simulator.simulator import Call
from tests.support.call_checks import called_unread, check_attempts, check_events
from tests.support.processes import WAIT_MAX_S, environment, killed, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

UNKNOWN: Final = [f"job-nobody0{number}" for number in range(1, 5)]
JOBS: Final = 200
IN_FLIGHT: Final = 3
EVIDENCE: Final = {"verified": 5, "already_finished": 3, "refused": 0, "not_found": 0}
CODES: Final = {
    "",
    "OK",
    "RequestLimitExceeded",
    "UnsupportedOperation.TerminateOperationWithEnvId",
}
"""Codes of TerminateJob: it never reaches a job that is SUBMITTED or already stopping."""
SCENARIO: Final = """
seed = 11
[[credentials]]
secret_id = "AKIDEXAMPLE"
secret_key = "example"
[quotas]
TerminateJob = 20
DescribeJob = 50
DescribeJobs = 10
DescribeTask = 20
DescribeJobSubmitInfo = 20
[faults.TerminateJob]
throttle = 0.02
internal_error = 0.04
reset = 0.04
lost_answer = 0.08
truncate = 0.04
[faults.DescribeJob]
throttle = 0.01
internal_error = 0.03
reset = 0.03
lost_answer = 0.03
truncate = 0.03
[faults.DescribeJobs]
throttle = 0.02
internal_error = 0.03
reset = 0.03
lost_answer = 0.03
truncate = 0.03
[faults.DescribeTask]
internal_error = 0.05
truncate = 0.05
[[jobs]]
label = "running"
prefix = "run"
count = 122
instances = [10, 60]
drain_s = [0.5, 3]
expect = "verified"
[[jobs]]
label = "mixed"
prefix = "mix"
count = 20
instances = [20, 40]
tasks = 2
mix = { RUNNABLE = 0.3, STARTING = 0.1, FAILED_INTERRUPTED = 0.1, SUCCEED = 0.1 }
drain_s = [0.5, 3]
failed_early_s = 0.4
expect = "verified"
[[jobs]]
label = "submitted"
prefix = "sub"
count = 15
instances = [5, 20]
state = "SUBMITTED"
submitted_s = [5, 25]
drain_s = [0.5, 2]
expect = "verified"
[[jobs]]
label = "succeeded"
prefix = "suc"
count = 12
state = "SUCCEED"
expect = "already_finished"
[[jobs]]
label = "failed"
prefix = "fail"
count = 8
state = "FAILED"
expect = "already_finished"
[[jobs]]
label = "failed-live"
prefix = "live"
count = 12
instances = [10, 30]
state = "FAILED"
mix = { RUNNING = 0.4 }
drain_s = [0.5, 2]
expect = "verified"
[[jobs]]
label = "environment"
prefix = "env"
count = 5
env_id = "env-example1"
drain_s = 1
expect = "verified"
[[jobs]]
label = "environment-refused"
prefix = "deny"
count = 6
env_id = "env-example2"
refuse_env = true
expect = "refused"
"""
CONFIG: Final = """
[server]
port = {port}
[database]
url = "sqlite:///{directory}/orchestrator.db"
[engine]
settle_s = 1
not_found_after_s = 1
starting_watch_s = 2
[accounts.test]
endpoint = "{cloud}"
cvm_endpoint = "{cloud}"
regions = ["ap-guangzhou"]
quotas.TerminateJob = 20
quotas.DescribeJob = 50
quotas.DescribeJobs = 10
quotas.DescribeTask = 20
quotas.DescribeJobSubmitInfo = 20
credentials = {{ provider = "static", secret_id = "AKIDEXAMPLE", secret_key = "example" }}
"""


@dataclass(slots=True)
class Stage:
    """The cloud, the running daemon, and the client of both."""

    directory: Path
    port: int
    cloud: Child
    control: aiohttp.ClientSession
    client: aiohttp.ClientSession
    operation_id: str = ""
    calls: list[Call] = field(default_factory=list)
    """The cloud's log, as far as it has been read."""
    lives: list[Child] = field(default_factory=list)

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[Child]:
        """Start another process of the daemon, and wait until it serves."""
        name = f"daemon-{len(self.lives) + 1}"
        arguments = ("serve", "--config", str(self.directory / "orchestrator.toml"))
        async with child(
            name, *arguments, directory=self.directory, environment=environment()
        ) as process:
            self.lives.append(process)
            await until(self._ready, process)
            yield process

    async def _ready(self) -> bool:
        with suppress(aiohttp.ClientError):
            async with self.client.get("/livez") as answer:
                return answer.status == 200
        return False

    async def submit(
        self, jobs: list[str], client: aiohttp.ClientSession | None = None
    ) -> tuple[str, bool]:
        """Return the operation's id, and whether it had been accepted before."""
        body = {"jobs": jobs, "reason": "kill"}
        headers = {"Idempotency-Key": "kill-1"}
        async with (client or self.client).post(
            "/v1/operations", json=body, headers=headers
        ) as answer:
            assert answer.status == 202, await answer.text()
            return (await answer.json())["id"], "Idempotency-Replayed" in answer.headers

    async def get(self, path: str) -> Any:
        async with self.client.get(path) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def operation(self) -> Any:
        return await self.get(f"/v1/operations/{self.operation_id}")

    async def listed(self, path: str, name: str) -> list[Any]:
        """Return all pages of a list."""
        found: list[Any] = []
        token: str | None = ""
        while token is not None:
            more = f"&page_token={token}" if token else ""
            document = await self.get(f"{path}?limit=100{more}")
            found += document[name]
            token = document["next_page_token"]
        return found

    async def asked(self, name: str) -> Any:
        async with self.control.get(f"/_control/{name}") as answer:
            return await answer.json()

    async def arrived(self) -> int:
        """Return how many TerminateJob calls have reached the cloud."""
        found = (await self.asked(f"calls?since={len(self.calls)}"))["calls"]
        self.calls += [Call(**each | {"job_ids": tuple(each["job_ids"])}) for each in found]
        return sum(call.action == "TerminateJob" for call in self.calls)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    (tmp_path / "scenario.toml").write_text(SCENARIO)
    cloud_port, port = free_ports(2)
    cloud_url, url = f"http://127.0.0.1:{cloud_port}", f"http://127.0.0.1:{port}"
    config = CONFIG.format(port=port, directory=tmp_path, cloud=cloud_url)
    (tmp_path / "orchestrator.toml").write_text(config)
    scenario = ("--scenario", str(tmp_path / "scenario.toml"), "--port", str(cloud_port))
    async with (
        child(
            "simulator", "simulator", *scenario, directory=tmp_path, environment=environment()
        ) as cloud,
        aiohttp.ClientSession(cloud_url) as control,
        aiohttp.ClientSession(url) as client,
    ):
        made = Stage(tmp_path, port, cloud, control, client)

        async def answers() -> bool:
            with suppress(aiohttp.ClientError):
                await made.asked("faults")
                return True
            return False

        await until(answers, cloud)
        yield made
    assert cloud.process.returncode == 0


# --- moments to die ------------------------------------------------------------------------------


async def while_it_is_submitted(stage: Stage, process: Child, jobs: list[str]) -> None:
    """Kill it once the request has been sent; the client does not learn whether it was accepted."""
    sent = asyncio.Event()
    trace = aiohttp.TraceConfig()

    async def on_sent(*_: object) -> None:
        sent.set()

    trace.on_request_chunk_sent.append(on_sent)
    async with aiohttp.ClientSession(stage.client._base_url, trace_configs=[trace]) as client:
        submitting = asyncio.ensure_future(stage.submit(jobs, client))
        async with asyncio.timeout(WAIT_MAX_S):
            await sent.wait()
        await killed(process)
        await asyncio.gather(submitting, return_exceptions=True)


async def once_called(stage: Stage, process: Child, calls: int) -> None:
    """Kill it once this number of calls has reached the cloud."""

    async def enough() -> bool:
        return await stage.arrived() >= calls

    await until(enough, process)
    await killed(process)


async def with_calls_in_flight(stage: Stage, process: Child, calls: int) -> None:
    """Kill it after this number of calls; the next ones are sent, unanswered, and arrive later."""

    async def enough() -> bool:
        return await stage.arrived() >= calls

    async def unanswered() -> bool:
        path = f"/v1/operations/{stage.operation_id}/terminations?state=sending"
        found = (await stage.get(path))["terminations"]
        return sum(not each["attempts"][-1]["answered_at"] for each in found) >= IN_FLIGHT

    await until(enough, process)
    stage.cloud.process.send_signal(signal.SIGSTOP)
    try:
        await until(unanswered, process)
        await killed(process)
    finally:
        stage.cloud.process.send_signal(signal.SIGCONT)


async def once_finished(stage: Stage, process: Child, jobs: int) -> None:
    """Kill it once this number of jobs is in a final state."""

    async def enough() -> bool:
        counts = (await stage.operation())["progress"]["jobs"]
        return bool(sum(counts[state] for state in EVIDENCE) >= jobs)

    await until(enough, process)
    await killed(process)


MOMENTS: Final = [
    (once_called, 5),
    (with_calls_in_flight, 20),
    (once_called, 45),
    (with_calls_in_flight, 60),
    (once_called, 85),
    (once_called, 0),  # as soon as it serves
    (with_calls_in_flight, 105),
    (with_calls_in_flight, 125),
    (once_finished, 150),
]
"""Moments after the first, which is during the submission of the operation."""


@pytest.mark.thorough
@pytest.mark.timeout(180)
async def test_ten_kills_lose_and_repeat_nothing(stage: Stage) -> None:
    """Every job ends as it must, and none is called again without having been read."""
    jobs = [each["job_id"] for each in (await stage.asked("truth"))["jobs"]] + UNKNOWN
    assert len(jobs) == JOBS + len(UNKNOWN)
    async with stage.daemon() as process:
        await while_it_is_submitted(stage, process, jobs)
    for moment, mark in MOMENTS:
        async with stage.daemon() as process:
            operation_id, replayed = await stage.submit(jobs)
            assert stage.operation_id in ("", operation_id)
            assert replayed or not stage.operation_id
            stage.operation_id = operation_id
            assert (await stage.operation())["state"] == "running"
            await moment(stage, process, mark)
    async with stage.daemon() as process:
        await until(lambda: finished(stage), process)
        await check_result(stage)
        process.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(WAIT_MAX_S):
            assert await process.process.wait() == 0
    check_processes(stage)


async def finished(stage: Stage) -> bool:
    return bool((await stage.operation())["state"] == "finished")


def evidence(termination: dict[str, Any]) -> int:
    """Return the expected evidence: after a kill some machines may be unknown."""
    machines = termination["machines"]
    known = machines["not_captured"] is None and machines["listed"]
    if termination["state"] == "verified" and not known:
        return 3
    return EVIDENCE[termination["state"]]


async def check_result(stage: Stage) -> None:
    """Check one operation, one termination a job, and each in the state that the truth requires."""
    operations = await stage.listed("/v1/operations", "operations")
    assert [each["id"] for each in operations] == [stage.operation_id]
    terminations = await stage.listed("/v1/terminations", "terminations")
    by_job = {each["job_id"]: each for each in terminations}
    assert len(by_job) == len(terminations) == JOBS + len(UNKNOWN)
    states = {job: each["state"] for job, each in by_job.items()}
    truth = (await stage.asked("truth"))["jobs"]
    expected = {job["job_id"]: state for job in truth for state in job["expect"]}
    assert states == expected | dict.fromkeys(UNKNOWN, "not_found")
    assert [job["job_id"] for job in truth if job["live"] and job["expect"] != ["refused"]] == []
    assert [each for each in terminations if each["evidence"] != evidence(each)] == []
    await check_calls(stage, by_job)
    await check_history(stage, {each["id"]: each["job_id"] for each in terminations}, states)


async def check_history(stage: Stage, job_of: dict[str, str], states: dict[str, str]) -> None:
    events = await stage.listed(f"/v1/operations/{stage.operation_id}/events", "events")
    own = [each["type"] for each in events if each["operation_id"]]
    assert own == ["accepted", "finished"]
    ends = check_events(
        (job_of[each["termination_id"]], each["type"], each["from_state"], each["to_state"])
        for each in events
        if each["termination_id"]
    )
    assert ends == states


async def check_calls(stage: Stage, by_job: dict[str, Any]) -> None:
    await stage.arrived()
    assert called_unread(stage.calls) == []
    terminate = [call for call in stage.calls if call.action == "TerminateJob"]
    assert {call.code for call in terminate} <= CODES
    called = {job for call in terminate for job in call.job_ids}
    assert called == {
        job for job, each in by_job.items() if each["state"] in ("verified", "refused")
    }
    check_attempts(
        (
            (job, attempt["number"], attempt["outcome"])
            for job, each in by_job.items()
            for attempt in each["attempts"]
        ),
        Counter(call.job_ids[0] for call in terminate),
    )
    # The kills did hit calls that acted and whose answers no process received.
    received = {attempt["request_id"] for each in by_job.values() for attempt in each["attempts"]}
    unreceived = [c for c in terminate if c.acted and not c.fault and c.request_id not in received]
    assert unreceived


def check_processes(stage: Stage) -> None:
    assert len(stage.lives) == len(MOMENTS) + 2
    for each in stage.lives:
        assert "Traceback" not in each.log.read_text()
        assert not Path(f"/proc/{each.process.pid}").exists()
    with closing(sqlite3.connect(stage.directory / "orchestrator.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
