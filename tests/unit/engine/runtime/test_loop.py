"""Runner of a loop: a step, a wait that a wake-up shortens, and logged failures."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from typing import TYPE_CHECKING

import pytest

from orchestrator.domain.errors import LeaseLost, StoreUnavailable
from orchestrator.engine.runtime.loop import IDLE_MAX_S, BackgroundTasks, LoopKind, run_until
from tests.support import HANG_S
from tests.support.clock import ManualClock
from tests.support.partition_world import NoJitter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Steps:
    """A loop with scripted steps; the step after them lasts until the end."""

    kind = LoopKind.JOB_TERMINATOR
    name = "the loop"

    def __init__(self, *script: float | Exception) -> None:
        self.wake = asyncio.Event()
        self.taken = 0
        self.wake_in_step = False
        self.over = asyncio.Event()
        self.go_on = asyncio.Event()
        self._script = list(script)

    async def step(self) -> float:
        self.taken += 1
        if not self._script:
            self.over.set()
            await self.go_on.wait()
            return 0.0
        if self.wake_in_step:
            self.wake.set()
        result = self._script.pop(0)
        if isinstance(result, Exception):
            raise result
        return result


async def idle() -> None:
    """Let all tasks run until each waits for the clock or for an event."""
    for _ in range(10):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def running(steps: Steps, clock: ManualClock) -> AsyncIterator[None]:
    """Run the loop during the block; assert that it then ends by itself."""
    stop = asyncio.Event()
    async with asyncio.timeout(HANG_S), asyncio.TaskGroup() as group:
        group.create_task(run_until(stop, steps, clock, NoJitter(), {}))
        try:
            yield
        finally:
            stop.set()
            steps.go_on.set()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def test_the_next_step_is_taken_when_its_time_has_come(clock: ManualClock) -> None:
    steps = Steps(3.0, 1.5)
    async with running(steps, clock):
        assert await clock.waits.get() == 3.0
        clock.advance(2.9)
        await idle()
        assert steps.taken == 1
        clock.advance(0.1)
        assert await clock.waits.get() == 1.5
        assert steps.taken == 2
        clock.advance(1.5)
        await steps.over.wait()
    assert steps.taken == 3


async def test_a_step_that_asks_for_no_wait_is_followed_at_once(clock: ManualClock) -> None:
    steps = Steps(0.0, 0.0, 0.0)
    async with running(steps, clock):
        await steps.over.wait()
    assert clock.waits.empty()


@pytest.mark.parametrize("wait_s", [math.inf, 60.0])
async def test_a_loop_with_nothing_to_do_steps_again(clock: ManualClock, wait_s: float) -> None:
    steps = Steps(wait_s)
    async with running(steps, clock):
        assert await clock.waits.get() == 5.0
        clock.advance(5.0)
        await steps.over.wait()


@pytest.mark.parametrize("wait_s", [math.inf, 60.0, 1.0])
async def test_a_loop_without_work_steps_only_when_it_is_woken(
    clock: ManualClock, wait_s: float
) -> None:
    steps, stop, has_work = Steps(wait_s, wait_s), asyncio.Event(), iter((False, True))
    async with asyncio.timeout(HANG_S):
        task = asyncio.create_task(
            run_until(stop, steps, clock, NoJitter(), {}, has_work=lambda: next(has_work))
        )
        await idle()
        assert (steps.taken, clock.waits.empty()) == (1, True)
        steps.wake.set()
        assert await clock.waits.get() == min(wait_s, IDLE_MAX_S)
        stop.set()
        await task


async def test_a_wake_up_shortens_the_wait(clock: ManualClock) -> None:
    steps = Steps(3.0)
    async with running(steps, clock):
        await clock.waits.get()
        steps.wake.set()
        await steps.over.wait()
    assert clock.passed_s == 0.0


async def test_a_wake_up_during_a_step_is_not_lost(clock: ManualClock) -> None:
    steps = Steps(3.0)
    steps.wake_in_step = True
    async with running(steps, clock):
        await steps.over.wait()
    assert clock.passed_s == 0.0


async def test_a_wake_up_counts_once(clock: ManualClock) -> None:
    steps = Steps(3.0, 4.0)
    async with running(steps, clock):
        assert await clock.waits.get() == 3.0
        steps.wake.set()
        assert await clock.waits.get() == 4.0
        clock.advance(3.9)
        await idle()
        assert steps.taken == 2


async def test_wake_ups_soon_after_a_step_that_reads_many_rows_are_answered_by_one(
    clock: ManualClock,
) -> None:
    steps = Steps(3.0, 0.1)
    steps.kind = LoopKind.JOB_POLLER
    async with running(steps, clock):
        assert await clock.waits.get() == 0.25
        for _ in range(3):
            steps.wake.set()
            await idle()
        assert steps.taken == 1
        clock.advance(0.25)
        await idle()
        assert steps.taken == 2
        assert await clock.waits.get() == 2.75, "it began, and the wake-up ended it"
        assert await clock.waits.get() == 0.1, "work that is due sooner is not delayed"
        clock.advance(0.1)
        await steps.over.wait()


async def test_a_step_that_fails_is_tried_again_after_longer_and_longer(
    clock: ManualClock,
) -> None:
    steps = Steps(*[LookupError("broken")] * 8)
    waits = []
    async with running(steps, clock):
        for _ in range(8):
            waits.append(await clock.waits.get())
            clock.advance(waits[-1])
        await steps.over.wait()
    assert waits == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 5.0]


async def test_failures_are_logged_when_they_begin_and_when_they_end(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    broken, other = LookupError("broken"), LookupError("broken differently")
    steps = Steps(broken, other, broken, 0.0, 0.0, other, 0.0)
    async with running(steps, clock):
        for _ in range(4):
            clock.advance(await clock.waits.get())
        await steps.over.wait()
    logged = [(r.levelname, r.getMessage(), r.exc_info and r.exc_info[1]) for r in caplog.records]
    fails = "the loop has an internal error and is repeated until it works; report this traceback"
    assert logged == [
        ("ERROR", fails, broken),
        ("WARNING", "the loop works again after 3 failures", None),
        ("ERROR", fails, other),
        ("WARNING", "the loop works again after 1 failures", None),
    ]


async def test_an_unusable_database_is_not_logged_here(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The database logs its own outage; the waits grow anyway."""
    full, waits = StoreUnavailable("the disk is full"), list[float]()
    calls = BackgroundTasks[int]("a call", ManualClock(), asyncio.Event())

    async def call() -> None:
        raise full

    steps = Steps(full, full, 0.0)
    async with running(steps, clock):
        for _ in range(2):
            waits.append(await clock.waits.get())
            clock.advance(waits[-1])
        await steps.over.wait()
        calls.start(1, call)
        assert await calls.drain(HANG_S)
    assert waits == [0.5, 1.0]
    assert caplog.records == []


async def test_a_failure_is_logged_after_one_of_the_database(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    full = StoreUnavailable("the disk is full")
    steps = Steps(full, LookupError("broken"), full, 0.0, full, 0.0)
    async with running(steps, clock):
        for _ in range(4):
            clock.advance(await clock.waits.get())
        await steps.over.wait()
    assert [record.getMessage() for record in caplog.records] == [
        "the loop has an internal error and is repeated until it works; report this traceback",
        "the loop works again after 3 failures",
    ]


async def test_a_wake_up_does_not_hurry_what_fails(clock: ManualClock) -> None:
    steps = Steps(LookupError("broken"))
    async with running(steps, clock):
        await clock.waits.get()
        steps.wake.set()
        await idle()
        assert steps.taken == 1


async def test_a_step_that_works_ends_the_longer_waits(clock: ManualClock) -> None:
    broken = LookupError("broken")
    steps = Steps(broken, broken, 0.25, broken)
    waits = []
    async with running(steps, clock):
        for _ in range(4):
            waits.append(await clock.waits.get())
            clock.advance(waits[-1])
        await steps.over.wait()
    assert waits == [0.5, 1.0, 0.25, 0.5]


@pytest.mark.parametrize("last", [3.0, LookupError("broken")], ids=["idle", "failing"])
async def test_a_loop_that_waits_is_stopped_at_once_and_leaves_no_wait_behind(
    clock: ManualClock, last: float | Exception
) -> None:
    before, stop, steps = asyncio.all_tasks(), asyncio.Event(), Steps(last)
    task = asyncio.create_task(run_until(stop, steps, clock, NoJitter(), {}))
    await clock.waits.get()
    stop.set()
    await task
    await asyncio.gather(*asyncio.all_tasks() - before, return_exceptions=True)
    assert asyncio.all_tasks() == before
    assert steps.taken == 1


async def test_a_step_that_passes_over_its_cancellation_is_the_last_one(
    clock: ManualClock,
) -> None:
    """``asyncio.wait_for`` does so on Python 3.11 if the result arrives at the same moment."""
    stop, steps = asyncio.Event(), Steps(0.0, 0.0)
    swallowed = asyncio.Event()

    async def step() -> float:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed.set()
        return 0.0

    steps.step = step  # type: ignore[method-assign]
    task = asyncio.create_task(run_until(stop, steps, clock, NoJitter(), {}))
    await idle()
    stop.set()
    task.cancel()
    async with asyncio.timeout(HANG_S):
        await task
    assert swallowed.is_set()


async def test_a_loop_that_fails_again_and_again_is_known_for_it_until_it_works(
    clock: ManualClock,
) -> None:
    """``failing`` holds its last error; one or two failures do not count."""
    errors = [LookupError(str(number)) for number in range(4)]
    steps, failing = Steps(*errors, 0.0), dict[str, Exception]()
    task = asyncio.create_task(run_until(asyncio.Event(), steps, clock, NoJitter(), failing))
    known = []
    for _ in errors:
        wait_s = await clock.waits.get()
        known.append(failing.get(steps.name))
        clock.advance(wait_s)
    async with asyncio.timeout(HANG_S):
        await steps.over.wait()
    assert known == [None, None, errors[2], errors[3]]
    assert failing == {}
    task.cancel()


async def test_each_step_is_timed_and_those_that_fail_are_counted(clock: ManualClock) -> None:
    """The wait between two steps is no part of either; a lost lease is no failure of a loop."""
    script = (0.25, 1.0), (0.5, LookupError("broken")), (2.0, LeaseLost("taken over")), (4.0, 0.0)
    seconds = [taken_s for taken_s, _ in script]
    steps, recorded = Steps(*[result for _, result in script]), list[tuple[str, float, bool]]()
    step = steps.step

    async def takes_time() -> float:
        if seconds:
            clock.advance(seconds.pop(0))
        return await step()

    steps.step = takes_time  # type: ignore[method-assign]
    on_step = lambda *values: recorded.append(values)  # noqa: E731
    task = asyncio.create_task(
        run_until(asyncio.Event(), steps, clock, NoJitter(), {}, on_step=on_step)
    )
    for _ in range(3):
        clock.advance(await clock.waits.get())
    async with asyncio.timeout(HANG_S):
        await steps.over.wait()
    task.cancel()
    kind = LoopKind.JOB_TERMINATOR
    assert recorded == [
        (kind, 0.25, False),
        (kind, 0.5, True),
        (kind, 2.0, False),
        (kind, 4.0, False),
    ]


async def test_a_loop_that_is_stopped_before_it_runs_takes_no_step(
    clock: ManualClock,
) -> None:
    stop, steps = asyncio.Event(), Steps(0.0)
    stop.set()
    await run_until(stop, steps, clock, NoJitter(), {})
    assert steps.taken == 0


# --- calls beside a loop -------------------------------------------------------------------------


async def test_a_call_that_fails_is_logged_and_fails_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls, done = BackgroundTasks[int]("a call", ManualClock(), asyncio.Event()), asyncio.Event()
    broken = LookupError("broken")

    async def fails() -> None:
        raise broken

    async def works() -> None:
        done.set()

    calls.start(1, fails)
    calls.start(2, works)
    assert await calls.drain(HANG_S) is True
    assert done.is_set()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "a call had an internal error; report this traceback"
    assert record.exc_info is not None
    assert record.exc_info[1] is broken


async def test_the_end_waits_for_every_call_under_way() -> None:
    calls, may_end = BackgroundTasks[int]("a call", ManualClock(), asyncio.Event()), asyncio.Event()
    ended = []

    async def work() -> None:
        await may_end.wait()
        ended.append(True)

    for number in range(3):
        calls.start(number, work)
    ending = asyncio.ensure_future(calls.drain(HANG_S))
    await idle()
    assert (ending.done(), ended) == (False, [])
    may_end.set()
    assert await ending is True
    assert ended == [True] * 3
    assert await calls.drain(HANG_S) is True, "nothing is under way any more"


@pytest.mark.parametrize("error", [None, LookupError("broken"), StoreUnavailable("full")])
async def test_a_call_is_under_way_until_it_ends_which_wakes_the_loop(
    error: Exception | None,
) -> None:
    wake, may_end, clock = asyncio.Event(), asyncio.Event(), ManualClock()
    calls = BackgroundTasks[str]("a call", clock, wake)

    async def work() -> None:
        await may_end.wait()
        if error is not None:
            raise error

    calls.start("job-1", work)
    await idle()
    assert (calls.under_way, wake.is_set()) == ({"job-1"}, False)
    may_end.set()
    async with asyncio.timeout(HANG_S):
        await wake.wait()
    assert calls.under_way == set()
    assert calls.pause_s() == (5.0 if isinstance(error, StoreUnavailable) else 0.0)
    clock.advance(5.0)
    assert calls.pause_s() <= 0


async def test_a_call_that_does_not_end_in_time_is_cut_off() -> None:
    calls, cut_off = BackgroundTasks[int]("a call", ManualClock(), asyncio.Event()), asyncio.Event()

    async def never() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cut_off.set()

    calls.start(1, never)
    await idle()
    assert await calls.drain(0.0) is False
    assert cut_off.is_set()
