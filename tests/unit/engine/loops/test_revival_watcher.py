"""The revival watcher, one step at a time: the quota it uses, its observations, their effects."""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.cloud import error_codes
from orchestrator.domain.audit.caveats import REVIVED
from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.error_detail import ClientCode
from orchestrator.domain.model.lifecycle import State
from orchestrator.engine.loops.revival_watcher import BACKOFF_MAX_S, COUNT_RETRY_S
from orchestrator.engine.paced_calls import BACKOFF_BASE_S
from orchestrator.simulator.traffic.fault_injection import Fault, Rule
from orchestrator.store.partition.partition_store import PartitionStore
from tests.support.clock import ManualClock
from tests.support.loop_scenarios import step_revival_watcher, verify
from tests.support.operation_records import operation_record
from tests.support.partition_world import (
    AMPLE,
    JOB,
    POLL,
    QUOTAS,
    PartitionWorld,
    job_ids,
)

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.model.termination import Termination
    from orchestrator.store.database.database import Database


async def watched(world: PartitionWorld, seconds: float) -> None:
    """Advance the clock while the revival watcher runs."""
    until = world.clock.passed_s + seconds
    while (left_s := until - world.clock.passed_s) > 0:
        wait_s = await step_revival_watcher(world)
        world.clock.advance(min(left_s, wait_s or 0.001, 5.0))
    await step_revival_watcher(world)


async def revivals(world: PartitionWorld, job_id: str = JOB) -> list[dict[str, Any]]:
    """Return the facts of the revival events."""
    found = await world.termination(job_id)
    events = await world.records.events(
        after=0, limit=100, operation_id=None, termination_id=found.id
    )
    return [dict(event.facts or {}) for event in events if event.type == REVIVED]


def polls(world: PartitionWorld) -> list[tuple[str, ...]]:
    return [call.job_ids for call in world.calls("DescribeJobs")]


# --- observations --------------------------------------------------------------------------------


async def test_a_revived_job_is_recorded_and_watched_no_longer(world: PartitionWorld) -> None:
    await verify(world, JOB, revive_after_s=90.0)
    await watched(world, 80)
    assert await revivals(world) == []
    assert (await world.termination(JOB)).watch.revival is None
    await watched(world, 70)
    (revival,) = await revivals(world)
    after = await world.termination(JOB)
    assert after.watch.revival is not None
    assert (after.state, after.evidence) == (State.VERIFIED, 3)
    assert (revival["job_state"], after.watch.revival.job_state) == ("RUNNING", JobState.RUNNING)
    assert after.watch.checked_at is None
    calls = len(polls(world))
    await watched(world, 600)
    assert len(polls(world)) == calls
    operation = await operation_record(world.records, "op_1")
    assert operation is not None
    assert operation.revived == 1


async def test_a_job_that_ran_again_and_ended_between_two_polls_is_found_by_its_end_time(
    world: PartitionWorld,
) -> None:
    """A later run is recorded as well."""
    await verify(world, JOB, revive_after_s=70.0, revivals=2)
    (job,) = world.simulator._jobs.values()
    world.clock.advance(80.0)
    job.advance(world.clock.now().timestamp())
    job.terminate(world.clock.now().timestamp())
    world.clock.advance(12)
    await step_revival_watcher(world)
    (revival,) = await revivals(world)
    assert revival["job_state"] == "FAILED"
    assert revival["job_end_time"] != (await world.termination(JOB)).job.end_time
    assert (await world.termination(JOB)).watch.checked_at is not None
    await watched(world, 140)
    assert [each["job_state"] for each in await revivals(world)] == ["FAILED", "RUNNING"]


async def test_a_deleted_job_is_watched_to_the_end_and_says_nothing(
    world: PartitionWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """A response without the job does not prove that it was deleted."""
    await verify(world, JOB, asked={"revival_watch_s": 600.0}, vanish_after_s=30.0)
    await watched(world, 590)
    assert (await world.termination(JOB)).watch.checked_at is not None
    assert world.called("DescribeJob") == []
    await watched(world, 120)
    assert (await world.termination(JOB)).watch.checked_at is None
    assert len(polls(world)) == 11
    assert world.called("DescribeJob") == [JOB]
    assert await revivals(world) == []
    assert not caplog.messages


async def test_the_watch_ends_with_a_poll_at_its_end_even_if_late(world: PartitionWorld) -> None:
    await verify(world, JOB, asked={"revival_watch_s": 100.0})
    await watched(world, 110)
    assert len(polls(world)) == 2
    assert (await world.termination(JOB)).watch.checked_at is not None
    world.clock.advance(5000)
    await watched(world, 1000)
    assert len(polls(world)) == 3
    assert (await world.termination(JOB)).watch.checked_at is None


async def test_another_process_watches_on(world: PartitionWorld) -> None:
    await verify(world, JOB, revive_after_s=90.0)
    await watched(world, 70)
    world.start()
    world.clock.advance(1)
    await watched(world, 70)
    assert len(await revivals(world)) == 1


# --- doubts that DescribeJobs leaves -------------------------------------------------------------

SHORT: dict[str, Any] = {"revival_watch_s": 300.0}


async def test_an_instance_that_runs_again_under_a_failed_job_is_found_by_the_count_at_the_end(
    world: PartitionWorld,
) -> None:
    jobs = job_ids(3)
    await verify(world, *jobs[:2], asked=SHORT, relapse_after_s=100.0)
    await verify(world, jobs[2], asked=SHORT)
    await watched(world, 290)
    assert world.called("DescribeJob") == []
    assert [await revivals(world, job_id) for job_id in jobs] == [[], [], []]
    await watched(world, 120)
    assert sorted(world.called("DescribeJob")) == jobs, "one call a job"
    for job_id in jobs[:2]:
        (revival,) = await revivals(world, job_id)
        assert (revival["job_state"], revival["instances_live"]) == ("FAILED", 1)
    assert await revivals(world, jobs[2]) == []
    for job_id in jobs:
        ended = await world.termination(job_id)
        assert (ended.state, ended.watch.checked_at) == (State.VERIFIED, None)
    await watched(world, 600)
    assert len(world.calls("DescribeJob")) == 3


@pytest.mark.parametrize("relapses", [True, False])
async def test_a_job_that_lost_its_end_time_is_counted_at_once(
    world: PartitionWorld, monkeypatch: pytest.MonkeyPatch, *, relapses: bool
) -> None:
    await verify(world, JOB, relapse_after_s=30.0 if relapses else None)
    assert (await world.termination(JOB)).job.end_time is not None
    (job,) = world.simulator._jobs.values()
    monkeypatch.setattr(type(job), "end_time", lambda *_: None)
    await watched(world, 65)
    assert world.called("DescribeJob") == [JOB]
    assert [revival["instances_live"] for revival in await revivals(world)] == [1] * relapses
    assert ((await world.termination(JOB)).watch.checked_at is None) == relapses


async def test_the_result_of_a_count_is_written_although_time_passes_meanwhile(
    world: PartitionWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await verify(world, JOB, asked=SHORT, relapse_after_s=100.0)
    now = ManualClock.now

    def running(clock: ManualClock) -> datetime:
        clock.passed_s += 0.001
        return now(clock)

    monkeypatch.setattr(ManualClock, "now", running)
    await watched(world, 330)
    assert world.called("DescribeJob") == [JOB]
    assert len(await revivals(world)) == 1


async def test_a_job_that_revived_while_its_count_waited_is_not_counted(
    world: PartitionWorld,
) -> None:
    await verify(world, JOB, asked=SHORT, revive_after_s=330.0)
    world.partition.proofs_wait = True
    await watched(world, 400)
    assert len(await revivals(world)) == 1
    world.partition.proofs_wait = False
    await watched(world, 100)
    assert world.called("DescribeJob") == []


async def test_no_job_is_counted_while_a_proof_waits(world: PartitionWorld) -> None:
    await verify(world, JOB, asked=SHORT, relapse_after_s=100.0)
    world.partition.proofs_wait = True
    await watched(world, 600)
    assert world.called("DescribeJob") == []
    world.partition.proofs_wait = False
    await watched(world, COUNT_RETRY_S)
    assert world.called("DescribeJob") == [JOB]
    assert len(await revivals(world)) == 1


async def test_no_job_is_counted_without_a_permit(database: Database) -> None:
    world = PartitionWorld(database, quotas=QUOTAS | {"DescribeJob": 1})
    await verify(world, *job_ids(3), asked=SHORT)
    await watched(world, 310)
    spent_at = world.partition.limiters["DescribeJob"].take()
    assert spent_at is not None
    before = len(world.calls("DescribeJob"))
    await world.revival_watcher.step()
    assert len(world.calls("DescribeJob")) == before
    await watched(world, 100)
    at_s = world.arrivals_s("DescribeJob")
    assert len(at_s) == 3
    assert all(later - earlier >= 1.0 for earlier, later in pairwise(at_s))


@pytest.mark.parametrize("fault", [Fault.INTERNAL_ERROR, Fault.LOST_ANSWER])
async def test_a_count_that_failed_is_made_again(world: PartitionWorld, fault: Fault) -> None:
    await verify(world, JOB, asked=SHORT, relapse_after_s=100.0)
    fails = {"DescribeJob": [Rule(fault, 1.0, first_n=2)]}
    world.simulator.faults.replace(fails, now=0)
    await watched(world, 900)
    assert len(world.calls("DescribeJob")) == 3
    (revival,) = await revivals(world)
    assert revival["instances_live"] == 1


async def test_a_job_that_one_answer_leaves_out_stays_watched(world: PartitionWorld) -> None:
    await verify(world, JOB, revive_after_s=90.0)
    fails = {"DescribeJobs": [Rule(Fault.NOT_FOUND, 1.0, first_n=1)]}
    world.simulator.faults.replace(fails, now=0)
    before = len(polls(world))
    await watched(world, 70)
    assert len(polls(world)) == before + 1
    assert await revivals(world) == []
    await watched(world, 60)
    assert len(await revivals(world)) == 1


# --- quota ---------------------------------------------------------------------------------------


async def test_a_hundred_are_read_by_one_call_once_a_minute(world: PartitionWorld) -> None:
    ids = job_ids(150)
    await verify(world, *ids)
    before = len(polls(world))
    await watched(world, 65)
    made = polls(world)[before:]
    assert sorted(len(call) for call in made) == [50, 100]
    assert sorted(job_id for call in made for job_id in call) == ids
    first_at, second_at = world.arrivals_s("DescribeJobs")[before:]
    assert second_at - first_at >= 1.0


async def test_a_bulk_is_polled_as_if_nothing_were_watched(database: Database) -> None:
    """5,000 jobs are polled first; the watched jobs of yesterday only after them."""
    bulk = [f"job-bulk{number:04}" for number in range(5000)]
    world = PartitionWorld(database)
    await verify(world, JOB, *job_ids(120)[1:])
    await watched(world, 30)
    world.clock.advance(100)
    world.cloud_runs(*bulk, instances=1)
    before, began_s = len(polls(world)), world.clock.passed_s
    for start in range(0, len(bulk), 1000):
        await world.submit(*bulk[start : start + 1000])
    while len(polls(world)) < before + 50:
        wait_s = await world.job_poller.step()
        # The watcher tries whenever it can.
        await world.revival_watcher.step()
        world.clock.advance(wait_s)
        await world.revival_watcher.step()
    made = polls(world)[before:]
    assert {job_id[:8] for call in made for job_id in call} == {"job-bulk"}
    assert sum(len(call) for call in made) == len(bulk)
    assert world.clock.passed_s - began_s == pytest.approx(24, abs=0.1), "two a second"
    await world.job_poller.step()
    await watched(world, 10)
    assert JOB in {job_id for call in polls(world)[before + 50 :] for job_id in call}


async def test_the_only_permit_goes_to_the_loop_that_waits_for_it(database: Database) -> None:
    """At one call a second, the watcher has just made one when a job is submitted."""
    world = PartitionWorld(database, quotas=QUOTAS | {"DescribeJobs": 1})
    ids = job_ids(201)
    await verify(world, *ids[:200])
    world.clock.advance(100)
    await world.job_poller.step()
    assert await world.revival_watcher.step() == 1.0
    new = ids[200]
    world.cloud_runs(new)
    await world.submit(new)
    assert await world.job_poller.step() > 0, "no permit is left"
    world.clock.advance(1.0)
    assert await world.revival_watcher.step() > 0
    await world.job_poller.step()
    assert polls(world)[-1] == (new,)


async def test_no_permit_is_spent_before_the_job_poller_has_polled(world: PartitionWorld) -> None:
    await verify(world, JOB)
    world.start()
    world.clock.advance(500)
    assert await world.revival_watcher.step() > 0
    assert len(polls(world)) == 1


async def test_it_yields_to_a_job_poll_that_begins_while_it_reads(database: Database) -> None:
    """Both use one quota, and the job poller has just taken its last permit."""

    class Meanwhile(PartitionStore):
        async def due_for_revival_check(
            self, looked_before: datetime, limit: int
        ) -> list[Termination]:
            rows = await super().due_for_revival_check(looked_before, limit)
            world.cloud_runs(new)
            await world.submit(new)
            await world.job_poller.step()
            return rows

    world = PartitionWorld(database, quotas=QUOTAS | {"DescribeJobs": 1}, store=Meanwhile)
    old, new = job_ids(2)
    await verify(world, old)
    world.clock.advance(100)
    await world.job_poller.step()
    assert await world.revival_watcher.step() > 0
    assert polls(world)[-1] == (new,)


# --- failures ------------------------------------------------------------------------------------


async def test_it_backs_off_from_a_failing_cloud_and_continues(world: PartitionWorld) -> None:
    await verify(world, JOB, revive_after_s=20.0)
    before = len(world.simulator.calls)
    world.simulator.faults.replace({"*": [Rule(Fault.INTERNAL_ERROR, 1.0)]}, now=0)
    await watched(world, 600)
    failed = len(world.simulator.calls) - before
    assert 8 <= failed <= 20, "no more often than once in BACKOFF_MAX_S in the end"
    world.simulator.faults.replace({}, now=0)
    await watched(world, BACKOFF_MAX_S)
    assert len(await revivals(world)) == 1


async def test_each_failure_in_a_row_doubles_the_wait_up_to_a_minute(world: PartitionWorld) -> None:
    await verify(world, JOB)
    world.clock.advance(2 * POLL.stopped_interval_s)
    await world.job_poller.step()
    asked = list[str]()

    async def away(action: str) -> None:
        asked.append(action)
        raise error_codes.error(ClientCode.CONNECT_FAILED, "no answer")

    for failures in (9, 1):
        world.network.before_arrival = away
        for failure in range(failures):
            calls = len(asked)
            wait_s = await world.revival_watcher.step()
            assert wait_s == min(BACKOFF_BASE_S * 2**failure, BACKOFF_MAX_S)
            assert await world.revival_watcher.step() == wait_s, "nothing is sent before that"
            assert asked[calls:] == ["DescribeJobs"]
            await passed(world, wait_s)
        world.network.before_arrival = None
        await world.revival_watcher.step()
        await passed(world, 2 * POLL.stopped_interval_s)


async def passed(world: PartitionWorld, seconds: float) -> None:
    """Advance the clock to a moment at which the job poller has nothing to do."""
    world.clock.advance(seconds)
    await world.job_poller.step()


async def test_one_forbidden_job_is_logged_and_ends_no_other_watch(
    world: PartitionWorld, caplog: pytest.LogCaptureFixture
) -> None:
    bad, *good = job_ids(40)
    await verify(world, *good, revive_after_s=90.0)
    await verify(world, bad)
    job = world.simulator._jobs[bad]
    job.spec = type(job.spec)(job_id=bad, forbidden=True, state="FAILED")
    with caplog.at_level(logging.WARNING):
        await watched(world, 200)
    assert (await world.termination(bad)).watch.checked_at is not None, "it may change"
    assert [len(await revivals(world, job_id)) for job_id in good] == [1] * len(good)
    logged = [message for message in caplog.messages if "watched" in message]
    assert len(logged) == 1
    assert f"{bad} cannot be watched for a revival: UnauthorizedOperation" in logged[0]
    await watched(world, 3600)
    assert (await world.termination(bad)).watch.checked_at is None
    assert await revivals(world, bad) == []


@pytest.mark.parametrize("code", ["InternalError", "ResourceNotFound.Job", ClientCode.BAD_ANSWER])
@pytest.mark.parametrize("place", [0, 20, 39])
async def test_a_job_that_makes_calls_fail_is_counted_and_ends_no_other_watch(
    database: Database, caplog: pytest.LogCaptureFixture, place: int, code: str
) -> None:
    world = PartitionWorld(database, quotas=AMPLE)
    jobs = job_ids(40)
    await verify(world, *jobs, revive_after_s=90.0)
    spoiler = jobs[place]
    world.network.spoil("DescribeJobs", spoiler, code)
    await watched(world, 400)
    assert [len(await revivals(world, job_id)) for job_id in jobs] == [1] * 40
    assert spoiler in world.called("DescribeJob")
    (logged,) = [message for message in caplog.messages if "watched" in message]
    assert f"{spoiler} cannot be watched for a revival: {code}" in logged


# --- terminating again ---------------------------------------------------------------------------

KEPT: dict[str, Any] = {"revival_watch_s": 3600.0, "reterminate_for_s": 1800.0}


async def test_the_job_poller_is_woken_for_the_job_that_is_terminated_again(
    world: PartitionWorld,
) -> None:
    await verify(world, JOB, asked=KEPT, revive_after_s=30.0)
    world.clock.advance(70)
    await world.job_poller.step()
    world.woken()
    await world.revival_watcher.step()
    assert world.woken() == {"batch_polls"}
