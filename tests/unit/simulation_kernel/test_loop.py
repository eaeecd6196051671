"""The simulated loop keeps asyncio's promises in every order, and kills as SIGKILL does."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from tests.simulation_kernel.loop import (
    DeterminismLeak,
    Killed,
    LimitExceeded,
    SimulatedLoop,
    Stuck,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

SEEDS = range(200)
DAY_S = 24 * 3600.0
ROOT = Path(__file__).parents[3]


def simulated(seed: int = 0, **limits: Any) -> SimulatedLoop:
    return SimulatedLoop(Random(seed), **limits)


@pytest.fixture
def loop() -> Iterator[SimulatedLoop]:
    with simulated() as loop:
        yield loop


def under_all_orders(world: Callable[[SimulatedLoop], Coroutine[Any, Any, Any]]) -> list[Any]:
    """What the world returns, by seed; nothing may be unhandled."""
    results = []
    for seed in SEEDS:
        with simulated(seed) as loop:
            results.append(loop.run(world(loop)))
            assert loop.unhandled == []
    return results


# --- the order -----------------------------------------------------------------------------------


def trace(seed: int) -> str:
    """Everything that three replicas do, with what asyncio keeps in sets."""
    done: list[str] = []

    async def step(name: str) -> None:
        await asyncio.sleep(0.1)
        done.append(name)

    async def replica(name: str) -> None:
        tasks = {asyncio.ensure_future(step(f"{name}{number}")) for number in range(20)}
        _, late = await asyncio.wait(tasks, timeout=0.1)
        for task in late:
            task.cancel()
        async with asyncio.TaskGroup() as group:
            for number in range(5):
                group.create_task(step(f"{name} grouped {number}"))

    async def world(loop: SimulatedLoop) -> None:
        tasks = [loop.spawn(name, replica(name)) for name in "abc"]
        await asyncio.sleep(0.05)
        loop.pause("b")
        await asyncio.sleep(1)
        loop.resume("b")
        await asyncio.gather(*tasks)

    with simulated(seed, story_turns=None) as loop:
        loop.run(world(loop))
        return f"{done}\n{loop.fingerprint}\n{loop.story}"


def trace_elsewhere(seed: int, hash_seed: int) -> str:
    code = f"from {__name__} import trace; print(trace({seed}))"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": str(hash_seed)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def test_a_seed_replays_in_another_process():
    here = trace(7)
    assert trace_elsewhere(7, hash_seed=1) == here
    assert trace_elsewhere(7, hash_seed=2) == here


def test_other_seeds_run_in_other_orders():
    assert len({trace(seed) for seed in range(20)}) == 20


def test_earlier_runs_change_nothing():
    first = trace(3)
    trace(4)
    gc.collect()
    assert trace(3) == first


def test_the_seed_orders_tasks_and_timers():
    async def world(loop: SimulatedLoop) -> tuple[str, str]:
        said: list[str] = []

        async def say(name: str, wait_s: float) -> None:
            await asyncio.sleep(wait_s)
            said.append(name)

        await asyncio.gather(*(say(name, 0) for name in "abc"))
        await asyncio.gather(*(say(name, 1) for name in "abc"))
        return "".join(said[:3]), "".join(said[3:])

    results = under_all_orders(world)
    every = {"abc", "acb", "bac", "bca", "cab", "cba"}
    assert {tasks for tasks, _ in results} == every
    assert {timers for _, timers in results} == every


def test_callbacks_of_one_future_keep_their_order():
    async def world(loop: SimulatedLoop) -> None:
        future = loop.create_future()
        said: list[int] = []

        def say(number: int, _: object) -> None:
            said.append(number)

        for number in range(5):
            future.add_done_callback(partial(say, number))
        task = asyncio.ensure_future(future)
        future.set_result(None)
        future.add_done_callback(partial(say, 5))
        await task
        await asyncio.sleep(1)
        assert said == list(range(6))

    under_all_orders(world)


def test_done_callbacks_of_a_task_run_before_its_awaiter():
    async def world(loop: SimulatedLoop) -> None:
        running: set[asyncio.Task[None]] = set()
        for _ in range(5):
            task = asyncio.ensure_future(asyncio.sleep(0))
            running.add(task)
            task.add_done_callback(running.discard)
            await task
            assert not running

    under_all_orders(world)


def test_call_soon_keeps_its_order_through_a_pause():
    async def world(loop: SimulatedLoop) -> None:
        said: list[int] = []

        async def replica() -> None:
            for number in range(5):
                loop.call_soon(said.append, number)
            loop.pause("a")

        loop.spawn("a", replica())
        await asyncio.sleep(1)
        loop.resume("a")
        await asyncio.sleep(1)
        assert said == list(range(5))

    under_all_orders(world)


def test_a_race_of_result_and_cancel_has_one_end():
    async def world(loop: SimulatedLoop) -> str:
        future: asyncio.Future[str] = loop.create_future()
        event = asyncio.Event()

        async def wait() -> str:
            await event.wait()
            return await future

        async def answer() -> None:
            future.set_result("done")
            event.set()

        waiting = asyncio.ensure_future(wait())
        await asyncio.sleep(1)
        answered = asyncio.ensure_future(answer())
        loop.call_soon(waiting.cancel)
        result, _ = await asyncio.gather(waiting, answered, return_exceptions=True)
        return "cancelled" if isinstance(result, asyncio.CancelledError) else str(result)

    assert set(under_all_orders(world)) == {"done", "cancelled"}


# --- time ----------------------------------------------------------------------------------------


def test_time_passes_while_all_tasks_wait(loop):
    async def world() -> None:
        assert loop.time() == 0
        await asyncio.sleep(DAY_S)
        assert loop.time() == DAY_S
        await asyncio.gather(*(asyncio.sleep(hours * 3600.0) for hours in range(25)))
        assert loop.time() == 2 * DAY_S
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30 * DAY_S):
                await asyncio.Event().wait()
        assert loop.time() == 32 * DAY_S

    loop.run(world())


def test_time_stands_still_while_any_task_runs():
    async def world(loop: SimulatedLoop) -> None:
        tick = asyncio.ensure_future(asyncio.sleep(1e-9))
        for _ in range(1000):
            await asyncio.sleep(0)
        assert not tick.done()
        assert loop.time() == 0
        await tick

    under_all_orders(world)


def test_time_does_not_pass_for_a_timer_without_a_waiter(loop):
    async def world() -> None:
        loop.call_later(DAY_S, print).cancel()
        loop.spawn("a", asyncio.sleep(2 * DAY_S))
        await asyncio.sleep(1)
        loop.kill("a")
        await asyncio.Event().wait()

    with pytest.raises(Stuck):
        loop.run(world())
    assert loop.time() == 1


def test_turns_can_be_awaited(loop):
    async def world() -> None:
        beats: list[float] = []
        ticking = asyncio.ensure_future(beat(loop, beats))
        await loop.pass_turns(100)
        assert 100 <= loop.turns <= 110
        assert len(beats) > 20
        ticking.cancel()
        await loop.pass_turns(1000)
        assert loop.turns < 200, "nothing else was left"

    loop.run(world())


# --- replicas ------------------------------------------------------------------------------------


async def beat(loop: SimulatedLoop, beats: list[float]) -> None:
    while True:
        beats.append(loop.time())
        await asyncio.sleep(1)


def test_a_paused_replica_stands_still_and_then_is_late(loop):
    async def world() -> None:
        mine: list[float] = []
        others: list[float] = []
        alarms: list[float] = []

        async def replica() -> None:
            for after_s in (5, 6, 7, 30):
                loop.call_later(after_s, lambda: alarms.append(loop.time()))
            await asyncio.create_task(beat(loop, mine))

        loop.spawn("a", replica())
        loop.spawn("b", beat(loop, others))
        await asyncio.sleep(2.5)
        loop.pause("a")
        assert loop.is_paused("a")
        await asyncio.sleep(10)
        assert mine == [0, 1, 2]
        assert others == list(range(13))
        loop.resume("a")
        await asyncio.sleep(0.1)
        assert mine == [0, 1, 2, 12.5]
        assert alarms == [12.5, 12.5, 12.5]
        await asyncio.sleep(20)
        assert alarms == [12.5, 12.5, 12.5, 30]

    loop.run(world())


def test_a_paused_replica_takes_what_arrived_meanwhile():
    async def world(loop: SimulatedLoop) -> None:
        answer = loop.create_future()
        got: list[tuple[float, str]] = []

        async def replica() -> None:
            said = await answer
            got.append((loop.time(), said))

        loop.spawn("a", replica())
        await asyncio.sleep(1)
        loop.pause("a")
        answer.set_result("hello")
        await asyncio.sleep(1)
        assert got == []
        loop.resume("a")
        await asyncio.sleep(1)
        assert got == [(2, "hello")]

    under_all_orders(world)


async def wait_for_ever(effects: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        effects.append("lone")


def test_a_kill_runs_no_finally():
    async def world(loop: SimulatedLoop, effects: list[str]) -> None:
        async def inner() -> AsyncIterator[int]:
            try:
                while True:
                    yield 1
                    await asyncio.sleep(1)
            finally:
                effects.append("generator")

        async def child() -> None:
            try:
                async for _ in inner():
                    pass
            finally:
                effects.append("before an await")
                await asyncio.sleep(0)
                effects.append("after an await")

        async def seam() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                loop.require_alive()
                effects.append("seam")

        async def replica() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(child())
                group.create_task(seam())
                group.create_task(beat(loop, []))

        loop.spawn("a", replica())
        loop.spawn("a", wait_for_ever(effects))
        await asyncio.sleep(1)
        await loop.pass_turns(loop.turns % 7)
        loop.kill("a")
        assert loop.is_killed("a")
        gc.collect()
        await asyncio.sleep(DAY_S)
        gc.collect()

    for seed in SEEDS:
        effects: list[str] = []
        with simulated(seed) as loop:
            loop.run(world(loop, effects))
            assert effects == []
            assert loop.unhandled == []
        assert "seam" not in effects
        assert "after an await" not in effects


def test_a_killed_replica_does_nothing_more(recwarn, caplog):
    kept: list[asyncio.Future[Any]] = []

    async def world(loop: SimulatedLoop) -> None:
        async def fail() -> None:
            raise ZeroDivisionError

        async def replica() -> None:
            kept.append(loop.create_future())
            kept[0].set_exception(ZeroDivisionError())
            kept.append(asyncio.ensure_future(fail()))
            await asyncio.sleep(1)
            asyncio.ensure_future(fail())  # noqa: RUF006 - it is to be lost
            loop.pause("a")
            loop.call_soon(print, beat(loop, []))

        loop.spawn("a", replica())
        await asyncio.sleep(2)
        loop.kill("a")
        del kept[0]

    with simulated() as loop:
        loop.run(world(loop))
        assert loop.unhandled == []
    kept.clear()
    gc.collect()
    assert not recwarn.list
    assert not caplog.records


def test_the_end_of_the_run_is_as_quiet(recwarn, caplog):
    effects: list[str] = []

    async def world(loop: SimulatedLoop) -> None:
        async def careful() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                loop.require_alive()
                effects.append("seam")

        async def stubborn() -> None:
            while True:
                try:
                    await asyncio.sleep(1)
                except BaseException:  # noqa: BLE001 - stubborn
                    continue

        loop.spawn("a", beat(loop, []))
        loop.spawn("b", stubborn())
        loop.spawn("c", careful())
        await asyncio.sleep(2)

    with simulated() as loop:
        loop.run(world(loop))
    gc.collect()
    assert not effects
    assert not recwarn.list
    assert not caplog.records


def test_a_replica_can_die_at_a_point_of_its_own(loop):
    effects: list[str] = []

    async def call() -> None:
        await loop.die_here()

    async def replica() -> None:
        try:
            await call()
        finally:
            effects.append("finally")

    async def world() -> None:
        task = loop.spawn("a", replica())
        await asyncio.sleep(1)
        assert loop.is_killed("a")
        assert not task.done()
        assert effects == []

    loop.run(world())


def test_code_of_the_dead_is_refused_by_seams(loop):
    refused: list[str] = []

    async def replica() -> None:
        loop.require_alive()
        loop.kill("a")
        with pytest.raises(Killed):
            loop.require_alive()
        refused.append("dead")

    async def world() -> None:
        loop.require_alive()
        loop.spawn("a", replica())
        await asyncio.sleep(1)
        loop.require_alive()

    loop.run(world())
    assert refused == ["dead"]


def test_a_replica_killed_while_paused_stays_dead(loop):
    beats: list[float] = []

    async def world() -> None:
        loop.spawn("a", beat(loop, beats))
        await asyncio.sleep(1.5)
        loop.pause("a")
        await asyncio.sleep(1)
        loop.kill("a")
        with pytest.raises(ValueError, match="a is not paused"):
            loop.resume("a")
        with pytest.raises(ValueError, match="a is killed"):
            loop.pause("a")
        with pytest.raises(ValueError, match="another name"):
            loop.spawn("a", beat(loop, beats))
        loop.spawn("a again", beat(loop, beats))
        await asyncio.sleep(0.5)

    loop.run(world())
    assert beats == [0, 1, 2.5]


def test_only_a_replica_that_is_there_can_be_stopped(loop):
    with pytest.raises(ValueError, match="no replica a"):
        loop.kill("a")
    with pytest.raises(ValueError, match="a is not paused"):
        loop.resume("a")


# --- unhandled errors ----------------------------------------------------------------------------


def test_waiting_for_ever_is_an_error(loop):
    async def replica() -> None:
        await asyncio.Event().wait()

    async def world() -> None:
        await loop.spawn("a", replica(), name="the waiter")

    with pytest.raises(Stuck, match=r"everything waits for ever(?s:.*)the waiter in .*replica"):
        loop.run(world())


def test_waiting_for_a_paused_replica_is_an_error(loop):
    async def world() -> None:
        task = loop.spawn("a", asyncio.sleep(5))
        await asyncio.sleep(1)
        loop.pause("a")
        await task

    with pytest.raises(Stuck, match=r"at 1.0 s(?s:.*)paused: a"):
        loop.run(world())


def test_turns_and_time_have_a_limit():
    async def spin() -> None:
        for _ in count():
            await asyncio.sleep(0)

    async def idle() -> None:
        for _ in count():
            await asyncio.sleep(60)

    with simulated(max_turns=1000) as loop:
        with pytest.raises(LimitExceeded, match=r"more than 1000 turns(?s:.*)0.000000 s  -: Task"):
            loop.run(spin())
        assert loop.turns == 1001
    with simulated(max_s=DAY_S) as loop:
        with pytest.raises(LimitExceeded, match=r"more than 86400.0 s"):
            loop.run(idle())
        assert loop.time() == DAY_S


def test_operations_that_cannot_be_replayed_are_refused(loop):
    async def world() -> None:
        with pytest.raises(DeterminismLeak, match="run_in_executor"):
            await asyncio.to_thread(print)
        with pytest.raises(DeterminismLeak, match="call_soon_threadsafe"):
            loop.call_soon_threadsafe(print)
        with pytest.raises(DeterminismLeak, match="create_connection"):
            await asyncio.open_connection("localhost", 80)
        with pytest.raises(DeterminismLeak, match="create_server"):
            await asyncio.start_server(print, port=0)
        with pytest.raises(DeterminismLeak, match="subprocess_exec"):
            await asyncio.create_subprocess_exec("true")
        with pytest.raises(DeterminismLeak, match="add_signal_handler"):
            loop.add_signal_handler(15, print)

    loop.run(world())


def test_no_failure_is_lost(loop):
    kept: list[asyncio.Task[None]] = []

    async def fail(what: str) -> None:
        await asyncio.sleep(1)
        raise ValueError(what)

    async def replica() -> None:
        asyncio.ensure_future(fail("unreferenced"))  # noqa: RUF006
        asyncio.get_running_loop().call_later(1, int, "a callback")
        await asyncio.gather(fail("retrieved"), return_exceptions=True)

    async def ring() -> None:
        future: Any = loop.create_future()
        future.itself = future
        future.set_exception(ValueError("in a cycle"))

    async def world() -> None:
        loop.spawn("a", replica())
        loop.spawn("b", ring())
        kept.append(loop.spawn("c", fail("never retrieved")))
        await asyncio.sleep(2)

    loop.run(world())
    unhandled = sorted((each.replica, each.at_s, str(each.exception)) for each in loop.unhandled)
    assert unhandled == [
        ("a", 1.0, "invalid literal for int() with base 10: 'a callback'"),
        ("a", 1.0, "unreferenced"),
        ("b", 2.0, "in a cycle"),
        ("c", 2.0, "never retrieved"),
    ]


def test_an_abandoned_generator_is_closed(loop):
    closed: list[float] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(1)
            closed.append(loop.time())

    async def world() -> None:
        async for _ in numbers():
            break
        await asyncio.sleep(2)

    loop.run(world())
    assert closed == [1]


def test_a_run_leaves_the_collector_as_it_was():
    assert gc.isenabled()
    with simulated():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
