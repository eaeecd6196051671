"""A process that dies at any commit of its work: the next one on the same disk ends it right.

The loops are stepped in time that passes only in a wait, so that every run makes the same commits
in the same order and each of them can be the last.  Every few commits are tried;
CRASH_POINTS_EVERY=1 in the environment tries them all, which takes some minutes.
"""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import sqlite3
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any, Final, TypeVar
from unittest.mock import patch

import aiosqlite
import pytest

from orchestrator.cloud import error_codes
from orchestrator.cloud.credentials import build_provider
from orchestrator.cloud.gateway import TencentBatch
from orchestrator.cloud.transport import HttpAnswer
from orchestrator.domain.decisions import draining
from orchestrator.domain.errors import ConfigurationError, StoreUnavailable
from orchestrator.domain.model.error_detail import ClientCode
from orchestrator.domain.model.lifecycle import PROVEN_STATES, State
from orchestrator.domain.model.termination import OnSubmitted
from orchestrator.engine.lease_guard import Lease
from orchestrator.engine.loops import single_job_poller
from orchestrator.engine.partition import Partition
from orchestrator.engine.replica.partition_runner import PartitionRunner
from orchestrator.engine.runtime.loop import FAILURE_BASE_S, IDLE_MAX_S
from orchestrator.engine.runtime.recently_viewed import RecentlyViewed
from orchestrator.services.submission import AccountRoutes, Request, Submission
from orchestrator.simulator.protocol.replies import Delivery
from orchestrator.simulator.protocol.request_parser import Request as HttpRequest
from orchestrator.simulator.simulator import Call, Simulator
from orchestrator.simulator.traffic.fault_injection import Fault, Rule
from orchestrator.store.database.database import Database
from orchestrator.store.partition.partition_store import PartitionStore
from orchestrator.store.records.queries import SqlRecords
from tests.support.call_checks import called_unread, check_attempts, check_events
from tests.support.clock import SelfAdvancingClock
from tests.support.leases import hold
from tests.support.operation_records import operation_record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

    from orchestrator.engine.runtime.loop import Loop

T = TypeVar("T")

REGION: Final = "ap-guangzhou"
PARTITION: Final = "main@cloud"
SECRET_ID: Final = "AKIDEXAMPLE"
SECRET_KEY: Final = "example"
QUOTAS: Final = {
    "TerminateJob": 2,
    "DescribeJob": 5,
    "DescribeJobs": 2,
    "DescribeTask": 3,
    "DescribeJobSubmitInfo": 2,
    "DescribeInstances": 40,
    "TerminateInstances": 10,
    "TerminateTaskInstance": 2,
}
FILE: Final = "orchestrator.db"
EVERY: Final = int(os.environ.get("CRASH_POINTS_EVERY", "0"))
RUN_MAX_S: Final = 600.0
"""Limit by the test's clock, which advances at once."""
CALLS_MAX_S: Final = 20.0
"""Limit in real time; the calls of one step end at once."""

COMMITS_AT_LEAST: Final = 40
"""The least number of commits of a run."""
LIVES_MAX: Final = 200

GROUPS: Final[list[dict[str, Any]]] = [
    {"ids": ["job-runs0001", "job-runs0002"], "instances": 10, "drain_s": 3},
    {"ids": ["job-task0001"], "instances": 9, "tasks": 3, "drain_s": 2, "failed_early_s": 1},
    {"ids": ["job-subm0001"], "state": "SUBMITTED", "submitted_s": 4, "drain_s": 1},
    {"ids": ["job-succ0001"], "state": "SUCCEED"},
    {"ids": ["job-live0001"], "instances": 8, "state": "FAILED", "mix": {"RUNNING": 0.5}},
    {"ids": ["job-deny0001"], "env_id": "env-example1", "refuse_env": True},
    {"ids": ["job-back0001"], "drain_s": 1, "revive_after_s": 10},
    {"ids": ["job-soon0001"], "drain_s": 1, "revive_after_s": 0.1},
]
EXPECTED: Final = {
    "job-runs0001": "verified",
    "job-runs0002": "verified",
    "job-task0001": "verified",
    "job-subm0001": "verified",
    "job-succ0001": "already_finished",
    "job-live0001": "verified",
    "job-deny0001": "refused",
    "job-back0001": "verified",
    "job-soon0001": "verified",
    "job-none0001": "not_found",
}
SETTLE_S: Final = 20.0
CALL_AGAIN_AFTER_S: Final = 6.0
FAULTS: Final = {
    "TerminateJob": [
        Fault.THROTTLE,
        Fault.INTERNAL_ERROR,
        Fault.TRUNCATE,
        Fault.LOST_ANSWER,
        Fault.LOST_ANSWER,
    ],
    "DescribeJob": [Fault.INTERNAL_ERROR, Fault.LOST_ANSWER],
    "DescribeJobs": [Fault.TRUNCATE],
}
"""Faults of the first calls of an action, one after the other."""
TERMINATE_JOB_CODES: Final = {
    "",
    "OK",
    "UnsupportedOperation.TerminateOperationWithEnvId",
}
"""Codes of TerminateJob here: it never reaches a job that is SUBMITTED or already stopping."""


class Ending(Enum):
    """The outcome of a commit, and of the process that makes it."""

    DIES_BEFORE = auto()
    DIES_AFTER = auto()
    """It is on the disk, and no code of the process has learnt of it."""
    FAILS_BEFORE = auto()
    """The process continues, and gets the error that the commit failed, which is so."""
    FAILS_AFTER = auto()
    """The process gets the same error, but the commit is on the disk."""

    @property
    def dies(self) -> bool:
        return self in (Ending.DIES_BEFORE, Ending.DIES_AFTER)

    @property
    def on_disk(self) -> bool:
        return self in (Ending.DIES_AFTER, Ending.FAILS_AFTER)


@dataclass(slots=True)
class Fate:
    """How the commit of this number ends; only those with changes are counted."""

    number: int | None = None
    ending: Ending = Ending.DIES_BEFORE
    commits: int = 0
    dead: asyncio.Event = field(default_factory=asyncio.Event)
    buried: asyncio.Event = field(default_factory=asyncio.Event)
    _changes: dict[int, int] = field(default_factory=dict)

    async def commit(self, connection: aiosqlite.Connection) -> None:
        changes = connection.total_changes
        changed = changes != self._changes.get(id(connection), 0)
        self._changes[id(connection)] = changes
        self.commits += changed
        if changed and self.commits == self.number:
            await self._fulfil(connection)
        else:
            await COMMIT(connection)

    async def _fulfil(self, connection: aiosqlite.Connection) -> None:
        if self.ending.on_disk:
            await COMMIT(connection)
        if not self.ending.dies:
            raise sqlite3.OperationalError("disk I/O error")
        self.dead.set()
        # What the process does afterwards has no effect on its successor.
        await self.buried.wait()
        await COMMIT(connection)


COMMIT: Final = aiosqlite.Connection.commit


@dataclass(slots=True)
class CrashWorld:
    """What outlives a process: the cloud, time, the client, and the disk."""

    directory: Path
    clock: SelfAdvancingClock
    simulator: Simulator
    disks: int = 0
    operation_id: str | None = None
    """None until the client has got the id."""

    @classmethod
    def made(cls, directory: Path, template: Path) -> CrashWorld:
        clock = SelfAdvancingClock()
        simulator = Simulator(
            secret_keys={SECRET_ID: SECRET_KEY},
            limits_per_s=QUOTAS,
            faults={
                action: [Rule(fault, 1.0, first_n=n) for n, fault in enumerate(faults, start=1)]
                for action, faults in FAULTS.items()
            },
            now=lambda: clock.now().timestamp(),
        )
        simulator.add_groups(GROUPS)
        world = cls(directory, clock, simulator)
        world.disk.mkdir(parents=True)
        shutil.copyfile(template, world.disk / FILE)
        return world

    @property
    def disk(self) -> Path:
        return self.directory / str(self.disks)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.disk / FILE)) as connection:
            return connection.execute(query).fetchall()

    def states(self) -> dict[str, str]:
        return dict(self.rows("SELECT job_id, state FROM terminations"))

    def lose_power(self) -> None:
        """Keep only what is on the disk now; the old files remain the dead process's own."""
        old = self.disk
        self.disks += 1
        self.disk.mkdir()
        for name in (FILE, f"{FILE}-wal"):
            if (old / name).exists():
                shutil.copyfile(old / name, self.disk / name)


@dataclass(slots=True)
class ProcessTransport:
    """One process's transport to the cloud, without sockets."""

    world: CrashWorld
    fate: Fate

    async def post(
        self, url: str, *, headers: Mapping[str, str], body: bytes, before_send: Callable[[], None]
    ) -> HttpAnswer:
        if self.fate.dead.is_set():
            raise error_codes.error(ClientCode.CONNECT_FAILED, "the process is dead")
        request = HttpRequest("POST", "/", list(headers.items()), body)
        reply = self.world.simulator.handle(request)
        if reply.delivery is Delivery.TRUNCATED:
            raise error_codes.error(ClientCode.BAD_ANSWER, "half an answer")
        if reply.delivery is Delivery.CUT:
            raise error_codes.error(ClientCode.DISCONNECTED, "no answer")
        return HttpAnswer(status=reply.status, headers={}, body=reply.body)


@dataclass(slots=True)
class Process:
    """One life of the daemon, as far as it is needed here."""

    world: CrashWorld
    records: SqlRecords
    loops: PartitionRunner
    submission: Submission

    async def run(self) -> None:
        """Submit the request if the client has no answer yet, then work until all is finished."""
        world = self.world
        while world.operation_id is None:
            world.operation_id = await tried(self._submit())
        due_s = dict.fromkeys(self._each(), world.clock.passed_s)
        while True:
            for each in self._each():
                if each.wake.is_set() or due_s[each] <= world.clock.passed_s:
                    each.wake.clear()
                    due_s[each] = world.clock.passed_s + min(await self._step(each), IDLE_MAX_S)
            if any(each.wake.is_set() for each in self._each()):
                continue
            if await self._finished(world.operation_id):
                return
            await world.clock.sleep(max(0.0, min(due_s.values()) - world.clock.passed_s))
            assert world.clock.passed_s < RUN_MAX_S, world.states()

    def _each(self) -> tuple[Loop, ...]:
        return self.loops.loops

    async def _submit(self) -> str:
        request = Request(
            jobs=tuple(EXPECTED),
            account=None,
            region=None,
            reason="a test",
            on_submitted=OnSubmitted.HOLD,
            not_before=None,
            give_up_after_s=None,
            settle_s=SETTLE_S,
        )
        created = await self.submission.submit(request, requested_by="test", idempotency_key="1")
        return created.operation_id

    async def _finished(self, operation_id: str) -> bool:
        operation = await operation_record(self.records, operation_id)
        assert operation is not None, "an operation that the client got an id for is missing"
        return operation.finished_at is not None

    async def _step(self, loop: Loop) -> float:
        wait_s = await tried(loop.step())
        assert await self.loops.job_terminator.calls.drain(CALLS_MAX_S)
        assert await self.loops.single_job_poller.calls.drain(CALLS_MAX_S)
        assert await self.loops.instance_reader.calls.drain(CALLS_MAX_S)
        assert await self.loops.escalator.calls.drain(CALLS_MAX_S)
        return FAILURE_BASE_S if wait_s is None else wait_s


async def tried(work: Awaitable[T]) -> T | None:
    """Return the result; None if the database failed, after which every caller tries again."""
    try:
        return await work
    except StoreUnavailable:
        return None


@asynccontextmanager
async def process(world: CrashWorld, fate: Fate) -> AsyncIterator[Process]:
    """Run a process as daemon.py builds it; ``fate`` decides how its commits end."""
    clock = world.clock

    async def commit(connection: aiosqlite.Connection) -> None:
        await fate.commit(connection)

    async with AsyncExitStack() as stack:
        stack.enter_context(patch.object(aiosqlite.Connection, "commit", commit))
        url = f"sqlite+aiosqlite:///{world.disk / FILE}"
        database = await stack.enter_async_context(Database(url, clock.now))
        (fence,) = await hold(database, PARTITION)
        random = Random(world.disks)
        wire = ProcessTransport(world, fate)
        loops = PartitionRunner(
            Partition(
                lease=Lease(fence, math.inf),
                cloud=TencentBatch(
                    endpoint="http://cloud",
                    cvm_endpoint="http://cloud",
                    credentials=build_provider(
                        "static", {"secret_id": SECRET_ID, "secret_key": SECRET_KEY}, clock, wire
                    ),
                    clock=clock,
                    transport=wire,
                ),
                store=PartitionStore(database, fence),
                clock=clock,
                random=random,
                quotas=QUOTAS,
                recently_viewed=RecentlyViewed(clock),
            )
        )
        stack.push_async_callback(loops.single_job_poller.calls.drain, CALLS_MAX_S)
        stack.push_async_callback(loops.instance_reader.calls.drain, CALLS_MAX_S)
        stack.push_async_callback(loops.job_terminator.calls.drain, CALLS_MAX_S)
        records = SqlRecords(database, clock.now)
        submission = Submission(
            records=records,
            accounts={"main": AccountRoutes(partitions={REGION: PARTITION}, default_region=None)},
            default_settle_s=SETTLE_S,
            revival_watch_s=0.0,
            default_give_up_after_s=10 * RUN_MAX_S,
            now=clock.now,
            random=random,
            on_accepted=lambda _: loops.wake(),
        )
        yield Process(world, records, loops, submission)


async def live(world: CrashWorld, fate: Fate) -> bool:
    """Run one life of the daemon; return whether it lasted until everything was finished."""

    async def life() -> bool:
        try:
            async with process(world, fate) as started:
                await started.run()
        except (ConfigurationError, StoreUnavailable):
            return False  # it could not start
        return True

    living = asyncio.ensure_future(life())
    death = asyncio.ensure_future(fate.dead.wait())
    await asyncio.wait((living, death), return_when=asyncio.FIRST_COMPLETED)
    if fate.dead.is_set():
        world.lose_power()
        fate.buried.set()
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)
        return False
    death.cancel()
    return await living


async def lives(world: CrashWorld, fate: Fate) -> None:
    """Run the first life with this fate, and the next ones with none, until all is finished."""
    while not await live(world, fate):
        fate = Fate()


# --- the checks ----------------------------------------------------------------------------------


def check_result(world: CrashWorld) -> None:
    """Check everything that must be true at the end."""
    assert world.states() == EXPECTED
    calls = world.simulator.calls
    assert called_unread(calls) == []
    assert [quota for quota in world.simulator.quota.report() if quota["refused"]] == []
    terminate = [call for call in calls if call.action == "TerminateJob"]
    assert {call.code for call in terminate} <= TERMINATE_JOB_CODES
    truth = {str(job["job_id"]): job for job in world.simulator.truth()}
    for job_id, state in EXPECTED.items():
        if state in PROVEN_STATES:
            assert truth[job_id]["live"] == 0
            assert bool(truth[job_id]["terminations_acted"]) == (state == State.VERIFIED)
    assert world.rows("PRAGMA integrity_check") == [("ok",)]
    assert world.rows("PRAGMA foreign_key_check") == []
    operations = world.rows("SELECT id, outcome, jobs_unfinished FROM operations")
    assert operations == [(world.operation_id, "partial", 0)]
    check_attempts(
        world.rows(
            "SELECT job_id, number, outcome FROM attempts"
            " JOIN terminations t ON t.id = termination_id ORDER BY job_id, number"
        ),
        Counter(call.job_ids[0] for call in terminate),
    )
    found = world.rows("SELECT operation_id, type FROM events WHERE termination_id IS NULL")
    assert found == [(world.operation_id, "accepted"), (world.operation_id, "finished")]
    ends = check_events(
        world.rows(
            "SELECT job_id, type, from_state, to_state FROM events"
            " JOIN terminations t ON t.id = termination_id ORDER BY events.id"
        )
    )
    assert ends == EXPECTED


# --- the tests -----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat calls sooner: each commit until then would be one more to break."""
    monkeypatch.setattr(draining, "CALL_AGAIN_AFTER_S", CALL_AGAIN_AFTER_S)
    monkeypatch.setattr(single_job_poller, "COUNT_ALL_EVERY_S", CALL_AGAIN_AFTER_S)


@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("ending", "first", "every"),
    [
        (Ending.DIES_BEFORE, 1, 12),
        (Ending.DIES_AFTER, 7, 12),
        (Ending.FAILS_BEFORE, 4, 24),
        (Ending.FAILS_AFTER, 16, 24),
    ],
)
async def test_any_commit_can_end_so(
    tmp_path: Path, sqlite_template: Path, ending: Ending, first: int, every: int
) -> None:
    """Every commit in turn, until a run ends before the next."""
    for number in count(1, EVERY) if EVERY else count(first, every):
        world, fate = CrashWorld.made(tmp_path / str(number), sqlite_template), Fate(number, ending)
        await lives(world, fate)
        try:
            check_result(world)
        except AssertionError as error:
            error.add_note(f"{ending.name} at commit {number}")
            raise
        if fate.commits < number:
            assert number > COMMITS_AT_LEAST
            return


@pytest.mark.thorough
@pytest.mark.parametrize("commits", [6, 7, 9])
async def test_a_process_that_never_lives_long(
    tmp_path: Path, sqlite_template: Path, commits: int
) -> None:
    """Each life makes a few commits, beside those of its lease, until one life is the last."""
    world = CrashWorld.made(tmp_path, sqlite_template)
    while not await live(world, Fate(commits, Ending.DIES_BEFORE)):
        assert world.disks < LIVES_MAX, world.states()
    assert world.disks > 2
    check_result(world)


def test_the_checker_finds_a_call_without_an_answered_read() -> None:
    def call(action: str, code: str = "OK", fault: str = "") -> Call:
        return Call(0.0, "", action=action, job_ids=("job-a",), code=code, fault=fault)

    was_read, called = call("DescribeJob"), call("TerminateJob")
    lost = call("DescribeJobs", fault=Fault.LOST_ANSWER)
    failed = call("DescribeJob", code="", fault=Fault.INTERNAL_ERROR)
    assert called_unread([was_read, called, lost, was_read, called]) == []
    assert called_unread([was_read, called, called]) == ["job-a"]
    assert called_unread([was_read, called, lost, failed, called]) == ["job-a"]
    refused = call("TerminateJob", code="", fault=Fault.THROTTLE)
    assert called_unread([was_read, refused, called]) == []
    assert called_unread([refused]) == called_unread([called]) == ["job-a"]
