"""DescribeJobSubmitInfo and pages of DescribeTask, before TerminateJob or along with it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event

from orchestrator.domain.decisions.capture_coverage import missed
from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.instance_scan import CapturePolicy, CaptureTiming
from orchestrator.domain.model.lifecycle import State
from orchestrator.engine.loops.instance_reader import BACKOFF_BASE_S
from orchestrator.simulator.traffic.fault_injection import read_faults
from tests.support.loop_scenarios import store_terminable
from tests.support.partition_world import AMPLE, JOB, PartitionWorld, job_ids

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.cloud.transport import HttpAnswer
    from orchestrator.domain.model.instance_scan import InstanceScan
    from orchestrator.store.database.database import Database

POLICY = CapturePolicy()
SUBMIT_INFO, PAGE = "DescribeJobSubmitInfo", "DescribeTask"


@pytest.fixture
def world(database: Database) -> PartitionWorld:
    return PartitionWorld(database, quotas=AMPLE, capture=POLICY)


async def known(world: PartitionWorld, job_id: str = JOB) -> InstanceScan:
    capture = (await world.termination(job_id)).captures.machines
    assert capture is not None
    return capture


async def test_a_small_job_is_called_once_its_machines_are_captured(world: PartitionWorld) -> None:
    await store_terminable(world, JOB)
    assert await world.dispatch() == POLICY.before_max_s
    for _ in range(2):
        assert world.called("TerminateJob") == []
        await world.capture()
    assert (world.called(SUBMIT_INFO), world.called(PAGE)) == ([JOB], [JOB])
    await world.dispatch()
    assert world.called("TerminateJob") == [JOB]
    stopped = await world.termination(JOB)
    assert missed(stopped) is None
    assert (stopped.machines.total, stopped.machines.gone) == (10, 0)


async def test_the_database_is_not_read_while_no_call_may_be_sent(database: Database) -> None:
    world = PartitionWorld(database, quotas=AMPLE | {SUBMIT_INFO: 1, PAGE: 1}, capture=POLICY)
    await store_terminable(world, *job_ids(3))
    reads = list[str]()

    @event.listens_for(database.dialect.readers.sync_engine, "before_cursor_execute")
    def on_execute(_: Any, __: Any, statement: str, *___: Any) -> None:
        reads.append(statement)

    await world.capture()
    await world.capture()
    assert (len(world.called(SUBMIT_INFO)), len(world.called(PAGE))) == (1, 1)
    reads.clear()
    wait_s = await world.capture()
    assert reads == []
    assert wait_s == pytest.approx(1, abs=0.1)
    world.clock.advance(wait_s)
    await world.capture()
    assert len(world.called(SUBMIT_INFO)) + len(world.called(PAGE)) > 2


async def test_instances_are_stored_as_the_cloud_shows_them(world: PartitionWorld) -> None:
    await store_terminable(
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


async def test_an_idle_permit_goes_to_a_job_that_cannot_be_captured_in_time(
    database: Database,
) -> None:
    world = PartitionWorld(database, quotas=AMPLE | {SUBMIT_INFO: 1}, capture=POLICY)
    in_time = 1 + int(POLICY.before_max_s)
    jobs = job_ids(in_time + 2)
    await store_terminable(world, *jobs)
    assert await world.dispatch() == 0
    assert await world.dispatch() == 0
    assert await world.dispatch() == pytest.approx(POLICY.before_max_s, abs=0.1)
    assert world.called("TerminateJob") == jobs[in_time:]
    for _ in range(2):
        await world.capture()
    await world.dispatch()
    assert world.called("TerminateJob") == [*jobs[in_time:], jobs[0]]


async def test_no_job_overtakes_where_captures_are_as_fast_as_calls(database: Database) -> None:
    world = PartitionWorld(database, quotas=AMPLE, capture=POLICY)
    await store_terminable(world, *job_ids(100))
    assert await world.dispatch() > 0
    assert world.called("TerminateJob") == []


async def test_a_single_job_waits_for_its_capture_however_slow_captures_are(
    database: Database,
) -> None:
    policy = replace(POLICY, before_max_s=0.4)
    world = PartitionWorld(database, quotas=AMPLE | {SUBMIT_INFO: 1}, capture=policy)
    await store_terminable(world, JOB)
    assert await world.dispatch() == pytest.approx(0.4, abs=0.1)
    assert world.called("TerminateJob") == []


async def test_a_large_job_is_called_meanwhile(world: PartitionWorld) -> None:
    await store_terminable(world, JOB, instances=POLICY.before_max_instances + 1, drain_s=3600.0)
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
    world = PartitionWorld(database, quotas=AMPLE, capture=CapturePolicy(when=CaptureTiming.BEFORE))
    await store_terminable(world, JOB, instances=2500, tasks=2)
    for _ in range(1 + 2 * 2):
        assert await world.dispatch() == POLICY.before_max_s
        await world.capture()
    await world.dispatch()
    assert world.called("TerminateJob") == [JOB]
    assert len(world.called(PAGE)) == 2 * 2
    assert (await known(world)).captured == 2500
    assert missed(await world.termination(JOB)) is None


async def test_a_job_without_capture_is_called_at_once(database: Database) -> None:
    world = PartitionWorld(database, quotas=AMPLE)
    await store_terminable(world, JOB)
    await world.dispatch()
    assert world.called("TerminateJob") == [JOB]
    assert missed(await world.termination(JOB)) == "its machines were not captured"


# --- failures ------------------------------------------------------------------------------------


async def test_a_read_that_failed_is_made_again_later(database: Database) -> None:
    faults = {SUBMIT_INFO: {"lost_answer": {"first_n": 1}}, PAGE: {"lost_answer": {"first_n": 1}}}
    world = PartitionWorld(database, quotas=AMPLE, capture=POLICY, faults=faults)
    await store_terminable(world, JOB)
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


async def test_a_job_that_may_not_be_read_is_called_without_a_capture(
    world: PartitionWorld,
) -> None:
    await store_terminable(world, JOB)
    world.cloud_runs(JOB, forbidden=True)
    waited_s = 0
    while not world.called("TerminateJob"):
        await world.capture()
        world.clock.advance(1)
        waited_s += 1
        await world.dispatch()
    assert waited_s == POLICY.before_max_s, "no longer than for any capture"
    assert len(world.called(SUBMIT_INFO)) >= 2
    assert "UnauthorizedOperation" in str(missed(await world.termination(JOB)))


@pytest.mark.parametrize("action", [SUBMIT_INFO, PAGE])
async def test_one_refusal_for_lack_of_permission_ends_no_capture(
    database: Database, action: str
) -> None:
    """A new permission takes seconds to spread, and a capture is made only once."""
    faults = {action: {"forbidden": {"first_n": 1}}}
    world = PartitionWorld(database, quotas=AMPLE, capture=POLICY, faults=faults)
    await store_terminable(world, JOB)
    while not world.called(action):
        await world.capture()
    postponed = await known(world)
    assert (postponed.failures, postponed.ended_at) == (1, None)
    assert postponed.problem is not None
    assert postponed.problem.code == "UnauthorizedOperation"
    assert math.isinf(await world.capture()), "not before its time"
    assert world.called(action) == [JOB]
    await world.dispatch()
    assert world.called("TerminateJob") == [], "TerminateJob still waits for it"
    world.clock.advance(BACKOFF_BASE_S)
    for _ in range(2):
        await world.capture()
    await world.dispatch()
    assert world.called("TerminateJob") == [JOB]
    stopped = await world.termination(JOB)
    assert (missed(stopped), stopped.machines.total) == (None, 10)


@pytest.mark.parametrize("name", ["task-instance-state", "task-instance-type"])
async def test_either_name_of_the_filter_will_do(database: Database, name: str) -> None:
    world = PartitionWorld(database, quotas=AMPLE, capture=POLICY, filter_name=name)
    await store_terminable(world, JOB, mix={"SUCCEED": 0.5})
    for _ in range(3):
        await world.capture()
        world.clock.advance(BACKOFF_BASE_S)
    assert len(await world.instances(JOB)) == 5
    assert missed(await world.termination(JOB)) is None


BREAK_CAPTURES = """CREATE TRIGGER broken BEFORE INSERT ON instances
BEGIN SELECT RAISE(ABORT, 'broken'); END"""


async def test_a_capture_that_cannot_be_written_keeps_nothing_else_from_being_captured(
    world: PartitionWorld,
) -> None:
    broken, other = job_ids(2)
    await store_terminable(world, broken)
    await world.capture()
    await world.execute(BREAK_CAPTURES)
    await world.capture()
    await world.execute("DROP TRIGGER broken")
    assert (await known(world, broken)).problem is not None
    await store_terminable(world, other)
    await world.capture()
    await world.capture()
    assert missed(await world.termination(other)) is None
    assert world.called(PAGE) == [broken, other]


async def test_pages_without_end_are_neither_read_nor_stored(
    world: PartitionWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store_terminable(world, JOB, instances=1010)
    await world.capture()
    post = world.network.post

    async def endless(url: str, **request: Any) -> HttpAnswer:
        answer = await post(url, **request)
        document = json.loads(answer.body)
        first = json.loads(request["body"])["Offset"]
        row = document["Response"]["TaskInstanceSet"][0]
        document["Response"]["TaskInstanceSet"] = [
            row | {"TaskInstanceIndex": first + place} for place in range(1000)
        ]
        return replace(answer, body=json.dumps(document).encode())

    monkeypatch.setattr(world.network, "post", endless)
    for _ in range(5):
        await world.capture()
    assert len(world.called(PAGE)) == 2
    assert len(await world.instances(JOB)) == 1000
    assert "Client.TooManyInstances" in str(missed(await world.termination(JOB)))


# --- concurrent calls ----------------------------------------------------------------------------


async def test_a_capture_continues_where_another_process_stopped(database: Database) -> None:
    world = PartitionWorld(database, quotas=AMPLE, capture=CapturePolicy(when=CaptureTiming.BEFORE))
    await store_terminable(world, JOB, instances=2500)
    for _ in range(2):
        await world.capture()
    world.start()
    world.clock.advance(1)
    for _ in range(2):
        await world.capture()
    assert len(world.called(SUBMIT_INFO)) == 1
    assert len(world.called(PAGE)) == 3
    assert len(await world.instances(JOB)) == 2500


async def test_a_stopped_job_shows_no_machines(world: PartitionWorld) -> None:
    await store_terminable(world, JOB)
    await world.know(JOB, state=State.SETTLING, job_state=JobState.FAILED, evidence=3)
    await world.capture()
    assert world.called(SUBMIT_INFO) == []
    assert "had ended before" in str(missed(await world.termination(JOB)))
    await world.capture()
    assert (await known(world)).ended_at == world.clock.now()


async def test_a_job_that_runs_again_is_captured_again_on_other_machines(
    world: PartitionWorld,
) -> None:
    await store_terminable(world, JOB, drain_s=1.0, revive_after_s=1.0)
    await world.capture()
    await world.capture()
    await world.dispatch()
    world.clock.advance(3)
    await world.know(JOB, run=2, state=State.DRAINING, first_sent_at=None)
    await world.capture()
    await world.capture()
    again = await world.termination(JOB)
    assert (again.machines.total, (await known(world)).captured) == (20, 10)
    assert len({row.machine_id for row in await world.instances(JOB)}) == 20


@pytest.mark.parametrize("again", [{"drain_s": 1.0, "revive_after_s": 1.0}, {"drain_s": 100.0}])
async def test_it_is_captured_again_before_it_is_called_again(
    world: PartitionWorld, again: dict[str, Any]
) -> None:
    await store_terminable(world, JOB, again="ok", **again)
    await world.capture()
    await world.capture()
    await world.dispatch()
    world.clock.advance(3)
    now = world.clock.now()
    await world.know(JOB, run=2, state=State.DRAINING, first_sent_at=None, terminate_after=now)
    for _ in range(2):
        await world.dispatch()
        assert world.called("TerminateJob") == [JOB]
        await world.capture()
    await world.dispatch()
    assert world.called("TerminateJob") == [JOB, JOB]
    assert missed(await world.termination(JOB)) is None


async def test_nodes_are_counted_once_and_are_no_machines_to_wait_for(
    world: PartitionWorld,
) -> None:
    await store_terminable(world, JOB, env_id="env-example1")
    await world.capture()
    await world.capture()
    found = await world.termination(JOB)
    assert (found.machines.total, (await known(world)).nodes) == (0, 10)
    assert {row.machine for row in await world.instances(JOB)} == {"node"}


async def test_a_read_under_way_is_not_made_a_second_time(world: PartitionWorld) -> None:
    """Neither a step during the call nor one whose rows were read before its end repeats it."""
    await store_terminable(world, JOB)
    held = world.network.hold(SUBMIT_INFO)
    await world.instance_reader.step()
    await world.network.arrival(SUBMIT_INFO)
    await world.instance_reader.step()
    read = world.store.instances.to_read

    async def answered_meanwhile(now: datetime, limit: int) -> Any:
        found = await read(now, limit)
        held.set()
        await world.ended(world.instance_reader)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.store.instances, "to_read", answered_meanwhile)
        await world.capture()
    assert (world.called(SUBMIT_INFO), world.called(PAGE)) == ([JOB], [])
    await world.capture()
    assert (world.called(SUBMIT_INFO), world.called(PAGE)) == ([JOB], [JOB])


async def test_a_job_is_read_for_one_purpose_at_a_time(world: PartitionWorld) -> None:
    """Both its capture and a rescan of its live instances are due."""
    await store_terminable(world, JOB)
    await world.records.ask_for_instances((await world.termination(JOB)).id)
    await world.capture()
    found = await world.termination(JOB)
    assert (found.captures.machines is None, found.captures.rescan) == (False, None)
    assert world.called(SUBMIT_INFO) == [JOB]


async def test_a_job_whose_submission_was_not_read_before_its_call_is_compared_with_it_at_last(
    world: PartitionWorld,
) -> None:
    """The cloud counts four of its five instances; the fifth is still live."""
    refused = {SUBMIT_INFO: {"throttle": 1.0}}
    world.simulator.faults.replace(read_faults(refused), now=world.simulator.now())
    lie = {"counted_max": 4, "immortal": 1, "failed_early_s": 1e3, "next_action_hidden": True}
    await store_terminable(world, JOB, instances=5, drain_s=3.0, **lie)
    await world.capture()
    world.clock.advance(POLICY.before_max_s)
    await world.dispatch()
    await world.polled(5)
    await world.capture()
    assert (await world.termination(JOB)).state is State.SETTLING
    assert (await known(world)).problem is not None
    world.simulator.faults.replace({}, now=world.simulator.now())
    for _ in range(5):
        await world.polled(10)
    found = await world.termination(JOB)
    assert found.problem is not None
    assert (found.state, found.problem.code) == (State.DRAINING, "Client.CountTooLow")
