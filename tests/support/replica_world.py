"""Replicas over one database file, each with a clock of its own that tests advance."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Self, TypeVar

from sqlalchemy import text

from orchestrator.cloud.credentials import build_provider
from orchestrator.cloud.gateway import TencentBatch
from orchestrator.domain.errors import StoreUnavailable
from orchestrator.domain.leasing.leases import LeasePolicy
from orchestrator.engine.partition import Partition
from orchestrator.engine.replica import lease_manager as engine_leases
from orchestrator.engine.replica.lease_manager import LeaseManager, running
from orchestrator.engine.replica.partition_runner import PartitionRunner
from orchestrator.engine.runtime.loop import IDLE_MAX_S
from orchestrator.engine.runtime.recently_viewed import RecentlyViewed
from orchestrator.engine.runtime.shared_clock import SharedClock
from orchestrator.store.database.database import Database
from orchestrator.store.database.migrations import upgrade
from orchestrator.store.partition.lease_store import SqlLeaseStore
from orchestrator.store.partition.partition_store import PartitionStore
from tests.support import HANG_S
from tests.support.clock import ManualClock
from tests.support.partition_world import (
    AMPLE,
    NO_CAPTURE,
    SECRET_ID,
    SECRET_KEY,
    NoJitter,
    PartitionWorld,
    SimulatorTransport,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence

    import pytest

    from orchestrator.domain.leasing.leases import FencingToken, LeaseSnapshot
    from orchestrator.engine.lease_guard import Lease

T = TypeVar("T")

POLICY = LeasePolicy()


class Gate:
    """A barrier: tasks wait at it until it is opened."""

    def __init__(self) -> None:
        self._reached = asyncio.Event()
        self._opened = asyncio.Event()

    @property
    def is_open(self) -> bool:
        return self._opened.is_set()

    def open(self) -> None:
        self._opened.set()

    async def reached(self) -> None:
        async with asyncio.timeout(HANG_S):
            await self._reached.wait()

    async def passed(self) -> None:
        self._reached.set()
        await self._opened.wait()


class Link:
    """A replica's connection to the lease store: tests cut it, delay calls, or lose results."""

    def __init__(self, leases: SqlLeaseStore) -> None:
        self.cut = False
        self.asked: list[str] = []
        """Names of all calls."""
        self.gates: list[Gate] = []
        self._leases = leases
        self._hooks: dict[tuple[str, str], Callable[[], Awaitable[None]]] = {}

    def fail(self, what: str, when: str) -> None:
        """Fail the next call of ``what`` "before" or "after" its commit."""

        async def fails() -> None:
            raise StoreUnavailable("reported as failed")

        self._hooks[what, when] = fails

    def hold(self, what: str, when: str) -> Gate:
        """Delay the next call of ``what`` "before" its commit, or its result "after" it."""
        gate = Gate()
        self.gates.append(gate)
        self._hooks[what, when] = gate.passed
        return gate

    async def join(self, replica: str, names: Collection[str], lease_s: float) -> LeaseSnapshot:
        return await self._ask("join", self._leases.join, replica, names, lease_s)

    async def renew(self, replica: str, lease_s: float) -> LeaseSnapshot | None:
        return await self._ask("renew", self._leases.renew, replica, lease_s)

    async def note_step(self, known_steps_s: int, by_s: int) -> None:
        await self._ask("note_step", self._leases.note_step, known_steps_s, by_s)

    async def take(self, replica: str, epochs: Mapping[str, int]) -> list[FencingToken]:
        return await self._ask("take", self._leases.take, replica, epochs)

    async def release(self, fence: FencingToken) -> None:
        await self._ask("release", self._leases.release, fence)

    async def leave(self, replica: str) -> None:
        await self._ask("leave", self._leases.leave, replica)

    async def with_work(self, names: Sequence[str]) -> set[str]:
        found: set[str] = await self._ask("with_work", self._leases.with_work, names)
        return found

    async def _ask(self, what: str, ask: Callable[..., Awaitable[T]], *args: object) -> T:
        self.asked.append(what)
        if self.cut:
            raise StoreUnavailable("cut")
        await self._meet(what, "before")
        result = await ask(*args)
        await self._meet(what, "after")
        return result

    async def _meet(self, what: str, when: str) -> None:
        hook = self._hooks.pop((what, when), None)
        if hook is not None:
            await hook()


class IdleLoops(PartitionRunner):
    """Loops that do nothing; with a gate, their last call is in flight until it opens."""

    last_call: Gate | None = None

    async def run(self) -> None:
        await self._stop_requested.wait()
        if self.last_call is not None:
            await self.last_call.passed()


class _Tasks(asyncio.TaskGroup):
    """A task group that remembers its tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[asyncio.Task[Any]] = []

    def create_task(self, *args: Any, **known: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = super().create_task(*args, **known)
        self.all.append(task)
        return task


@dataclass(frozen=True, slots=True)
class PartitionRow:
    """The stored row of a partition."""

    holder: str | None
    epoch: int


class Replica:
    """One replica: its partitions, its cloud, and the clock of its machine."""

    def __init__(
        self,
        name: str,
        world: PartitionWorld,
        database: Database,
        names: Collection[str],
        *,
        kind: type[PartitionRunner],
        tasks: _Tasks,
    ) -> None:
        self.machine = ManualClock()
        self.machine.passed_s = world.clock.passed_s
        self.clock = SharedClock(self.machine)
        self.link = Link(SqlLeaseStore(database))
        self.network = SimulatorTransport(world.simulator)
        self.loops: list[PartitionRunner] = []
        """All runners that it ever started, the latest last."""
        self.ids: list[str] = []
        self.steps_at = 0.0
        """Time of its next step, by the database's clock; infinite: it makes none."""
        self.paused = False
        self.leases = LeaseManager(
            self.link,
            POLICY,
            names,
            make_runner=self._make_runner,
            new_id=self._new_id,
            clock=self.clock,
        )
        self.leases._tasks = self._tasks = tasks
        self._world = world
        self._database = database
        self._kind = kind
        self._numbers = (f"{name}.{number}" for number in count(1))

    def _new_id(self) -> str:
        self.ids.append(next(self._numbers))
        return self.ids[-1]

    def _make_runner(self, lease: Lease) -> PartitionRunner:
        cloud = TencentBatch(
            endpoint="http://cloud",
            credentials=build_provider(
                "static",
                {"secret_id": SECRET_ID, "secret_key": SECRET_KEY},
                self.clock,
                self.network,
            ),
            clock=self._world.clock,
            transport=self.network,
        )
        partition = Partition(
            lease=lease,
            cloud=cloud,
            store=PartitionStore(self._database, lease.fence),
            clock=self.clock,
            random=NoJitter(),
            quotas=AMPLE,
            recently_viewed=RecentlyViewed(self.clock),
            capture=NO_CAPTURE,
        )
        self.loops.append(self._kind(partition))
        return self.loops[-1]

    @property
    def id(self) -> str:
        """Its present id."""
        return self.ids[-1]

    @property
    def runs(self) -> set[str]:
        return set(self.leases.running)

    def holds(self, name: str) -> bool:
        """Return whether any loops of this replica may send calls for this partition."""
        now = self.clock.monotonic()
        return any(each.partition.lease.holds(now) for each in self.loops_of(name))

    def loops_of(self, name: str) -> list[PartitionRunner]:
        return [each for each in self.loops if each.partition.name == name]

    async def step(self) -> float:
        """Make one step, and wait for what it stops; return the seconds until the next."""
        self.leases.wake.clear()
        wait_s = await self.leases.step()
        assert wait_s >= 0
        await self.settled()
        due_s = 0.0 if self.leases.wake.is_set() else min(wait_s, IDLE_MAX_S)
        self.steps_at = self._world.clock.passed_s + due_s
        return wait_s

    async def settled(self) -> None:
        """Wait until stopped loops that can end have ended and their partitions are released."""
        runs = zip(self.loops, self._tasks.all, strict=True)
        ending = [task for loops, task in runs if is_stopped(loops) and not is_held(loops)]
        if ending:
            async with asyncio.timeout(HANG_S):
                await asyncio.wait(ending)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the replica, rather than step it, during the block."""
        async with asyncio.timeout(HANG_S), running(self.leases, NoJitter()):
            yield


def own_logs(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == engine_leases.__name__
    ]


def is_stopped(loops: PartitionRunner) -> bool:
    return loops._stop_requested.is_set()


def is_held(loops: PartitionRunner) -> bool:
    gate = loops.last_call if isinstance(loops, IdleLoops) else None
    return gate is not None and not gate.is_open


class Cluster:
    """Replicas, the database that they share, and its clock."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.replicas: list[Replica] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await upgrade(self.url)
        self.world = PartitionWorld(await self._open())
        return self

    async def __aexit__(self, *error: object) -> None:
        for replica in self.replicas:
            gates = list(replica.link.gates)
            for loops in replica.loops:
                loops.stop()
                if isinstance(loops, IdleLoops) and loops.last_call is not None:
                    gates.append(loops.last_call)
            for gate in gates:
                gate.open()
        await self._stack.aclose()

    async def _open(self) -> Database:
        database = Database(self.url, lambda: self.world.clock.now())  # noqa: PLW0108
        database.dialect.shared = True
        return await self._stack.enter_async_context(database)

    async def replica(
        self, name: str, names: Collection[str], kind: type[PartitionRunner] = IdleLoops
    ) -> Replica:
        database = await self._open()
        tasks = await self._stack.enter_async_context(_Tasks())
        replica = Replica(name, self.world, database, names, kind=kind, tasks=tasks)
        self.replicas.append(replica)
        return replica

    # --- time ------------------------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        return self.world.clock.passed_s

    def advance(self, seconds: float) -> None:
        """Advance the database's clock, and that of each machine that is not paused."""
        self.world.clock.advance(seconds)
        for replica in self.replicas:
            if not replica.paused:
                replica.machine.advance(seconds)

    def step_clock(self, seconds: float) -> None:
        """Step the database's clock ahead or back; no machine's clock shows it."""
        self.world.clock.passed_s += seconds
        for replica in self.replicas:
            replica.steps_at += seconds

    async def play(self, seconds: float) -> None:
        """Advance the clocks; each replica steps when its last step said."""
        until = self.now_s + seconds
        while True:
            following = min(self.replicas, key=lambda replica: replica.steps_at)
            if following.steps_at > until:
                break
            self.advance(following.steps_at - self.now_s)
            await following.step()
            self.check_exclusive()
        self.advance(until - self.now_s)

    def stop_stepping(self, replica: Replica) -> None:
        replica.steps_at = math.inf

    # --- outcome ---------------------------------------------------------------------------------

    async def rows(self) -> dict[str, PartitionRow]:
        async with self.world.database.read() as connection:
            found = await connection.execute(text("SELECT name, holder, epoch FROM partitions"))
            return {name: PartitionRow(holder, epoch) for name, holder, epoch in found}

    async def live(self) -> set[str]:
        async with self.world.database.read() as connection:
            found = await connection.execute(text("SELECT id FROM replicas"))
            return set(found.scalars())

    async def steps_s(self) -> int:
        """Return the sum of the recorded steps of the clock."""
        async with self.world.database.read() as connection:
            found = await connection.execute(text("SELECT steps_s FROM clock_steps"))
            return int(found.scalar_one())

    async def shares(self) -> Counter[str]:
        """Return the stored number of partitions that each replica holds."""
        return Counter(row.holder for row in (await self.rows()).values() if row.holder)

    async def changes(self) -> int:
        """Return how often partitions were taken, in total."""
        return sum(row.epoch for row in (await self.rows()).values())

    def check_exclusive(self) -> None:
        """Assert that no partition is run twice: not by two replicas, nor twice by one."""
        callers = [
            each.partition.lease.fence.partition
            for replica in self.replicas
            for each in replica.loops
            if not replica.paused and each.partition.lease.holds(replica.clock.monotonic())
        ]
        assert len(callers) == len(set(callers)), sorted(callers)

    async def check_sound(self, *replicas: Replica) -> None:
        """Assert that each replica runs exactly what it holds, once, and that these loops live."""
        self.check_exclusive()
        rows = await self.rows()
        for replica in replicas:
            held = {name: row.epoch for name, row in rows.items() if row.holder == replica.id}
            driven = replica.leases.running
            assert {name: each.lease.fence.epoch for name, each in driven.items()} == held
            runs = dict(zip(map(id, replica.loops), replica._tasks.all, strict=True))
            for name, each in driven.items():
                assert not is_stopped(each.runner), name
                assert not runs.pop(id(each.runner)).done(), name
            assert all(run.done() for run in runs.values()), "loops run that cannot be stopped"
