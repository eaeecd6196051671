"""One run: clouds, a database, replicas and a client, with the faults that a seed picks.

First there are all the faults that the seed picks; then there are none, and all work must end in
bounded time.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections import Counter
from contextlib import AsyncExitStack, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

import aiosqlite

from orchestrator.composition import Environment, Replica, replica
from orchestrator.domain.audit.certificate_verification import verify
from orchestrator.domain.decisions import draining, unconfirmed_ends
from orchestrator.domain.errors import LeaseLost, StoreUnavailable
from orchestrator.domain.model import unconfirmed
from orchestrator.engine.loops import job_poller, single_job_poller
from orchestrator.engine.replica.lease_manager import running
from orchestrator.settings import Settings
from orchestrator.simulator.simulator import Simulator
from orchestrator.store.database.aiosqlite_visits import OneVisitCursor
from orchestrator.store.database.database import Database
from orchestrator.store.database.migrations import upgrade
from orchestrator.store.database.transaction import Transaction
from orchestrator.store.terminations import set_aside
from tests.simulation.checkers import Checkers, watch
from tests.simulation.client import OPERATIONS, Client
from tests.simulation.clock import START, MachineClock
from tests.simulation.faults import FaultInjection
from tests.simulation.network import REGIONS, Network, NetworkFaults, Wire
from tests.simulation.planted import Planted, plant, repair
from tests.simulation_kernel.inline_sqlite import InlineSqlite
from tests.simulation_kernel.loop import REPLICA, SimulatedLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping
    from pathlib import Path

    from orchestrator.domain.audit.certificate import Certificate
    from orchestrator.domain.leasing.leases import FencingToken

SECRET_ID, SECRET_KEY = "AKIDEXAMPLE", "example-secret-key"
QUOTAS: Final = {"TerminateJob": 2, "DescribeJob": 4, "DescribeJobs": 2, "DescribeTask": 3}
REPLICAS: Final = 3
REPLICAS_OF_A_RUN: Final = (1, 2, 2, 3, 3)
"""Numbers of replicas: one for all partitions, one for each, or one more."""
LEASE: Final = {"duration_s": 3.0, "renewal_deadline_s": 2.6, "retry_s": 1.3}
SETTLE_S: Final = 1.0
GIVE_UP_AFTER_S: Final = 600.0
ENDS_WITHIN_S: Final = 60.0
"""Time after the faults: for a postponed poll, a repeated call, and the settle window."""
SOON_S: Final = 2.0
ASKED_LATER_SHARE: Final = 0.2
WITHOUT_WORK_S: Final = (0.5, 6.0)
"""Time without work, of which partitions know after a step of the lease manager."""


HASTY: Final[dict[str, Any]] = {
    "settle_s": SETTLE_S,
    "give_up_after_s": GIVE_UP_AFTER_S,
    "capture_before_max_s": 2.0,
    "starting_watch_s": 2.0,
    "not_found_after_s": SOON_S,
    "refused_after_s": SOON_S,
    "escalation": {"after_s": 1.0},
    "revival_watch_s": 0.0,
    "lease": LEASE,
    "poll": {
        "batch_max_interval_s": 1.0,
        "drain_max_interval_s": 5.0,
        "held_interval_s": 1.0,
        "settling_interval_s": 1.0,
    },
}


def settings(database_url: str, engine: Mapping[str, Any], quotas: Mapping[str, int]) -> Settings:
    return Settings.model_validate(
        {
            "database": {"url": database_url},
            "engine": engine,
            "accounts": {
                "main": {
                    "endpoint": "http://{region}.cloud",
                    "cvm_endpoint": "http://{region}.cloud",
                    "regions": REGIONS,
                    "credentials": {
                        "provider": "static",
                        "secret_id": SECRET_ID,
                        "secret_key": SECRET_KEY,
                    },
                    "quotas": quotas,
                }
            },
        }
    )


@dataclass(slots=True)
class Running:
    """One life of a replica."""

    name: str
    clock: MachineClock
    stop: asyncio.Event
    made: Replica | None = None
    task: asyncio.Task[None] | None = None
    dies_at: str | None = None
    """The point at which it will be killed."""
    pauses_at: str | None = None
    """The point at which it will be paused."""


class SimulatedWorld:
    """Everything that outlives a replica."""

    def __init__(
        self,
        seed: int,
        loop: SimulatedLoop,
        sqlite: InlineSqlite,
        folder: Path,
        engine: Mapping[str, Any],
        quotas: Mapping[str, int],
        checkers: Callable[[SimulatedWorld], Checkers],
    ) -> None:
        self.seed = seed
        self.loop = loop
        self.sqlite = sqlite
        self.random = Random(f"world {seed}")
        self.fired: Counter[str] = Counter()
        self.path = folder / "orchestrator.db"
        self.settings = settings(f"sqlite+aiosqlite:///{self.path}", engine, quotas)
        self.clouds = {
            f"{region}.cloud": Simulator(
                secret_keys={SECRET_ID: SECRET_KEY},
                limits_per_s=quotas,
                regions=REGIONS,
                seed=number * 10**9 + seed,
                now=lambda: START.timestamp() + loop.time(),
            )
            for number, region in enumerate(REGIONS)
        }
        self.network = Network(loop, Random(f"network {seed}"), self.clouds, fired=self.fired)
        self.replicas = REPLICAS
        self.wall = MachineClock(loop)
        """The database's clock."""
        self.wall_is_right = asyncio.Event()
        self.wall_is_right.set()
        self.lives: dict[int, Running] = {}
        self.client = Client(self)
        self.checkers = checkers(self)
        self._births = 0
        self.database_is_away = False
        self.commits_fail: str | None = None
        self._changes: dict[int, int] = {}
        self.planted: Planted | None = None

    # --- replicas --------------------------------------------------------------------------------

    def start(self, place: int) -> None:
        self._births += 1
        # A new process has a new name.
        name = f"replica{place}-{self._births}"
        life = Running(name, MachineClock(self.loop), asyncio.Event())
        self.lives[place] = life
        life.task = self.loop.spawn(name, self._live(life), name="the daemon")

    async def _live(self, life: Running) -> None:
        """Start a replica as orchestrator.daemon does, but without sockets."""
        chance = Random(f"{life.name} {self.seed}")
        while not life.stop.is_set():
            try:
                async with AsyncExitStack() as stack:
                    database = Database(self.settings.database.url, self.wall.now)
                    database.dialect.shared = self.replicas > 1
                    share_compiled(database)
                    await stack.enter_async_context(database)
                    wire = Wire(self.network, self.point, self.checkers.on_call)
                    env = Environment(
                        self.settings,
                        database,
                        dict.fromkeys(self.settings.accounts, wire),
                        life.clock,
                        chance,
                    )
                    life.made = await replica(life.name, env)
                    await stack.enter_async_context(running(life.made.leases, chance))
                    await life.stop.wait()
            except StoreUnavailable:
                # It cannot start: its supervisor starts it again.
                self.fired["could not start"] += 1
                await asyncio.sleep(0.5)

    async def point(self, name: str) -> None:
        """Die here, if that is this replica's fate."""
        replica = REPLICA.get()
        for life in self.lives.values():
            if life.name == replica and life.dies_at == name:
                life.dies_at = None
                self.fired[f"killed {name}"] += 1
                await self.loop.die_here()
            if life.name == replica and life.pauses_at == name:
                life.pauses_at = None
                self.fired[f"paused {name}"] += 1
                self.loop.pause(life.name)
                await asyncio.sleep(0)

    def some_life(self) -> tuple[int, Running] | None:
        alive = [
            (place, life)
            for place, life in sorted(self.lives.items())
            if self.loop.is_alive(life.name)
            and not self.loop.is_paused(life.name)
            and not life.stop.is_set()
        ]
        return self.random.choice(alive) if alive else None

    # --- the database ----------------------------------------------------------------------------

    async def commit(self, connection: aiosqlite.Connection) -> None:
        before = self._changes.get(id(connection), 0)
        try:
            changes = connection.total_changes
        except sqlite3.ProgrammingError:  # it was dropped
            changes = before
        self._changes[id(connection)] = changes
        if changes == before or REPLICA.get() is None:
            await COMMIT(connection)
            return
        await self.point("before a commit")
        fails, self.commits_fail = self.commits_fail, None
        if fails == "before":
            self.fired["commit fails"] += 1
            raise sqlite3.OperationalError("disk I/O error")
        self.checkers.before_commit(connection)
        await COMMIT(connection)
        self.checkers.after_commit()
        if fails == "after":
            self.fired["commit is reported as failed"] += 1
            raise sqlite3.OperationalError("disk I/O error")
        await self.point("after a commit")

    async def execute(self, cursor: OneVisitCursor, *args: Any) -> OneVisitCursor:
        if REPLICA.get() is not None:
            if self.database_is_away:
                self.fired["database away"] += 1
                raise sqlite3.OperationalError("unable to open database file")
            if str(args[0]).startswith("UPDATE terminations"):
                await self.point("in a transaction")
        return await EXECUTE(cursor, *args)

    # --- a run -----------------------------------------------------------------------------------

    def end_faults(self) -> None:
        """End all faults, and start a replica in every place."""
        self.network.faults = NetworkFaults()
        self.database_is_away, self.commits_fail = False, None
        self.wall.ahead_s = 0.0
        self.wall_is_right.set()
        for cloud in self.clouds.values():
            cloud.faults.replace({}, now=cloud.now())
        for place, life in sorted(self.lives.items()):
            life.dies_at, life.pauses_at, life.clock.ahead_s = None, None, 0.0
            if self.loop.is_paused(life.name):
                self.loop.resume(life.name)
            if not self.loop.is_alive(life.name):
                self.start(place)

    async def run(self) -> None:
        self.replicas = self.random.choice(REPLICAS_OF_A_RUN)
        for place in range(self.replicas):
            self.start(place)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.client.ask())
            group.create_task(plant(self))
            await FaultInjection(self).run()
            self.end_faults()
        self.loop.note("all is well")
        await repair(self)
        if self.random.random() < ASKED_LATER_SHARE and await self._all_end(ENDS_WITHIN_S):
            await self._ask_later()
        await self.end()

    async def _ask_later(self) -> None:
        """Ask again after a time without work, in which the loops of all partitions wait."""
        await asyncio.sleep(self.random.uniform(*WITHOUT_WORK_S))
        self.fired["asked after a time without work"] += self._some_loops_wait_for_work()
        self.planted = None
        async with asyncio.TaskGroup() as group:
            group.create_task(self.client.ask(first=OPERATIONS))
            group.create_task(plant(self))
        await repair(self)

    def _some_loops_wait_for_work(self) -> bool:
        """Return whether a partition had work before and has none now."""
        return any(
            partition.runner.has_work is False and partition.runner.times_woken > 0
            for life in self.lives.values()
            if life.made is not None
            for partition in life.made.leases.running.values()
        )

    async def end(self, within_s: float = ENDS_WITHIN_S) -> None:
        """Check that all work ends in bounded time, and that all replicas stop."""
        await self._all_end(within_s)
        await self._certify()
        self.checkers.check_end()
        for life in self.lives.values():
            life.stop.set()
        tasks = [life.task for life in self.lives.values() if life.task is not None]
        _, late = await asyncio.wait(tasks, timeout=15.0)
        if late:
            self.checkers.violated("stop", f"{len(late)} replicas did not stop")

    async def _all_end(self, within_s: float) -> bool:
        """Return whether all work ends within this time, and note a violation if it does not."""
        ends_at = self.loop.time() + within_s
        while not (self.checkers.all_ended() and self.checkers.all_revivals_recorded()):
            if self.loop.time() > ends_at:
                self.checkers.violated("liveness", self.checkers.unfinished())
                return False
            await asyncio.sleep(0.25)
        return True

    async def _certify(self) -> None:
        """Check that the certificates verify."""
        found = self.some_life()
        if found is None or found[1].made is None:
            return
        life, certification = found[1], found[1].made.context.certification
        for each in self.client.acknowledged:
            issued: Certificate | None = None
            while issued is None:
                with suppress(StoreUnavailable):  # connections that were lost before
                    issuing = certification.issue(each.operation_id)
                    issued = await self.loop.spawn(life.name, issuing)
            self.fired["certified"] += 1
            for fault in verify(issued.data):
                self.checkers.violated("certificate", fault)


COMMIT: Final = aiosqlite.Connection.commit
EXECUTE: Final = OneVisitCursor.execute
LOCK: Final = Transaction.lock_partition


@dataclass(slots=True)
class Result:
    """The outcome of a seed."""

    seed: int
    violations: list[str]
    fired: Counter[str]
    fingerprint: int
    turns: int
    story: str = field(repr=False, default="")


_COMPILED: Final[dict[str, Any]] = {}


def share_compiled(database: Database) -> None:
    """Have all replicas of all runs compile a statement once: that is most of the time of a run."""
    for role in ("writers", "readers"):
        engine: Any = getattr(database.dialect, role).sync_engine
        first = _COMPILED.setdefault(role, engine)
        engine.dialect = engine.pool._dialect = first.dialect
        engine._compiled_cache = first._compiled_cache


@contextmanager
def impatience() -> Iterator[None]:
    """Shorten a run: waits of a minute last a few seconds, and a replica has one reader.

    Opening more connections takes longer than reading by them.
    """
    with ExitStack() as stack:
        for where in ("sqlite", "database"):
            stack.enter_context(patch(f"orchestrator.store.database.{where}.READERS", 1))
        for module, name in (
            (draining, "CALL_AGAIN_AFTER_S"),
            (single_job_poller, "COUNT_ALL_EVERY_S"),
            (set_aside, "AGAIN_AFTER_S"),
            (single_job_poller, "IDLE_MAX_S"),
            (job_poller, "SUSPECTED_S"),
            (unconfirmed_ends, "SEEN_JOB_MISSING_S"),
            (unconfirmed_ends, "UNREADABLE_S"),
            (unconfirmed_ends, "OUT_OF_REACH_S"),
        ):
            stack.enter_context(patch.object(module, name, SOON_S))
        stack.enter_context(patch.object(unconfirmed, "FIRST_RETRY_S", SOON_S / 5))
        yield


def make_template(path: Path) -> None:
    """Create an empty database for runs to copy, which records what is written."""
    asyncio.run(upgrade(f"sqlite+aiosqlite:///{path}"))
    watch(path)


def simulate(
    seed: int,
    template: Path,
    folder: Path,
    *,
    story_turns: int | None = 50,
    max_turns: int = 2_000_000,
    impatient: bool = True,
    engine: Mapping[str, Any] = HASTY,
    quotas: Mapping[str, int] = QUOTAS,
    run: Callable[[SimulatedWorld], Coroutine[Any, Any, None]] = SimulatedWorld.run,
    checkers: Callable[[SimulatedWorld], Checkers] = Checkers,
) -> Result:
    """Run one seed on a copy of the ``template`` database."""
    folder.mkdir()
    shutil.copyfile(template, folder / "orchestrator.db")
    loop = SimulatedLoop(Random(f"order {seed}"), max_turns=max_turns, story_turns=story_turns)
    with InlineSqlite(loop) as sqlite, loop:
        world = SimulatedWorld(seed, loop, sqlite, folder, engine, quotas, checkers)

        async def commit(connection: aiosqlite.Connection) -> None:
            await world.commit(connection)

        async def execute(cursor: OneVisitCursor, *args: Any) -> OneVisitCursor:
            return await world.execute(cursor, *args)

        async def lock(transaction: Transaction, fence: FencingToken) -> None:
            try:
                await LOCK(transaction, fence)
            except LeaseLost:
                world.fired["a stale write was refused"] += 1
                raise

        with (
            impatience() if impatient else nullcontext(),
            patch.object(aiosqlite.Connection, "commit", commit),
            patch.object(OneVisitCursor, "execute", execute),
            patch.object(Transaction, "lock_partition", lock),
            world.checkers.listening(),
        ):
            try:
                loop.run(run(world))
            except Exception as error:  # noqa: BLE001 - a finding, with the story of it
                world.checkers.violated("run", str(error)[:300])
        for unhandled in loop.unhandled:
            world.checkers.violated("unhandled", repr(unhandled))
        for cloud in world.clouds.values():
            world.fired.update({f"cloud: {k}": n for k, n in cloud.faults.fired().items() if n})
        result = Result(
            seed,
            world.checkers.violations,
            world.fired,
            loop.fingerprint,
            loop.turns,
            loop.story,
        )
    shutil.rmtree(folder)
    return result
