"""The loops of a partition run together, and stop."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from orchestrator.domain.errors import CloudError, CloudErrorKind
from orchestrator.domain.model.lifecycle import State
from orchestrator.engine.partition import DEGRADED_AFTER_FAILURES, FORBIDDEN_FOR_S
from orchestrator.engine.replica import partition_runner
from orchestrator.engine.replica.lease_manager import LeaseManager
from orchestrator.engine.replica.partition_runner import PartitionRunner
from orchestrator.engine.runtime.loop import LoopKind
from tests.support import HANG_S
from tests.support.partition_world import AMPLE, JOB, PartitionWorld

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from orchestrator.store.database.database import Database


@asynccontextmanager
async def until_left(loops: PartitionRunner) -> AsyncIterator[None]:
    """Run the loops during the block."""
    async with asyncio.TaskGroup() as group:
        group.create_task(loops.run())
        try:
            yield
        finally:
            loops.stop()


async def at_work(database: Database) -> tuple[PartitionWorld, PartitionRunner]:
    """Return a world with a job that may be terminated now, and the loops that do so."""
    world = PartitionWorld(database, quotas=AMPLE)
    await world.ready(JOB)
    runner = PartitionRunner(world.partition)
    runner.wake()
    return world, runner


async def test_a_call_under_way_ends_and_no_other_starts(database: Database) -> None:
    world, loops = await at_work(database)
    held = world.network.hold("TerminateJob")
    async with asyncio.timeout(HANG_S):
        async with until_left(loops):
            await world.network.arrival("TerminateJob")
            loops.stop()
            later = "job-later001"
            await world.ready(later)
            asyncio.get_running_loop().call_soon(held.set)
        assert await world.outcomes(JOB) == ["accepted"]
    assert (await world.termination(later)).state is State.QUEUED
    assert world.called("TerminateJob") == [JOB]


@pytest.mark.parametrize("action", ["TerminateJob", "DescribeJobs"])
async def test_calls_that_do_not_end_in_time_are_cancelled_and_logged(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    action: str,
) -> None:
    monkeypatch.setattr(partition_runner, "DRAIN_S", 0.3)
    world, loops = await at_work(database)
    await world.know(JOB, next_poll_at=world.clock.now())
    world.network.hold(action)
    async with asyncio.timeout(HANG_S), until_left(loops):
        await world.network.arrival(action)
    assert (
        "API calls of main@cloud were cancelled at the stop; their jobs are read first at the next "
        "start"
    ) in caplog.messages


async def test_each_loop_has_a_kind_of_its_own(database: Database) -> None:
    _, runner = await at_work(database)
    kinds = [LeaseManager.kind, *(loop.kind for loop in runner.loops)]
    assert sorted(kinds) == sorted(LoopKind)


def woken_by(runner: PartitionRunner, act: Callable[[], None]) -> set[str]:
    for loop in runner.loops:
        loop.wake.clear()
    act()
    return {loop.kind for loop in runner.loops if loop.wake.is_set()}


async def test_a_request_wakes_every_loop_unless_there_was_work_already(
    database: Database,
) -> None:
    """Each loop that is woken reads the database, and a hundred requests may come in a second."""
    _, runner = await at_work(database)
    every_loop = {loop.kind for loop in runner.loops}
    assert woken_by(runner, runner.wake) == every_loop
    assert woken_by(runner, runner.on_request) == {
        LoopKind.JOB_POLLER,
        LoopKind.SINGLE_JOB_POLLER,
        LoopKind.INSTANCE_READER,
    }
    runner.update_work(has_work=False, times_woken=runner.times_woken)
    assert woken_by(runner, runner.on_request) == every_loop


async def test_a_health_that_changes_with_time_is_work(database: Database) -> None:
    """An outage ends with a call that works, and calls are made for work only."""
    world, runner = await at_work(database)
    limiter = world.partition.limiters["TerminateJob"]

    def at_rest() -> bool:
        runner.update_work(has_work=False, times_woken=runner.times_woken)
        return not runner.has_work

    assert at_rest()
    outage = CloudError(CloudErrorKind.CREDENTIAL, "AuthFailure.SecretIdNotFound", "unknown")
    await world.partition.record_result(outage, limiter)
    assert at_rest()
    await world.partition.record_result(None, limiter)
    refusal = CloudError(CloudErrorKind.UNAUTHORIZED, "UnauthorizedOperation", "not allowed")
    for _ in range(DEGRADED_AFTER_FAILURES):
        await world.partition.record_result(refusal, limiter)
    assert not at_rest()
    world.clock.advance(FORBIDDEN_FOR_S)
    assert not at_rest(), "its end is not stored"
    await world.partition.publish_health()
    assert at_rest()


async def test_stopped_before_it_began_it_does_nothing(database: Database) -> None:
    world, loops = await at_work(database)
    loops.stop()
    async with asyncio.timeout(HANG_S):
        await loops.run()
    assert world.simulator.calls == []


async def test_cancelled_it_leaves_nothing_running(database: Database) -> None:
    world, loops = await at_work(database)
    world.network.hold("TerminateJob")
    before = asyncio.all_tasks()
    task = asyncio.create_task(loops.run())
    await world.network.arrival("TerminateJob")
    task.cancel()
    async with asyncio.timeout(HANG_S):
        with pytest.raises(asyncio.CancelledError):
            await task
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
