"""Replicas over one SQLite file in one thread: the locks and what a kill leaves are SQLite's."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
from random import Random
from typing import TYPE_CHECKING, Any

import aiosqlite
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tests.simulation_kernel.inline_sqlite import InlineSqlite
from tests.simulation_kernel.loop import SimulatedLoop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUSY_TIMEOUT_S = 2.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "test.db"
    made = sqlite3.connect(path)
    made.executescript(
        "PRAGMA journal_mode = WAL;"
        "CREATE TABLE counters (n INTEGER);"
        "INSERT INTO counters VALUES (0);"
    )
    made.close()
    return path


@pytest.fixture
def loop() -> Iterator[SimulatedLoop]:
    with SimulatedLoop(Random(0)) as loop:
        yield loop


@pytest.fixture
def sqlite(loop) -> Iterator[InlineSqlite]:
    with InlineSqlite(loop) as sqlite:
        yield sqlite


def engine_of(path: Path, begin: str = "BEGIN IMMEDIATE") -> AsyncEngine:
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_S}
    )

    @event.listens_for(engine.sync_engine, "connect")
    def on_connect(connection: Any, _: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA synchronous = OFF")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def on_begin(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    return engine


async def count(path: Path) -> int:
    engine = engine_of(path, begin="BEGIN")
    async with engine.connect() as connection:
        n = (await connection.execute(text("SELECT n FROM counters"))).scalar_one()
    await engine.dispose()
    return int(n)


async def hold(engine: AsyncEngine, seconds: float) -> None:
    """Write, and commit only after that time."""
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE counters SET n = n + 1"))
        await asyncio.sleep(seconds)


def test_a_transaction_takes_no_time_and_no_thread(loop, sqlite, path, monkeypatch):
    def no_thread(*_: object) -> None:
        raise AssertionError("a thread was started")

    monkeypatch.setattr("threading.Thread.start", no_thread)

    async def world() -> None:
        engine = engine_of(path)
        for _ in range(3):
            await hold(engine, 0)
        assert await count(path) == 3
        await engine.dispose()
        assert sqlite.connections_of(None) == []

    loop.run(world())
    assert loop.turns > 50, "a replica can be stopped between statement and answer"
    assert loop.time() == 0


def test_the_patch_ends_with_its_block(loop):
    real = aiosqlite.core.Connection
    with InlineSqlite(loop):
        assert aiosqlite.core.Connection is not real
    assert aiosqlite.core.Connection is real


def test_errors_of_statements_arrive(loop, sqlite, path):
    async def world() -> None:
        engine = engine_of(path)
        with pytest.raises(OperationalError, match="no such table"):
            async with engine.begin() as connection:
                await connection.execute(text("SELECT * FROM missing"))
        await engine.dispose()

    loop.run(world())


def test_a_writer_waits_in_virtual_time(loop, sqlite, path):
    async def world() -> None:
        first, second = engine_of(path), engine_of(path)
        holding = loop.spawn("a", hold(first, 1.5))
        await asyncio.sleep(0.5)
        assert await count(path) == 0, "a reader does not wait"
        await loop.spawn("b", hold(second, 0))
        assert await count(path) == 2
        await holding
        await loop.pass_turns(1_000_000)
        assert loop.time() == 1.5, "no timer is left"

    loop.run(world())


def test_a_writer_waits_no_longer_than_its_timeout(loop, sqlite, path):
    async def world() -> None:
        first, second = engine_of(path), engine_of(path)
        loop.spawn("a", hold(first, 60))
        await asyncio.sleep(0.5)
        with pytest.raises(OperationalError, match="database is locked"):
            await loop.spawn("b", hold(second, 0))
        assert loop.time() == 0.5 + BUSY_TIMEOUT_S

    loop.run(world())


def test_a_reader_that_begins_to_write_does_not_wait(loop, sqlite, path):
    async def world() -> None:
        first, second = engine_of(path), engine_of(path, begin="BEGIN")
        loop.spawn("a", hold(first, 60))
        await asyncio.sleep(0.5)
        with pytest.raises(OperationalError, match="database is locked"):
            await loop.spawn("b", hold(second, 0))
        assert loop.time() == 0.5

    loop.run(world())


def test_a_cancelled_wait_leaves_no_lock_behind(loop, sqlite, path):
    async def world() -> None:
        first, second, third = (engine_of(path) for _ in range(3))
        holding = loop.spawn("a", hold(first, 1))
        await asyncio.sleep(0.5)
        waiting = loop.spawn("b", hold(second, 60))
        await asyncio.sleep(0.25)
        waiting.cancel()
        await holding
        await loop.spawn("c", hold(third, 0))
        assert loop.time() == 1
        assert waiting.cancelled()

    loop.run(world())


@pytest.mark.parametrize("stop", ["pause", "kill"])
def test_a_stopped_waiter_delays_no_other(path, stop):
    async def world(loop: SimulatedLoop) -> None:
        first, second, third = (engine_of(path) for _ in range(3))
        loop.spawn("a", hold(first, 1))
        await asyncio.sleep(0.5)
        loop.spawn("b", hold(second, 60))
        await asyncio.sleep(0.25)
        getattr(loop, stop)("b")
        await loop.spawn("c", hold(third, 0))
        assert loop.time() == 1

    for seed in range(10):
        with SimulatedLoop(Random(seed)) as loop, InlineSqlite(loop):
            loop.run(world(loop))


def test_a_paused_waiter_tries_once_more_when_it_is_resumed(loop, sqlite, path):
    async def world() -> None:
        first, second = engine_of(path), engine_of(path)
        loop.spawn("a", hold(first, 1))
        await asyncio.sleep(0.5)
        waiting = loop.spawn("b", hold(second, 0))
        await asyncio.sleep(0.1)
        loop.pause("b")
        await asyncio.sleep(60)
        loop.resume("b")
        await waiting
        assert await count(path) == 2

    loop.run(world())


def test_a_kill_rolls_back(loop, sqlite, path):
    async def world() -> None:
        first, second = engine_of(path), engine_of(path)
        loop.spawn("a", hold(first, 60))
        await asyncio.sleep(1)
        (raw,) = sqlite.connections_of("a")
        assert raw.in_transaction
        waiting = loop.spawn("b", hold(second, 0))
        await asyncio.sleep(1)
        loop.kill("a")
        assert sqlite.connections_of("a") == []
        await waiting
        assert loop.time() == 2
        assert await count(path) == 1

    loop.run(world())


def test_a_kill_leaves_no_lock_behind_with_an_open_cursor(loop, sqlite, path):
    async def replica() -> None:
        connection = await aiosqlite.connect(path, isolation_level=None)
        await connection.execute("BEGIN IMMEDIATE")
        await connection.execute("INSERT INTO counters VALUES (1), (2)")
        cursor = await connection.execute("SELECT n FROM counters")
        await cursor.fetchone()
        await asyncio.sleep(60)

    async def world() -> None:
        loop.spawn("a", replica())
        await asyncio.sleep(1)
        loop.kill("a")
        await loop.spawn("b", hold(engine_of(path), 0))
        assert loop.time() == 1

    loop.run(world())


def test_a_killed_replica_does_nothing_more(path, recwarn, caplog):
    engines = []

    async def world(loop: SimulatedLoop) -> None:
        engines.append(engine_of(path))
        await loop.spawn("idle", hold(engines[0], 0))
        for name in "abcd":
            engines.append(engine_of(path))
            loop.spawn(name, hold(engines[-1], 60))
        await asyncio.sleep(1)
        loop.kill("a")
        loop.kill("b")

    with SimulatedLoop(Random(0)) as loop, InlineSqlite(loop):
        loop.run(world(loop))
        assert loop.unhandled == []
    engines.clear()
    gc.collect()
    assert not recwarn.list
    assert not caplog.records
    with sqlite3.connect(path) as checked:
        assert checked.execute("SELECT n FROM counters").fetchone() == (1,)
    checked.close()


def test_finally_blocks_have_no_effect_after_the_end(path):
    async def replica() -> None:
        connection = await aiosqlite.connect(path, isolation_level=None)
        try:
            await asyncio.sleep(60)
        finally:
            try:
                await connection.execute("UPDATE counters SET n = n + 1")
            finally:
                await aiosqlite.connect(path)

    async def world(loop: SimulatedLoop) -> None:
        loop.spawn("a", replica())
        await asyncio.sleep(1)

    before = set(threading.enumerate())
    with SimulatedLoop(Random(0)) as loop, InlineSqlite(loop):
        loop.run(world(loop))
    assert set(threading.enumerate()) <= before
    with sqlite3.connect(path) as checked:
        assert checked.execute("SELECT n FROM counters").fetchone() == (0,)
    checked.close()


def test_a_dropped_connection_raises_and_a_new_one_works(loop, sqlite, path, caplog):
    async def replica(engine: AsyncEngine) -> tuple[object, ...]:
        try:
            async with engine.begin() as connection:
                await connection.execute(text("UPDATE counters SET n = n + 10"))
                await asyncio.sleep(1)
                await connection.execute(text("UPDATE counters SET n = n + 100"))
        except OperationalError as raised:
            error = raised
        await hold(engine, 0)
        return type(error.orig), str(error.orig), error.connection_invalidated

    async def world() -> None:
        mine, others = engine_of(path), engine_of(path)
        task = loop.spawn("a", replica(mine))
        await asyncio.sleep(0.5)
        loop.pause("a")
        sqlite.drop("a")
        await loop.spawn("b", hold(others, 0))
        assert loop.time() == 0.5
        loop.resume("a")
        message = "connection closed by the other side"
        assert await task == (sqlite3.OperationalError, message, True)
        assert not caplog.records
        assert await count(path) == 2

    loop.run(world())


@pytest.mark.parametrize("what", ["execute", "commit", "rollback", "fetchall", "cursor"])
def test_nothing_on_a_dropped_connection_succeeds(loop, sqlite, path, what):
    async def world() -> None:
        connection = await aiosqlite.connect(path, isolation_level=None)
        cursor = await connection.execute("BEGIN IMMEDIATE")
        calls = {
            "execute": lambda: connection.execute("SELECT 1"),
            "commit": connection.commit,
            "rollback": connection.rollback,
            "fetchall": cursor.fetchall,
            "cursor": connection.cursor,
        }
        sqlite.drop(None)
        with pytest.raises(sqlite3.OperationalError, match="connection closed"):
            await calls[what]()
        await cursor.close()
        await connection.close()

    loop.run(world())


# --- no update is lost ---------------------------------------------------------------------------


class Counting:
    """Replicas that read and then write one counter, while the world stops them anywhere."""

    def __init__(self, loop: SimulatedLoop, sqlite: InlineSqlite, path: Path, seed: int) -> None:
        self.loop, self.sqlite, self.path = loop, sqlite, path
        self.random = Random(f"world {seed}")
        self.acknowledged = 0
        self.unknown = 0
        """Transactions under way when their replica died."""
        self.under_way: dict[str, int] = {}
        self.locked = 0
        self.dropped = 0

    async def replica(self, name: str) -> None:
        engine = engine_of(self.path)
        done = 0
        while done < 5:
            self.under_way[name] = 1
            try:
                async with engine.begin() as connection:
                    found = await connection.execute(text("SELECT n FROM counters"))
                    n = found.scalar_one()
                    await asyncio.sleep(0.01)
                    await connection.execute(text("UPDATE counters SET n = :n"), {"n": n + 1})
            except OperationalError as error:
                if "connection closed" in str(error):
                    self.dropped += 1
                else:
                    self.locked += 1
            else:
                self.acknowledged += 1
                done += 1
            self.under_way[name] = 0
        await engine.dispose()

    async def world(self) -> None:
        tasks = {name: self.loop.spawn(name, self.replica(name)) for name in "abc"}
        for number in range(6):
            await self.loop.pass_turns(self.random.randrange(200))
            alive = [name for name in tasks if not tasks[name].done()]
            if not alive:
                break
            name = self.random.choice(alive)
            if self.random.random() < 0.4:
                self.loop.kill(name)
                self.unknown += self.under_way.get(name, 0)
                del tasks[name]
                again = f"{name}{number}"
                tasks[again] = self.loop.spawn(again, self.replica(again))
            else:
                self.loop.pause(name)
                await asyncio.sleep(self.random.random() * 5)
                if any(raw.in_transaction for raw in self.sqlite.connections_of(name)):
                    self.sqlite.drop(name)
                await asyncio.sleep(self.random.random() * 5)
                self.loop.resume(name)
        await asyncio.gather(*tasks.values())


def counted(path: Path, seed: int) -> tuple[Counting, int, int]:
    with sqlite3.connect(path) as fresh:
        fresh.execute("UPDATE counters SET n = 0")
    fresh.close()
    with SimulatedLoop(Random(seed), max_s=3600) as loop, InlineSqlite(loop) as sqlite:
        counting = Counting(loop, sqlite, path, seed)
        loop.run(counting.world())
        assert loop.unhandled == []
        with sqlite3.connect(path) as checked:
            (n,) = checked.execute("SELECT n FROM counters").fetchone()
        checked.close()
        return counting, n, loop.fingerprint


def test_no_update_is_lost_when_replicas_are_stopped(path):
    locked = dropped = unknown = unanswered = 0
    for seed in range(100):
        counting, n, _ = counted(path, seed)
        assert counting.acknowledged <= n <= counting.acknowledged + counting.unknown, seed
        locked += counting.locked
        dropped += counting.dropped
        unknown += counting.unknown
        unanswered += n - counting.acknowledged
    assert locked, "no call waited too long"
    assert dropped, "no connection was dropped in a transaction"
    assert unknown > unanswered > 0, "kills hit before and after the commit"


def test_a_seed_replays_with_its_database(path):
    first = [counted(path, seed)[1:] for seed in range(5)]
    assert [counted(path, seed)[1:] for seed in range(5)] == first
    assert len(set(first)) == 5
