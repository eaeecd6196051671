"""A process that dies at any commit of its work: the next one on the same disk ends it right.

The loops are driven step by step in time that passes only where somebody waits, so that one commit
follows another in every run alike and each of them can be the last.  Every few commits are tried;
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
from datetime import UTC, datetime
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
from orchestrator.domain.model.attempt import INTERRUPTED
from orchestrator.domain.model.lifecycle import PROVEN_STATES, Event, State, next_state
from orchestrator.domain.model.termination import OnSubmitted
from orchestrator.engine.lease import Lease
from orchestrator.engine.loops import job_prober
from orchestrator.engine.partition import Partition
from orchestrator.engine.replica.partition_runner import PartitionRunner
from orchestrator.engine.runtime.loop import FAILURE_BASE_S, IDLE_MAX_S
from orchestrator.engine.runtime.recent_readers import RecentReaders
from orchestrator.services.submission import AccountRoutes, Request, Submission
from orchestrator.simulator.protocol.replies import Delivery
from orchestrator.simulator.protocol.request_parser import Request as HttpRequest
from orchestrator.simulator.simulator import Call, Simulator
from orchestrator.simulator.traffic.fault_injection import Fault, Rule
from orchestrator.store.database.database import Database
from orchestrator.store.partition.partition_store import PartitionStore
from orchestrator.store.records.queries import SqlRecords
from tests.support.leases import hold

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
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
"""Of the time that the clock shows; it passes as fast as the loops ask for it."""
CALLS_MAX_S: Final = 20.0
"""Of real time; the calls of one step end at once."""

COMMITS_AT_LEAST: Final = 40
"""A run of so few would not have been worth breaking."""
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
"""What the first calls of an action meet, one after the other."""
HARMLESS: Final = ("", Fault.CHARSET)
TERMINATE_JOB_CODES: Final = {
    "",
    "OK",
    "UnsupportedOperation.TerminateOperationWithEnvId",
}
"""What a TerminateJob may have met here: never a job that was SUBMITTED or going down already."""


class Ending(Enum):
    """What becomes of a commit, and of the process that makes it."""

    DIES_BEFORE = auto()
    DIES_AFTER = auto()
    """It is on the disk, and nobody in the process has learnt of it."""
    FAILS_BEFORE = auto()
    """The process lives on and is told that the commit failed, which is so."""
    FAILS_AFTER = auto()
    """It is told the same, but the commit is on the disk."""

    @property
    def dies(self) -> bool:
        return self in (Ending.DIES_BEFORE, Ending.DIES_AFTER)

    @property
    def on_disk(self) -> bool:
        return self in (Ending.DIES_AFTER, Ending.FAILS_AFTER)


class Clock:
    """Time for cloud and processes alike; it passes where somebody waits, and at once."""

    def __init__(self) -> None:
        self.started_s = self.time_s = 1_800_000_000.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time_s, UTC)

    def monotonic(self) -> float:
        return self.time_s

    async def sleep(self, seconds: float) -> None:
        self.time_s += seconds


@dataclass(slots=True)
class Fate:
    """How the commit of this number (of those that change anything) ends."""

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
        # What the process does after it is buried, its successor neither sees nor suffers from.
        await self.buried.wait()
        await COMMIT(connection)


COMMIT: Final = aiosqlite.Connection.commit


@dataclass(slots=True)
class World:
    """What outlives a process: the cloud, time, the client, and the disk."""

    directory: Path
    clock: Clock
    simulator: Simulator
    disks: int = 0
    operation_id: str | None = None
    """None until the client has been told."""

    @classmethod
    def made(cls, directory: Path, template: Path) -> World:
        clock = Clock()
        simulator = Simulator(
            secret_keys={SECRET_ID: SECRET_KEY},
            limits_per_s=QUOTAS,
            faults={
                action: [Rule(fault, 1.0, first_n=n) for n, fault in enumerate(faults, start=1)]
                for action, faults in FAULTS.items()
            },
            now=clock.monotonic,
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
        """What is on the disk now is all that is left; the old one is the dead process's own."""
        old = self.disk
        self.disks += 1
        self.disk.mkdir()
        for name in (FILE, f"{FILE}-wal"):
            if (old / name).exists():
                shutil.copyfile(old / name, self.disk / name)


@dataclass(slots=True)
class Wire:
    """One process's way to the cloud, without sockets."""

    world: World
    fate: Fate

    async def post(
        self, url: str, *, headers: Mapping[str, str], body: bytes, before_send: Callable[[], None]
    ) -> HttpAnswer:
        if self.fate.dead.is_set():
            raise error_codes.error(error_codes.CONNECT_FAILED, "the process is dead")
        request = HttpRequest("POST", "/", list(headers.items()), body)
        reply = self.world.simulator.handle(request)
        if reply.delivery is Delivery.TRUNCATED:
            raise error_codes.error(error_codes.BAD_ANSWER, "half an answer")
        if reply.delivery is Delivery.CUT:
            raise error_codes.error(error_codes.DISCONNECTED, "no answer")
        return HttpAnswer(status=reply.status, headers={}, body=reply.body)


@dataclass(slots=True)
class Process:
    """One life of the daemon, as far as it is needed here."""

    world: World
    records: SqlRecords
    loops: PartitionRunner
    submission: Submission

    async def run(self) -> None:
        """Take the request if the client has no answer yet, then work until all is finished."""
        world = self.world
        while world.operation_id is None:
            world.operation_id = await tried(self._submit())
        due_s = dict.fromkeys(self._each(), world.clock.time_s)
        while True:
            for each in self._each():
                if each.wake.is_set() or due_s[each] <= world.clock.time_s:
                    each.wake.clear()
                    due_s[each] = world.clock.time_s + min(await self._step(each), IDLE_MAX_S)
            if any(each.wake.is_set() for each in self._each()):
                continue
            if await self._finished(world.operation_id):
                return
            await world.clock.sleep(max(0.0, min(due_s.values()) - world.clock.time_s))
            assert world.clock.time_s < world.clock.started_s + RUN_MAX_S, world.states()

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
        operation = await self.records.operation(operation_id)
        assert operation is not None, "an operation that the client was told of is gone"
        return operation.finished_at is not None

    async def _step(self, loop: Loop) -> float:
        wait_s = await tried(loop.step())
        assert await self.loops.dispatcher.calls.drain(CALLS_MAX_S)
        assert await self.loops.job_prober.calls.drain(CALLS_MAX_S)
        assert await self.loops.instance_reader.calls.drain(CALLS_MAX_S)
        assert await self.loops.escalator.calls.drain(CALLS_MAX_S)
        return FAILURE_BASE_S if wait_s is None else wait_s


async def tried(work: Awaitable[T]) -> T | None:
    """What comes of it; None where the database failed, after which everyone tries again."""
    try:
        return await work
    except StoreUnavailable:
        return None


@asynccontextmanager
async def process(world: World, fate: Fate) -> AsyncIterator[Process]:
    """A process as app.py puts it together, with its commits in the hands of ``fate``."""
    clock = world.clock

    async def commit(connection: aiosqlite.Connection) -> None:
        await fate.commit(connection)

    async with AsyncExitStack() as stack:
        stack.enter_context(patch.object(aiosqlite.Connection, "commit", commit))
        url = f"sqlite+aiosqlite:///{world.disk / FILE}"
        database = await stack.enter_async_context(Database(url, clock.now))
        (fence,) = await hold(database, PARTITION)
        random = Random(world.disks)
        wire = Wire(world, fate)
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
                watched=RecentReaders(clock),
            )
        )
        stack.push_async_callback(loops.job_prober.calls.drain, CALLS_MAX_S)
        stack.push_async_callback(loops.instance_reader.calls.drain, CALLS_MAX_S)
        stack.push_async_callback(loops.dispatcher.calls.drain, CALLS_MAX_S)
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


async def live(world: World, fate: Fate) -> bool:
    """One life of the daemon; whether it lasted until everything was finished."""

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


async def lives(world: World, fate: Fate) -> None:
    """The first life with this fate, and those after it with none, until all is finished."""
    while not await live(world, fate):
        fate = Fate()


# --- the judge -----------------------------------------------------------------------------------


def judge(world: World) -> None:
    """Everything that must be so at the end, whatever happened on the way."""
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
    judge_attempts(
        world.rows(
            "SELECT job_id, number, outcome FROM attempts"
            " JOIN terminations t ON t.id = termination_id ORDER BY job_id, number"
        ),
        Counter(call.job_ids[0] for call in terminate),
    )
    found = world.rows("SELECT operation_id, type FROM events WHERE termination_id IS NULL")
    assert found == [(world.operation_id, "accepted"), (world.operation_id, "finished")]
    ends = judge_events(
        world.rows(
            "SELECT job_id, type, from_state, to_state FROM events"
            " JOIN terminations t ON t.id = termination_id ORDER BY events.id"
        )
    )
    assert ends == EXPECTED


def judge_attempts(
    attempts: Iterable[tuple[str, int, str | None]], arrived: Mapping[str, int]
) -> None:
    """Every attempt is answered, and none reached the cloud without having been written.

    ``attempts`` are job, number and outcome; ``arrived`` counts each job's TerminateJob calls.
    """
    outcomes: dict[str, list[str]] = {}
    for job_id, number, outcome in attempts:
        assert outcome is not None, job_id
        outcomes.setdefault(job_id, []).append(outcome)
        assert number == len(outcomes[job_id]), job_id
    for job_id in {*arrived, *outcomes}:
        written = outcomes.get(job_id, [])
        surely = [outcome for outcome in written if outcome not in (INTERRUPTED, "not_sent")]
        assert len(surely) <= arrived.get(job_id, 0) <= len(written), job_id


def judge_events(events: Iterable[tuple[str, str, str | None, str]]) -> dict[str, str]:
    """Where each job came by the lifecycle table; ``events`` are job, type, and both states."""
    at: dict[str, str] = {}
    for job_id, event, origin, target in events:
        assert origin == at.get(job_id), job_id
        expected = State.QUEUED if origin is None else next_state(State(origin), Event(event))
        assert target == expected, job_id
        at[job_id] = target
    return at


def called_unread(calls: Iterable[Call]) -> list[str]:
    """Jobs that a TerminateJob reached with no answered look at them since the last one.

    One that was refused as one too many reached no job: it may be made again.
    """
    seen: set[str] = set()
    wrong = []
    for call in calls:
        if call.action == "TerminateJob":
            wrong += [job_id for job_id in call.job_ids if job_id not in seen]
            if call.fault != Fault.THROTTLE:
                seen.difference_update(call.job_ids)
        elif call.code == "OK" and call.fault in HARMLESS:
            seen.update(call.job_ids)
    return wrong


# --- the tests -----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs on is called again sooner: each commit until then would be one more to break."""
    monkeypatch.setattr(draining, "CALL_AGAIN_AFTER_S", CALL_AGAIN_AFTER_S)
    monkeypatch.setattr(job_prober, "COUNT_ALL_EVERY_S", CALL_AGAIN_AFTER_S)


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
    """Every commit in turn, until a run does not get as far as the next."""
    for number in count(1, EVERY) if EVERY else count(first, every):
        world, fate = World.made(tmp_path / str(number), sqlite_template), Fate(number, ending)
        await lives(world, fate)
        try:
            judge(world)
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
    """It gets on by a few commits a life, beside those of its lease, until one is its last."""
    world = World.made(tmp_path, sqlite_template)
    while not await live(world, Fate(commits, Ending.DIES_BEFORE)):
        assert world.disks < LIVES_MAX, world.states()
    assert world.disks > 2
    judge(world)


def test_the_checker_finds_a_call_without_an_answered_look() -> None:
    def call(action: str, code: str = "OK", fault: str = "") -> Call:
        return Call(0.0, "", action=action, job_ids=("job-a",), code=code, fault=fault)

    looked, called = call("DescribeJob"), call("TerminateJob")
    lost = call("DescribeJobs", fault=Fault.LOST_ANSWER)
    failed = call("DescribeJob", code="", fault=Fault.INTERNAL_ERROR)
    assert called_unread([looked, called, lost, looked, called]) == []
    assert called_unread([looked, called, called]) == ["job-a"]
    assert called_unread([looked, called, lost, failed, called]) == ["job-a"]
    refused = call("TerminateJob", code="", fault=Fault.THROTTLE)
    assert called_unread([looked, refused, called]) == []
    assert called_unread([refused]) == called_unread([called]) == ["job-a"]
