"""DescribeJobSubmitInfo and pages of DescribeTask, before a job is called or along with it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.domain.captures import CapturePolicy, When
from orchestrator.domain.coverage import missed
from orchestrator.domain.jobs import JobState
from orchestrator.domain.lifecycle import State
from orchestrator.engine.capturer import BACKOFF_BASE_S
from tests.unit.engine.support import AMPLE, JOB, QUOTAS, World, job_ids

if TYPE_CHECKING:
    from orchestrator.domain.captures import Capture
    from orchestrator.store.database import Database

POLICY = CapturePolicy()
SUBMIT_INFO, PAGE = "DescribeJobSubmitInfo", "DescribeTask"


async def callable_jobs(world: World, *ids: str, **spec: Any) -> None:
    """Have jobs that run and that a sweep has shown to be callable."""
    world.cloud_runs(*ids, **spec)
    await world.submit(*ids, look_at=world.clock.now())
    await world.sweeper.step()


async def known(world: World, job_id: str = JOB) -> Capture:
    capture = (await world.termination(job_id)).capture
    assert capture is not None
    return capture


async def test_a_small_job_is_called_once_its_machines_are_captured(database: Database) -> None:
    world = World(database, quotas=AMPLE, capture=POLICY)
    await callable_jobs(world, JOB)
    assert await world.dispatch() == POLICY.before_max_s
    for _ in range(2):
        assert world.called("TerminateJob") == []
        await world.capture()
    assert (world.called(SUBMIT_INFO), world.called(PAGE)) == ([JOB], [JOB])
    await world.dispatch()
    assert world.called("TerminateJob") == [JOB]
    down = await world.termination(JOB)
    assert missed(down) is None
    assert (down.machines.total, down.machines.gone) == (10, 0)


async def test_what_is_stored_is_what_the_cloud_shows(database: Database) -> None:
    world = World(database, quotas=AMPLE, capture=POLICY)
    await callable_jobs(
        world, JOB, mix={"STARTING": 0.2, "SUCCEED": 0.3, "FAILED_INTERRUPTED": 0.1}
    )
    await world.capture()
    await world.capture()
    stored = await world.instances(JOB)
    assert [(row.task, row.index) for row in stored] == [
        ("task-0", index) for index in (0, 1, 5, 6, 7, 8, 9)
    ]
    assert [row.state for row in stored].count(JobState.STARTING) == 2
    assert {row.machine_id is not None and row.machine_id[:4] for row in stored} == {"ins-"}
    assert {row.observed_at for row in stored} == {world.clock.now()}


async def test_a_large_job_is_called_meanwhile(database: Database) -> None:
    world = World(database, quotas=AMPLE, capture=POLICY)
    await callable_jobs(world, JOB, instances=POLICY.before_max_instances + 1, drain_s=3600.0)
    await world.capture()
    await world.dispatch()
    assert world.called("TerminateJob") == [JOB]
    world.clock.advance(1)
    await world.capture()
    assert len(await world.instances(JOB)) == POLICY.before_max_instances + 1
    assert "counted only after" in str(missed(await world.termination(JOB)))


async def test_a_large_job_is_called_after_its_capture_where_that_is_configured(
    database: Database,
) -> None:
    world = World(database, quotas=AMPLE, capture=CapturePolicy(when=When.BEFORE))
    await callable_jobs(world, JOB, instances=2500, tasks=2)
    for _ in range(1 + 2 * 2):
        assert await world.dispatch() == POLICY.before_max_s
        await world.capture()
    await world.dispatch()
    assert world.called("TerminateJob") == [JOB]
    assert len(world.called(PAGE)) == 2 * 2
    assert (await known(world)).captured == 2500
    assert missed(await world.termination(JOB)) is None


async def test_no_call_waits_for_a_capture_longer_than_it_may(database: Database) -> None:
    world = World(database, quotas=AMPLE, capture=POLICY)
    await callable_jobs(world, JOB)
    held = world.network.hold(SUBMIT_INFO)
    await world.capturer.step()
    world.clock.advance(POLICY.before_max_s - 1)
    assert await world.dispatch() == 1.0
    world.clock.advance(1)
    await world.dispatch()
    assert world.called("TerminateJob") == [JOB]
    held.set()
    await world.ended(world.capturer)


async def test_what_is_not_captured_is_called_at_once(database: Database) -> None:
    world = World(database, quotas=AMPLE)
    await callable_jobs(world, JOB)
    await world.dispatch()
    assert world.called("TerminateJob") == [JOB]
    assert missed(await world.termination(JOB)) == "its machines were not captured"


# --- what goes wrong -----------------------------------------------------------------------------


async def test_a_read_that_failed_is_made_again_later(database: Database) -> None:
    faults = {SUBMIT_INFO: {"lost_answer": {"first_n": 1}}, PAGE: {"lost_answer": {"first_n": 1}}}
    world = World(database, quotas=AMPLE, capture=POLICY, faults=faults)
    await callable_jobs(world, JOB)
    await world.capture()
    assert (await known(world)).failures == 1
    assert math.isinf(await world.capture())
    world.clock.advance(BACKOFF_BASE_S)
    await world.capture()
    assert (await known(world)).failures == 0
    await world.capture()
    assert (await known(world)).failures == 1
    world.clock.advance(BACKOFF_BASE_S)
    await world.capture()
    assert missed(await world.termination(JOB)) is None


async def test_a_job_that_may_not_be_read_is_called_without_a_capture(database: Database) -> None:
    world = World(database, quotas=AMPLE, capture=POLICY)
    await callable_jobs(world, JOB)
    world.cloud_runs(JOB, forbidden=True)
    await world.capture()
    world.cloud_runs(JOB)
    await world.dispatch()
    assert world.called("TerminateJob") == [JOB]
    assert "UnauthorizedOperation" in str(missed(await world.termination(JOB)))


@pytest.mark.parametrize("name", ["task-instance-state", "task-instance-type"])
async def test_either_name_of_the_filter_will_do(database: Database, name: str) -> None:
    world = World(database, quotas=AMPLE, capture=POLICY, filter_name=name)
    await callable_jobs(world, JOB, mix={"SUCCEED": 0.5})
    for _ in range(3):
        await world.capture()
        world.clock.advance(BACKOFF_BASE_S)
    assert len(await world.instances(JOB)) == 5
    assert missed(await world.termination(JOB)) is None


BREAK_CAPTURES = """CREATE TRIGGER broken BEFORE INSERT ON instances
BEGIN SELECT RAISE(ABORT, 'broken'); END"""


async def test_a_capture_that_cannot_be_written_keeps_nothing_else_from_being_captured(
    database: Database,
) -> None:
    world = World(database, quotas=AMPLE, capture=POLICY)
    broken, other = job_ids(2)
    await callable_jobs(world, broken)
    await world.capture()
    await world.execute(BREAK_CAPTURES)
    await world.capture()
    await world.execute("DROP TRIGGER broken")
    assert (await known(world, broken)).problem is not None
    await callable_jobs(world, other)
    await world.capture()
    await world.capture()
    assert missed(await world.termination(other)) is None
    assert world.called(PAGE) == [broken, other]


# --- what goes on meanwhile ----------------------------------------------------------------------


async def test_a_capture_goes_on_where_another_process_left_it(database: Database) -> None:
    world = World(database, quotas=AMPLE, capture=CapturePolicy(when=When.BEFORE))
    await callable_jobs(world, JOB, instances=2500)
    for _ in range(2):
        await world.capture()
    world.start()
    world.clock.advance(1)
    for _ in range(2):
        await world.capture()
    assert len(world.called(SUBMIT_INFO)) == 1
    assert len(world.called(PAGE)) == 3
    assert len(await world.instances(JOB)) == 2500


async def test_captures_are_made_in_the_order_of_the_calls(database: Database) -> None:
    world = World(database, quotas=QUOTAS, capture=POLICY)
    jobs = job_ids(5)
    await callable_jobs(world, *jobs)
    while (await world.termination(jobs[-1])).capture is None:
        await world.capture()
        world.clock.advance(0.5)
    assert world.called(SUBMIT_INFO) == jobs


async def test_a_job_that_is_down_shows_no_machines(database: Database) -> None:
    world = World(database, quotas=AMPLE, capture=POLICY)
    await callable_jobs(world, JOB)
    await world.know(JOB, state=State.SETTLING, job_state=JobState.FAILED, evidence=3)
    await world.capture()
    assert world.called(SUBMIT_INFO) == []
    assert "had ended before" in str(missed(await world.termination(JOB)))
    await world.capture()
    assert (await known(world)).ended_at == world.clock.now()


async def test_a_job_that_runs_again_is_captured_again_on_other_machines(
    database: Database,
) -> None:
    world = World(database, quotas=AMPLE, capture=POLICY)
    await callable_jobs(world, JOB, drain_s=1.0, revive_after_s=1.0)
    await world.capture()
    await world.capture()
    await world.dispatch()
    world.clock.advance(3)
    await world.know(JOB, run=2, state=State.DRAINING, called_at=None)
    await world.capture()
    await world.capture()
    again = await world.termination(JOB)
    assert (again.machines.total, (await known(world)).captured) == (20, 10)
    assert len({row.machine_id for row in await world.instances(JOB)}) == 20


@pytest.mark.parametrize("again", [{"drain_s": 1.0, "revive_after_s": 1.0}, {"drain_s": 100.0}])
async def test_it_is_captured_again_before_it_is_called_again(
    database: Database, again: dict[str, Any]
) -> None:
    world = World(database, quotas=AMPLE, capture=POLICY)
    await callable_jobs(world, JOB, again="ok", **again)
    await world.capture()
    await world.capture()
    await world.dispatch()
    world.clock.advance(3)
    now = world.clock.now()
    await world.know(JOB, run=2, state=State.DRAINING, called_at=None, call_at=now)
    for _ in range(2):
        await world.dispatch()
        assert world.called("TerminateJob") == [JOB]
        await world.capture()
    await world.dispatch()
    assert world.called("TerminateJob") == [JOB, JOB]
    assert missed(await world.termination(JOB)) is None


async def test_nodes_are_counted_once_and_are_no_machines_to_wait_for(database: Database) -> None:
    world = World(database, quotas=AMPLE, capture=POLICY)
    await callable_jobs(world, JOB, env_id="env-example1")
    await world.capture()
    await world.capture()
    found = await world.termination(JOB)
    assert (found.machines.total, (await known(world)).nodes) == (0, 10)
    assert {row.machine for row in await world.instances(JOB)} == {"node"}
