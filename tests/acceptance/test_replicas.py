"""Three daemons on one PostgreSQL, killed, stopped and frozen while they share the work.

The result is checked by the cloud's own log, by the database, and by the answers of their REST
APIs.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from orchestrator.cli.demo.subprocesses import Child, child, free_ports
from orchestrator.simulator.simulator import Call
from tests.support.call_checks import called_unread
from tests.support.processes import POLL_S, WAIT_MAX_S, environment, killed, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncEngine

    from tests.support.postgres import Server

REPLICAS: Final = 3
ACCOUNTS: Final = 6
JOBS: Final = 500
LEASE_S: Final = 4.0
"""Longer than locks of a replica that is frozen in a transaction delay the others, 3.5 s."""
KILLS: Final = 6
KILL_EVERY_S: Final = 2.0
FREEZES: Final = 4
WATCHED_S: Final = 1.2
"""Time for which a resumed replica is watched while the others are frozen: less than a lease."""
SCENARIO: Final = """
seed = 12
{credentials}
[quotas]
TerminateJob = 5
DescribeJob = 10
DescribeJobs = 5
DescribeTask = 10
DescribeJobSubmitInfo = 10
[faults.TerminateJob]
internal_error = 0.03
reset = 0.03
lost_answer = 0.05
[faults.DescribeJob]
internal_error = 0.02
lost_answer = 0.03
[faults.DescribeJobs]
reset = 0.03
lost_answer = 0.03
[[jobs]]
count = {jobs}
instances = [2, 20]
drain_s = {drain_s}
"""
CONFIG: Final = """
[server]
port = {port}
[database]
url = "{database}"
[engine]
settle_s = 1
not_found_after_s = 1
starting_watch_s = 2
[engine.lease]
duration_s = {lease_s}
renewal_deadline_s = 2.0
retry_s = 0.5
"""
ACCOUNT: Final = """
[accounts.a{number}]
endpoint = "{cloud}"
cvm_endpoint = "{cloud}"
regions = ["ap-guangzhou"]
quotas.TerminateJob = 5
quotas.DescribeJob = 10
quotas.DescribeJobs = 5
quotas.DescribeTask = 10
quotas.DescribeJobSubmitInfo = 10
credentials = {{ provider = "static", secret_id = "AKID{number}", secret_key = "example" }}
"""


@dataclass(slots=True)
class Fleet:
    """The replicas by their places, the cloud and the database."""

    directory: Path
    engine: AsyncEngine
    control: aiohttp.ClientSession
    urls: list[str]
    alive: dict[int, Child] = field(default_factory=dict)

    async def rows(self, query: str) -> Sequence[Any]:
        async with self.engine.connect() as connection:
            return (await connection.execute(text(query))).all()

    async def holders(self) -> dict[str, int | None]:
        """Return the process that drives each partition, None: no running one."""
        found = await self.rows(
            "SELECT p.name, r.id FROM partitions p LEFT JOIN replicas r ON r.id = p.holder"
        )
        return {
            row.name: int(row.id.split("_")[0].split("-")[-1]) if row.id else None for row in found
        }

    async def asked(self, name: str) -> Any:
        async with self.control.get(f"/_control/{name}") as answer:
            return await answer.json()

    async def calls(self) -> list[Call]:
        found = (await self.asked("calls?since=0"))["calls"]
        return [Call(**each | {"job_ids": tuple(each["job_ids"])}) for each in found]

    async def request(self, method: str, path: str, **more: Any) -> Any:
        """Return the answer of any replica that gives one."""
        while True:
            for url in self.urls:
                with suppress(aiohttp.ClientError, TimeoutError):
                    async with (
                        asyncio.timeout(5),
                        aiohttp.ClientSession(url) as client,
                        client.request(method, path, **more) as answer,
                    ):
                        if answer.status < 500:
                            return await answer.json()
            await asyncio.sleep(POLL_S)

    async def finished(self, ids: Sequence[str]) -> None:
        for operation_id in ids:
            while True:
                found = await self.request("GET", f"/v1/operations/{operation_id}")
                if found["state"] == "finished":
                    break
                await asyncio.sleep(10 * POLL_S)

    @asynccontextmanager
    async def replica(self, place: int) -> AsyncIterator[Child]:
        """Start a process of a replica, and wait until it serves."""
        config = self.directory / f"orchestrator{place}.toml"
        async with child(
            f"replica-{place}",
            "serve",
            "--config",
            str(config),
            directory=self.directory,
            environment=environment(),
        ) as process:

            async def serves() -> bool:
                with suppress(aiohttp.ClientError):
                    async with (
                        aiohttp.ClientSession(self.urls[place]) as client,
                        client.get("/livez") as answer,
                    ):
                        return answer.status == 200
                return False

            await until(serves, process)
            self.alive[place] = process
            try:
                yield process
            finally:
                self.alive.pop(place, None)

    async def all_held(self, by: int) -> None:
        """Return once every partition is driven, evenly, by this number of replicas."""
        async with asyncio.timeout(WAIT_MAX_S):
            while True:
                held = list((await self.holders()).values())
                counts = [held.count(pid) for pid in set(held)]
                all_held = len(held) == ACCOUNTS and None not in held and len(counts) == by
                if all_held and max(counts) - min(counts) <= 1:
                    return
                await asyncio.sleep(POLL_S)


@asynccontextmanager
async def fleet(
    directory: Path, database_url: str, *, jobs: int, drain_s: str
) -> AsyncIterator[Fleet]:
    cloud_port, *ports = free_ports(1 + REPLICAS)
    cloud_url = f"http://127.0.0.1:{cloud_port}"
    credentials = "".join(
        f'[[credentials]]\nsecret_id = "AKID{number}"\nsecret_key = "example"\n'
        for number in range(ACCOUNTS)
    )
    (directory / "scenario.toml").write_text(
        SCENARIO.format(credentials=credentials, jobs=jobs, drain_s=drain_s)
    )
    for place, port in enumerate(ports):
        config = CONFIG.format(port=port, database=database_url, lease_s=LEASE_S) + "".join(
            ACCOUNT.format(number=number, cloud=cloud_url) for number in range(ACCOUNTS)
        )
        (directory / f"orchestrator{place}.toml").write_text(config)
    scenario = ("--scenario", str(directory / "scenario.toml"), "--port", str(cloud_port))
    engine = create_async_engine(database_url, isolation_level="AUTOCOMMIT")
    async with (
        child(
            "simulator", "simulator", *scenario, directory=directory, environment=environment()
        ) as cloud,
        aiohttp.ClientSession(cloud_url) as control,
    ):
        made = Fleet(directory, engine, control, [f"http://127.0.0.1:{port}" for port in ports])

        async def answers() -> bool:
            with suppress(aiohttp.ClientError):
                await made.asked("faults")
                return True
            return False

        await until(answers, cloud)
        try:
            yield made
        finally:
            await engine.dispose()


@pytest.fixture
def template(postgres: Server, postgres_template: str) -> tuple[Server, str]:
    return postgres, postgres_template


async def submit_all(made: Fleet) -> list[str]:
    """Submit one operation an account, each with its share of the jobs; return their ids."""
    jobs = [each["job_id"] for each in (await made.asked("truth"))["jobs"]]
    ids = []
    for number in range(ACCOUNTS):
        body = {"jobs": jobs[number::ACCOUNTS], "reason": "replicas", "account": f"a{number}"}
        taken = await made.request(
            "POST", "/v1/operations", json=body, headers={"Idempotency-Key": f"key {number}"}
        )
        ids.append(taken["id"])
    return ids


async def check_result(made: Fleet, ids: list[str]) -> None:
    """Check that all is verified and true, nothing was called unread, and no quota was exceeded."""
    truth = {each["job_id"]: each for each in (await made.asked("truth"))["jobs"]}
    rows = await made.rows("SELECT job_id, state FROM terminations")
    assert {row.job_id for row in rows} == truth.keys()
    assert len(rows) == len(truth)
    assert {row.state for row in rows} == {"verified"}
    assert [job_id for job_id, each in truth.items() if each["live"]] == []
    outcomes = await made.rows("SELECT id, outcome, jobs_unfinished FROM operations")
    assert {row.id for row in outcomes} == set(ids)
    assert {(row.outcome, row.jobs_unfinished) for row in outcomes} == {("verified", 0)}
    assert await made.rows("SELECT 1 FROM attempts WHERE answered_at IS NULL") == []
    assert called_unread(await made.calls()) == []
    quotas = (await made.asked("quotas"))["quotas"]
    assert [each for each in quotas if each["refused"]] == []


@pytest.mark.thorough
@pytest.mark.timeout(240)
async def test_kills_lose_and_repeat_nothing_and_overrun_no_quota(
    tmp_path: Path, template: tuple[Server, str]
) -> None:
    random = Random(5)
    server, name = template
    async with (
        server.database(name) as url,
        fleet(tmp_path, url, jobs=JOBS, drain_s="[0.5, 3]") as made,
    ):
        over = asyncio.Event()

        async def lives(place: int) -> None:
            """Run one process after the other, each until it is killed or all has ended."""
            while not over.is_set():
                async with made.replica(place) as process:
                    ends = asyncio.ensure_future(process.process.wait())
                    stops = asyncio.ensure_future(over.wait())
                    await asyncio.wait((ends, stops), return_when=asyncio.FIRST_COMPLETED)
                    if over.is_set():
                        process.process.send_signal(signal.SIGTERM)
                        async with asyncio.timeout(WAIT_MAX_S):
                            assert await ends == 0
                    stops.cancel()

        async with asyncio.TaskGroup() as group:
            for place in range(REPLICAS):
                group.create_task(lives(place))
            await made.all_held(by=REPLICAS)
            ids = await submit_all(made)
            for _ in range(KILLS):
                await asyncio.sleep(KILL_EVERY_S)
                _, process = random.choice(sorted(made.alive.items()))
                pid = process.process.pid
                held = [each for each, holder in (await made.holders()).items() if holder == pid]
                await killed(process)
                await taken_over(made, held, pid)
            await made.finished(ids)
            over.set()
        await check_result(made, ids)
        assert await made.rows("SELECT 1 FROM replicas") == [], "they gave back what they held"


async def taken_over(made: Fleet, held: list[str], pid: int) -> None:
    """Return once others drive all of these partitions.

    ``test_lease_manager.py`` shows on a clock of its own that they do so as soon as the leases have
    expired.
    """
    async with asyncio.timeout(WAIT_MAX_S):
        while True:
            holders = await made.holders()
            if all(holders[name] not in (None, pid) for name in held):
                return
            await asyncio.sleep(POLL_S)


STATE: Final = """
SELECT t.id, t.state, t.revision, t.observed_at, t.next_poll_at, t.terminate_after, count(a.seq),
max(a.answered_at)
FROM terminations t LEFT JOIN attempts a ON a.termination_id = t.id
GROUP BY t.seq ORDER BY t.seq
"""


@pytest.mark.thorough
@pytest.mark.timeout(240)
async def test_a_replica_that_was_frozen_neither_calls_nor_writes(
    tmp_path: Path, template: tuple[Server, str]
) -> None:
    """It resumes while the others are frozen in turn: whatever happens then would be its doing."""
    server, name = template
    async with (
        server.database(name) as url,
        fleet(tmp_path, url, jobs=60, drain_s="[40, 50]") as made,
        made.replica(0) as frozen,
        made.replica(1) as second,
        made.replica(2) as third,
    ):
        others = (second, third)
        await made.all_held(by=REPLICAS)
        ids = await submit_all(made)
        for round_number in range(FREEZES):
            pid = frozen.process.pid
            await asyncio.sleep(0.5 + 0.13 * round_number)
            held = [each for each, holder in (await made.holders()).items() if holder == pid]
            assert len(held) == ACCOUNTS // REPLICAS
            frozen.process.send_signal(signal.SIGSTOP)
            await taken_over(made, held, pid)
            for each in others:
                each.process.send_signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(0.3)  # what had left has arrived
                before = await made.rows(STATE), len(await made.calls())
                frozen.process.send_signal(signal.SIGCONT)
                await asyncio.sleep(WATCHED_S)
                after = await made.rows(STATE), len(await made.calls())
            finally:
                for each in others:
                    each.process.send_signal(signal.SIGCONT)
            assert after == before
            assert "draining" in {row.state for row in after[0]}, "there was nothing to do"
            await made.all_held(by=REPLICAS)
        await made.finished(ids)
        await check_result(made, ids)
        for process in (frozen, *others):
            log = process.log.read_text()
            assert "Traceback" not in log


@pytest.mark.timeout(120)
async def test_a_replica_that_is_stopped_hands_over_at_once(
    tmp_path: Path, template: tuple[Server, str]
) -> None:
    """It releases its partitions, so that the others need not wait for its leases to expire."""
    server, name = template
    async with (
        server.database(name) as url,
        fleet(tmp_path, url, jobs=12, drain_s="2") as made,
        made.replica(0) as first,
        made.replica(1),
    ):
        await made.all_held(by=2)
        pid = first.process.pid
        held = [each for each, holder in (await made.holders()).items() if holder == pid]
        first.process.send_signal(signal.SIGTERM)
        await taken_over(made, held, pid)
        log = first.log.read_text()
        assert [name for name in held if f"released partition {name}" not in log] == []
