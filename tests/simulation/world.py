"""One run: clouds, a database, replicas and a client, and what a seed has happen to them.

First everything goes wrong that the seed picks; then nothing does any more, and all work must end
in bounded time.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections import Counter
from contextlib import AsyncExitStack, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

import aiosqlite

from orchestrator import app
from orchestrator.domain import decide
from orchestrator.domain.errors import LeaseLost, StoreUnavailable
from orchestrator.domain.terminations import OnSubmitted
from orchestrator.engine import partition, prober, sweeper
from orchestrator.engine.running import running
from orchestrator.services.submission import Request
from orchestrator.settings import Settings
from orchestrator.simulator.faults import Fault, Rule
from orchestrator.simulator.server import Simulator
from orchestrator.store.database import Database
from orchestrator.store.migrate import upgrade
from orchestrator.store.transaction import Transaction
from tests.simulation.checkers import Checkers, watch
from tests.simulation.clock import START, MachineClock
from tests.simulation.inline_sqlite import InlineSqlite
from tests.simulation.loop import REPLICA, SimulatedLoop
from tests.simulation.network import Network, Weather, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from orchestrator.domain.leases import Fence

SECRET_ID, SECRET_KEY = "AKIDEXAMPLE", "example-secret-key"
REGIONS: Final = ("ap-guangzhou", "ap-shanghai")
QUOTAS: Final = {"TerminateJob": 2, "DescribeJob": 4, "DescribeJobs": 2, "DescribeTask": 3}
REPLICAS: Final = 3
OPERATIONS: Final = 2
LEASE: Final = {"duration_s": 3.0, "renewal_deadline_s": 2.0, "retry_s": 0.8}
SETTLE_S: Final = 1.0
GIVE_UP_AFTER_S: Final = 600.0
FAULTS_S: Final = 4.5
ENDS_WITHIN_S: Final = 60.0
"""After the faults: a look that was put off, a job that is called again, and the settle window."""
IDLE_IN_TRANSACTION_S: Final = 0.3
"""After which the transaction of a paused replica is ended, as a server does."""
AIMS_S: Final = 2.0
"""How long a replica has to come to the point at which it dies or is paused."""
SOON_S: Final = 3.0
HOUR_S: Final = 3600.0
CLIENT_WAITS_S: Final = 0.5
CALL_POINTS: Final = ("before a call", "a call has left", "an answer has come")
POINTS: Final = (
    *CALL_POINTS,
    "before a commit",
    "after a commit",
    "in a transaction",
)

RARE_POINTS: Final = (*POINTS, *CALL_POINTS, "an answer has come", "in a transaction")
"""Those that a replica comes to less often are aimed at more often."""


HASTY: Final[dict[str, Any]] = {
    "settle_s": SETTLE_S,
    "give_up_after_s": GIVE_UP_AFTER_S,
    "lease": LEASE,
    "poll": {"sweep_max_s": 1.0, "drain_max_s": 5.0, "held_s": 1.0, "settling_s": 1.0},
}


def settings(
    database_url: str, engine: dict[str, Any], quotas: dict[str, int] = QUOTAS
) -> Settings:
    return Settings.model_validate(
        {
            "database": {"url": database_url},
            "engine": engine,
            "accounts": {
                "main": {
                    "endpoint": "http://{region}.cloud",
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
    made: app.Replica | None = None
    task: asyncio.Task[None] | None = None
    dies_at: str | None = None
    """The point at which it will be killed."""
    pauses_at: str | None = None
    """The point at which it will be paused."""


@dataclass(slots=True)
class Acknowledged:
    """What a client was told; its log is the client's own."""

    operation_id: str
    jobs: tuple[str, ...]
    region: str
    at_s: float


class World:
    """Everything that outlives a replica."""

    def __init__(self, seed: int, loop: SimulatedLoop, sqlite: InlineSqlite, folder: Path) -> None:
        self.seed = seed
        self.loop = loop
        self.sqlite = sqlite
        self.random = Random(f"world {seed}")
        self.fired: Counter[str] = Counter()
        self.path = folder / "orchestrator.db"
        self.settings = settings(f"sqlite+aiosqlite:///{self.path}", HASTY)
        self.clouds = {
            f"{region}.cloud": Simulator(
                secret_keys={SECRET_ID: SECRET_KEY},
                limits_per_s=QUOTAS,
                regions=REGIONS,
                seed=number * 10**9 + seed,
                now=lambda: START.timestamp() + loop.time(),
            )
            for number, region in enumerate(REGIONS)
        }
        self.network = Network(loop, Random(f"network {seed}"), self.clouds, fired=self.fired)
        self.lives: dict[int, Running] = {}
        self.acknowledged: list[Acknowledged] = []
        self.checkers = Checkers(self)
        self._births = 0
        self._database_is_away = False
        self._commits_fail: str | None = None
        self._changes: dict[int, int] = {}

    # --- replicas --------------------------------------------------------------------------------

    def start(self, place: int) -> None:
        self._births += 1
        # What a process dies as is never born again.
        name = f"replica{place}-{self._births}"
        life = Running(name, MachineClock(self.loop), asyncio.Event())
        self.lives[place] = life
        life.task = self.loop.spawn(name, self._live(life), name="the daemon")

    async def _live(self, life: Running) -> None:
        """As orchestrator.app.daemon puts a replica together, but for sockets."""
        chance = Random(f"{life.name} {self.seed}")
        while not life.stop.is_set():
            try:
                async with AsyncExitStack() as stack:
                    database = Database(self.settings.database.url, self._database_clock)
                    database.dialect.shared = True
                    share_compiled(database)
                    await stack.enter_async_context(database)
                    wire = Wire(self.network, self.point, self.checkers.on_call)
                    env = app.Environment(self.settings, database, wire, life.clock, chance)
                    life.made = await app.replica(life.name, env)
                    await stack.enter_async_context(running(life.made.leases, chance))
                    await life.stop.wait()
            except StoreUnavailable:
                # It cannot start: whatever keeps it alive starts it again.
                self.fired["could not start"] += 1
                await asyncio.sleep(0.5)

    def _database_clock(self) -> Any:
        return MachineClock(self.loop).now()

    async def point(self, name: str) -> None:
        """Die here, where that is this replica's fate."""
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
        fails, self._commits_fail = self._commits_fail, None
        if fails == "before":
            self.fired["commit fails"] += 1
            raise sqlite3.OperationalError("disk I/O error")
        self.checkers.before_commit(connection)
        await COMMIT(connection)
        self.checkers.after_commit()
        if fails == "after":
            self.fired["commit is told as failed"] += 1
            raise sqlite3.OperationalError("disk I/O error")
        await self.point("after a commit")

    async def execute(self, cursor: aiosqlite.Cursor, *args: Any) -> aiosqlite.Cursor:
        if REPLICA.get() is not None:
            if self._database_is_away:
                self.fired["database away"] += 1
                raise sqlite3.OperationalError("unable to open database file")
            if str(args[0]).startswith("UPDATE terminations"):
                await self.point("in a transaction")
        return await EXECUTE(cursor, *args)

    # --- what goes wrong -------------------------------------------------------------------------

    async def trouble(self) -> None:
        """One fault after the other, now and then several at once, for FAULTS_S."""
        kinds: list[Callable[[], Coroutine[Any, Any, None]]] = [
            self._kill,
            self._kill,
            self._die_somewhere,
            self._die_somewhere,
            self._die_somewhere,
            self._die_somewhere,
            self._pause,
            self._pause_somewhere,
            self._pause_somewhere,
            self._pause_somewhere,
            self._pause_somewhere,
            self._stop,
            self._jump,
            self._storm,
            self._storm,
            self._storm,
            self._storm,
            self._bad_network,
            self._bad_network,
            self._bad_network,
            self._bad_network,
            self._no_cloud,
            self._no_database,
            self._bad_commit,
            self._bad_commit,
        ]
        ends_at = self.loop.time() + FAULTS_S
        async with asyncio.TaskGroup() as group:
            while self.loop.time() < ends_at:
                await asyncio.sleep(self.random.expovariate(2.5))
                group.create_task(self.random.choice(kinds)())

    def _some_life(self) -> tuple[int, Running] | None:
        alive = [
            (place, life)
            for place, life in sorted(self.lives.items())
            if self.loop.is_alive(life.name)
            and not self.loop.is_paused(life.name)
            and not life.stop.is_set()
        ]
        return self.random.choice(alive) if alive else None

    async def _kill(self) -> None:
        found = self._some_life()
        if found:
            place, life = found
            await self.loop.pass_turns(self.random.randrange(40))
            if self.loop.is_alive(life.name) and not self.loop.is_paused(life.name):
                self.fired["killed"] += 1
                self.loop.kill(life.name)
            await self._start_again(place, life)

    async def _die_somewhere(self) -> None:
        found = self._some_life()
        if found:
            place, life = found
            life.dies_at = self.random.choice(RARE_POINTS)
            await asyncio.sleep(AIMS_S)
            life.dies_at = None
            await self._start_again(place, life)

    async def _start_again(self, place: int, life: Running) -> None:
        await asyncio.sleep(self.random.choice((0.1, 1.0, 4.0)))
        if self.lives[place] is life and not self.loop.is_alive(life.name):
            self.start(place)

    async def _pause(self) -> None:
        found = self._some_life()
        if not found:
            return
        _, life = found
        await self.loop.pass_turns(self.random.randrange(40))
        if not self.loop.is_alive(life.name) or self.loop.is_paused(life.name):
            return
        beyond = self.random.random() < 0.6
        paused_s = self.random.uniform(3.0, 5.0) if beyond else self.random.uniform(0.05, 2.0)
        self.fired["paused beyond its lease" if beyond else "paused"] += 1
        self.loop.pause(life.name)
        await self._paused(life, paused_s)

    async def _pause_somewhere(self) -> None:
        """For about as long as its leases last: another one has just taken over, or is about to."""
        found = self._some_life()
        if found:
            _, life = found
            life.pauses_at = self.random.choice(RARE_POINTS)
            for _ in range(20):
                await asyncio.sleep(AIMS_S / 20)
                if self.loop.is_paused(life.name):
                    break
            life.pauses_at = None
            if self.loop.is_paused(life.name):
                await self._paused(life, self.random.uniform(2.0, 4.5))

    async def _paused(self, life: Running, paused_s: float) -> None:
        await asyncio.sleep(min(paused_s, IDLE_IN_TRANSACTION_S))
        if any(each.in_transaction for each in self.sqlite.connections_of(life.name)):
            self.fired["paused in a transaction"] += 1
            self.sqlite.drop(life.name)
        await asyncio.sleep(max(0.0, paused_s - IDLE_IN_TRANSACTION_S))
        if self.loop.is_paused(life.name):
            self.loop.resume(life.name)

    async def _stop(self) -> None:
        """As by SIGTERM."""
        found = self._some_life()
        if found:
            place, life = found
            self.fired["stopped"] += 1
            life.stop.set()
            assert life.task is not None
            await asyncio.wait([life.task], timeout=10.0)
            await asyncio.sleep(self.random.choice((0.1, 2.0)))
            if self.lives[place] is life:
                if self.loop.is_paused(life.name):
                    self.loop.resume(life.name)
                self.start(place)

    async def _jump(self) -> None:
        """A machine's wall clock goes an hour ahead, or back, and is put right later."""
        found = self._some_life()
        if found:
            _, life = found
            life.clock.ahead_s = self.random.choice((-HOUR_S, HOUR_S))
            self.fired["clock jumped ahead" if life.clock.ahead_s > 0 else "clock jumped back"] += 1
            await asyncio.sleep(self.random.uniform(0.5, 3.0))
            life.clock.ahead_s = 0.0

    async def _storm(self) -> None:
        """A cloud answers badly for a while."""
        cloud = self.clouds[self.random.choice(sorted(self.clouds))]
        fault = self.random.choice([each for each in Fault if each is not Fault.HANG])
        rule = Rule(fault, self.random.choice((0.5, 1.0)), after=self.random.random() < 0.5)
        cloud.faults.replace({"*": [rule]}, now=cloud.now())
        await asyncio.sleep(self.random.uniform(1.0, 4.0))
        cloud.faults.replace({}, now=cloud.now())

    async def _bad_network(self) -> None:
        kind = self.random.choice(
            (
                "lost_request",
                "lost_answer",
                "lost_termination",
                "lost_termination",
                "slow",
                "silent",
            )
        )
        setattr(self.network.weather, kind, self.random.choice((0.3, 0.8)))
        await asyncio.sleep(self.random.uniform(0.5, 3.0))
        setattr(self.network.weather, kind, 0.0)

    async def _no_cloud(self) -> None:
        self.network.weather.away = True
        await asyncio.sleep(self.random.uniform(0.3, 4.0))
        self.network.weather.away = False

    async def _no_database(self) -> None:
        self._database_is_away = True
        await asyncio.sleep(self.random.uniform(0.1, 4.0))
        self._database_is_away = False

    async def _bad_commit(self) -> None:
        self._commits_fail = self.random.choice(("before", "after", "after"))
        await asyncio.sleep(0.5)

    def _all_is_well(self) -> None:
        """No fault any more, and every place has its replica."""
        self.network.weather = Weather()
        self._database_is_away, self._commits_fail = False, None
        for cloud in self.clouds.values():
            cloud.faults.replace({}, now=cloud.now())
        for place, life in sorted(self.lives.items()):
            life.dies_at, life.pauses_at, life.clock.ahead_s = None, None, 0.0
            if self.loop.is_paused(life.name):
                self.loop.resume(life.name)
            if not self.loop.is_alive(life.name):
                self.start(place)

    # --- jobs and the client ---------------------------------------------------------------------

    def _jobs(self, region: str, number: int) -> tuple[str, ...]:
        """Some jobs of the seed's choice, told to the cloud."""
        kinds: list[dict[str, Any]] = [
            {"instances": 4, "drain_s": [0.2, 3]},
            {"instances": 3, "tasks": 3, "drain_s": 2, "failed_early_s": 1},
            {"instances": 2, "state": "SUBMITTED", "submitted_s": [0.5, 3], "drain_s": 1},
            {"instances": 2, "state": "SUCCEED"},
            {"instances": 4, "state": "FAILED", "mix": {"RUNNING": 0.5}, "drain_s": 1},
            {"instances": 2, "env_id": "env-example1", "refuse_env": True},
            {"instances": 2, "forbidden": True},
            {"instances": 3, "drain_s": 0.5, "revive_after_s": [0.05, 2]},
            {"instances": 2, "drain_s": 0.5, "vanish_after_s": [0.1, 2]},
            {"instances": 2, "succeeds_after_s": [0.5, 5]},
            {"instances": 2, "fails_after_s": [0.5, 4], "revive_after_s": [0.1, 1]},
            {"instances": 3, "again": "ok", "drain_s": [0.5, 3]},
        ]
        groups = [
            self.random.choice(kinds) | {"prefix": f"x{number}{place}", "region": region}
            for place in range(self.random.randrange(2, 5))
        ]
        ids = self.clouds[f"{region}.cloud"].add_groups(groups)
        unknown = [f"job-none{number:04}"] if self.random.random() < 0.3 else []
        return (*ids, *unknown)

    async def ask(self) -> None:
        """Hand over operations, until each is acknowledged, to whichever replica answers."""
        for number in range(OPERATIONS):
            await asyncio.sleep(self.random.uniform(0.0, 1.5))
            region = self.random.choice(REGIONS)
            jobs = self._jobs(region, number)
            again = [each for each in self.acknowledged if each.region == region]
            if again and self.random.random() < 0.4:
                self.fired["asked again for the same jobs"] += 1
                jobs = (*jobs, *self.random.choice(again).jobs[:2])
            key = f"key {number}" if self.random.random() < 0.9 else None
            await self.hand_over(
                Request(
                    jobs=jobs,
                    account=None,
                    region=region,
                    reason="a simulation",
                    on_submitted=OnSubmitted.HOLD,
                    not_before=None,
                    give_up_after_s=None,
                    settle_s=None,
                ),
                key,
            )

    async def hand_over(self, request: Request, key: str | None) -> None:
        """Ask until it is acknowledged."""
        while True:
            found = self._some_life()
            if found and found[1].made is not None:
                name, submission = found[1].name, found[1].made.context.submission
                posted = self.loop.spawn(
                    name, submission.submit(request, requested_by="me", idempotency_key=key)
                )
                posted.add_done_callback(lambda task: task.cancelled() or task.exception())
                await asyncio.wait([posted], timeout=CLIENT_WAITS_S)
                if not posted.done():
                    self.fired["client was not answered"] += 1
                else:
                    try:
                        created = posted.result()
                    except StoreUnavailable:
                        self.fired["client was told 503"] += 1
                    else:
                        self.fired["client was answered again"] += created.replayed
                        assert request.region is not None
                        self.acknowledged.append(
                            Acknowledged(
                                created.operation_id,
                                tuple(dict.fromkeys(request.jobs)),
                                request.region,
                                self.loop.time(),
                            )
                        )
                        return
            await asyncio.sleep(self.random.uniform(0.1, 0.6))

    # --- a run -----------------------------------------------------------------------------------

    async def run(self) -> None:
        for place in range(REPLICAS):
            self.start(place)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.ask())
            await self.trouble()
            self._all_is_well()
        self.loop.note("all is well")
        await self.end()

    async def end(self, within_s: float = ENDS_WITHIN_S) -> None:
        """All work ends in bounded time, and all replicas stop."""
        ends_at = self.loop.time() + within_s
        while not self.checkers.all_ended():
            if self.loop.time() > ends_at:
                self.checkers.violated("liveness", self.checkers.unfinished())
                break
            await asyncio.sleep(1.0)
        self.checkers.at_the_end()
        for life in self.lives.values():
            life.stop.set()
        tasks = [life.task for life in self.lives.values() if life.task is not None]
        _, late = await asyncio.wait(tasks, timeout=15.0)
        if late:
            self.checkers.violated("stop", f"{len(late)} replicas did not stop")


COMMIT: Final = aiosqlite.Connection.commit
EXECUTE: Final = aiosqlite.Cursor.execute
HOLD: Final = Transaction.hold


@dataclass(slots=True)
class Result:
    """What came of a seed."""

    seed: int
    violations: list[str]
    fired: Counter[str]
    fingerprint: int
    turns: int
    story: str = field(repr=False, default="")


_COMPILED: Final[dict[str, Any]] = {}


def share_compiled(database: Database) -> None:
    """Have all replicas of all runs compile a statement once: it is most of what a run takes."""
    for role in ("writers", "readers"):
        engine: Any = getattr(database.dialect, role).sync_engine
        first = _COMPILED.setdefault(role, engine)
        engine.dialect = engine.pool._dialect = first.dialect
        engine._compiled_cache = first._compiled_cache


@contextmanager
def impatience() -> Iterator[None]:
    """Waits of a minute last a few seconds, so that a run is over sooner."""
    with ExitStack() as stack:
        for module, name in (
            (decide, "CALL_AGAIN_AFTER_S"),
            (prober, "COUNT_ALL_EVERY_S"),
            (partition, "PUT_OFF_S"),
            (sweeper, "SUSPECTED_S"),
        ):
            stack.enter_context(patch.object(module, name, SOON_S))
        yield


def make_template(path: Path) -> None:
    """An empty database for runs to copy, which notes what is written."""
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
    run: Callable[[World], Coroutine[Any, Any, None]] = World.run,
) -> Result:
    """Run one seed on a copy of the ``template`` database."""
    folder.mkdir()
    shutil.copyfile(template, folder / "orchestrator.db")
    loop = SimulatedLoop(Random(f"order {seed}"), max_turns=max_turns, story_turns=story_turns)
    with InlineSqlite(loop) as sqlite, loop:
        world = World(seed, loop, sqlite, folder)

        async def commit(connection: aiosqlite.Connection) -> None:
            await world.commit(connection)

        async def execute(cursor: aiosqlite.Cursor, *args: Any) -> aiosqlite.Cursor:
            return await world.execute(cursor, *args)

        async def hold(transaction: Transaction, fence: Fence) -> None:
            try:
                await HOLD(transaction, fence)
            except LeaseLost:
                world.fired["a stale write was refused"] += 1
                raise

        with (
            impatience() if impatient else nullcontext(),
            patch.object(aiosqlite.Connection, "commit", commit),
            patch.object(aiosqlite.Cursor, "execute", execute),
            patch.object(Transaction, "hold", hold),
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
