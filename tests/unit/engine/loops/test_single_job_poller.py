"""DescribeJob and DescribeTask, one step at a time: what is read when, and under which quota."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.domain.decisions.unconfirmed_ends import NOT_FOUND_AFTER_S
from orchestrator.domain.model.batch_job import (
    InstanceCounters,
    JobSeen,
    JobState,
    TaskSeen,
    TaskSubmitted,
)
from orchestrator.domain.model.instance_scan import InstanceScan
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.termination import PollKind
from orchestrator.engine.loops.single_job_poller import (
    COUNT_ALL_EVERY_S,
    LAST_COUNT_WAITS_S,
    READS_PER_STEP,
    RECENTLY_VIEWED_COUNT_EVERY_S,
)
from orchestrator.engine.runtime.loop import IDLE_MAX_S
from tests.support import HANG_S
from tests.support.loop_scenarios import COUNTED, DRAINING, TO_PROVE, store_finished
from tests.support.partition_world import (
    AMPLE,
    JOB,
    PARTITION,
    POLL,
    QUOTAS,
    PartitionWorld,
    job_ids,
)

if TYPE_CHECKING:
    from orchestrator.store.database.database import Database

ONE_A_SECOND = QUOTAS | {"DescribeJob": 1, "DescribeTask": 1}
HOUR_S = 3600.0
SETTLING: dict[str, Any] = {"state": State.SETTLING, "evidence": 3}


# --- which job, and when -------------------------------------------------------------------------


async def test_a_job_that_reads_failed_is_proven_stopped_by_its_counters(
    world: PartitionWorld,
) -> None:
    await store_finished(world, JOB, settle_s=30.0)
    await world.probe()
    assert world.called("DescribeJob") == [JOB]
    stopped = await world.termination(JOB)
    assert (stopped.state, stopped.evidence) == (State.SETTLING, 3)
    assert stopped.drain.counters == InstanceCounters(failed=10)
    assert stopped.schedule.settle_until == world.clock.later(30)
    assert (stopped.schedule.poll_kind, stopped.schedule.next_poll_at) == (
        PollKind.BATCH,
        world.clock.later(POLL.settling_interval_s),
    )


async def test_a_finished_job_with_live_instances_is_read_again(world: PartitionWorld) -> None:
    await world.submit(JOB, next_poll_at=world.clock.now(), **TO_PROVE)
    world.cloud_runs(JOB, state="FAILED", mix={"RUNNING": 0.3})
    await world.probe()
    still = await world.termination(JOB)
    assert (still.state, still.evidence) == (State.DRAINING, 2)
    assert still.drain.counters == InstanceCounters(running=3, failed=7)
    assert (still.schedule.poll_kind, still.schedule.next_poll_at) == (
        PollKind.SINGLE,
        world.clock.later(2 * POLL.recount_min_interval_s),
    )


async def test_no_job_is_read_before_it_is_due(world: PartitionWorld) -> None:
    await store_finished(world, JOB, seconds=5)
    assert await world.probe() == 5.0
    world.clock.advance(4)
    assert await world.probe() == 1.0
    assert world.simulator.calls == []
    world.clock.advance(1)
    await world.probe()
    assert world.called("DescribeJob") == [JOB]


async def test_with_no_job_to_read_nothing_is_called(world: PartitionWorld) -> None:
    await world.submit(JOB, next_poll_at=world.clock.later(-1))
    assert math.isinf(await world.probe()), "for the job poller"
    await world.submit("job-elsewhere", partition="other@cloud", poll_kind=PollKind.SINGLE)
    assert math.isinf(await world.probe()), "of another partition"
    assert world.simulator.calls == []


async def test_where_describe_job_is_forbidden_a_job_of_one_task_is_proven_by_describe_task(
    database: Database,
) -> None:
    world = PartitionWorld(database, quotas=AMPLE)
    ids = job_ids(5)
    world.simulator.forbidden_actions = frozenset({"DescribeJob"})
    await store_finished(world, *ids, **COUNTED)
    await world.polled(60)
    states = {(await world.termination(job_id)).state for job_id in ids}
    assert states == {State.VERIFIED}
    assert len(world.called("DescribeJob")) < 10
    assert set(world.called("DescribeTask")) == set(ids)


async def test_the_job_that_is_due_first_is_read_first(database: Database) -> None:
    world = PartitionWorld(database, quotas=ONE_A_SECOND)
    first, second, third = job_ids(3)
    await store_finished(world, second, third)
    await store_finished(world, first, seconds=-1)
    for _ in range(3):
        await world.probe()
        world.clock.advance(1)
    assert world.called("DescribeJob") == [first, second, third]


async def test_more_than_a_steps_worth_is_read_once_each(database: Database) -> None:
    world = PartitionWorld(database, quotas=AMPLE)
    jobs = job_ids(2 * READS_PER_STEP + 5)
    await store_finished(world, *jobs, seconds=-1)
    assert [await world.single_job_poller.step() for _ in range(3)] == [0.0, 0.0, math.inf]
    await world.ended(world.single_job_poller)
    assert sorted(world.called("DescribeJob")) == jobs
    for job_id in jobs:
        assert (await world.termination(job_id)).state is State.SETTLING


async def test_a_steps_worth_of_which_some_are_due_later_waits_for_them(database: Database) -> None:
    world = PartitionWorld(database, quotas=AMPLE)
    *due, later = job_ids(READS_PER_STEP)
    await store_finished(world, *due, seconds=-1)
    await store_finished(world, later, seconds=3)
    assert await world.probe() == 3.0
    assert sorted(world.called("DescribeJob")) == due


async def test_a_job_is_not_read_twice_at_the_same_time(database: Database) -> None:
    world = PartitionWorld(database, quotas=AMPLE)
    await store_finished(world, JOB)
    held = await world.probe_without_answer()
    world.clock.advance(60)
    assert math.isinf(await world.single_job_poller.step())
    held.set()
    await world.ended(world.single_job_poller)
    assert world.called("DescribeJob") == [JOB]


async def test_an_answer_that_is_awaited_keeps_no_other_job_from_being_read(
    world: PartitionWorld,
) -> None:
    slow, other = job_ids(2)
    await store_finished(world, slow, seconds=-1)
    held = await world.probe_without_answer()
    await store_finished(world, other, seconds=-1)
    await world.single_job_poller.step()
    await world.single_job_poller.wake.wait()
    assert (await world.termination(other)).state is State.SETTLING
    assert (await world.termination(slow)).state is State.DRAINING
    held.set()
    await world.ended(world.single_job_poller)
    assert (await world.termination(slow)).state is State.SETTLING


# --- polls that fail -----------------------------------------------------------------------------


async def test_a_job_that_the_cloud_does_not_know_is_not_found(world: PartitionWorld) -> None:
    await world.submit(JOB, poll_kind=PollKind.SINGLE)
    await world.probe()
    gone = await world.termination(JOB)
    assert gone.state is State.QUEUED, "one response is no proof"
    assert gone.problem is not None
    assert gone.problem.code == "ResourceNotFound.Job"
    await world.polled(NOT_FOUND_AFTER_S - 1)
    assert (await world.termination(JOB)).state is State.QUEUED
    await world.polled(1)
    gone = await world.termination(JOB)
    assert (gone.state, gone.finished_at) == (State.NOT_FOUND, world.clock.now())
    assert gone.problem is not None
    assert gone.problem.code == "ResourceNotFound.Job"


async def test_a_failed_read_is_repeated_later(database: Database) -> None:
    world = PartitionWorld(database, faults={"DescribeJob": {"lost_answer": {"first_n": 2}}})
    await store_finished(world, JOB)
    waits = []
    for _ in range(2):
        await world.probe()
        failed = await world.termination(JOB)
        assert failed.problem is not None
        assert (failed.state, failed.problem.code) == (State.DRAINING, "Client.Disconnected")
        waits.append(await world.probe())
        world.clock.advance(waits[-1])
    assert waits == [1.0, 2.0]
    await world.probe()
    proven = await world.termination(JOB)
    assert (proven.state, proven.problem, proven.schedule.failures) == (State.SETTLING, None, 0)


async def test_a_read_that_could_not_be_written_is_repeated(
    world: PartitionWorld, caplog: pytest.LogCaptureFixture
) -> None:
    await store_finished(world, JOB)
    await world.execute(
        "CREATE TRIGGER broken BEFORE UPDATE ON terminations "
        "BEGIN SELECT RAISE(ABORT, 'broken'); END"
    )
    await world.probe()
    assert [r.getMessage() for r in caplog.records] == [
        f"a poll of one job of {PARTITION} had an internal error; report this traceback"
    ]
    await world.execute("DROP TRIGGER broken")
    await world.probe()
    assert world.called("DescribeJob") == [JOB, JOB]
    assert (await world.termination(JOB)).state is State.SETTLING


# --- DescribeTask instead of DescribeJob ---------------------------------------------------------


async def test_while_describe_job_is_spent_a_job_of_one_task_is_proven_by_its_task(
    database: Database,
) -> None:
    world = PartitionWorld(database, quotas=ONE_A_SECOND)
    jobs = job_ids(3)
    await store_finished(world, *jobs, seconds=-1, **COUNTED)
    await world.probe()
    assert await world.probe() == pytest.approx(1.0)
    assert (world.called("DescribeJob"), world.called("DescribeTask")) == ([jobs[0]], [jobs[1]])
    for job_id in jobs[:2]:
        proven = await world.termination(job_id)
        assert (proven.state, proven.evidence) == (State.SETTLING, 3)
        assert proven.drain.counters == InstanceCounters(failed=10)
        assert proven.job.state is JobState.FAILED
    assert (await world.termination(jobs[2])).state is State.DRAINING


@pytest.mark.parametrize(
    "known",
    [
        {"tasks": (TaskSeen(name="task-0"), TaskSeen(name="task-1"))},
        {"tasks": ()},
        {"job_state": JobState.RUNNING},
        {"job_state": None},
        {"job_state": JobState.FAILED_INTERRUPTED},
        {"state": State.QUEUED},
        {"state": State.SENDING, "outcome_unknown": True},
    ],
    ids=repr,
)
async def test_a_task_does_not_speak_for_every_job(
    database: Database, known: dict[str, Any]
) -> None:
    """DescribeTask is not used if tasks or state are unknown, or if only DescribeJob can answer."""
    world = PartitionWorld(database, quotas=ONE_A_SECOND)
    jobs = job_ids(2)
    await store_finished(world, *jobs, seconds=-1, **(COUNTED | known))
    await world.probe()
    assert (world.called("DescribeJob"), world.called("DescribeTask")) == ([jobs[0]], [])
    world.clock.advance(1)
    await world.probe()
    assert world.called("DescribeJob") == jobs


@pytest.mark.parametrize(("tasks", "by_task"), [(1, ["job-00000002"]), (2, [])])
async def test_the_tasks_of_a_job_that_was_never_counted_are_known_from_its_capture(
    database: Database, tasks: int, by_task: list[str]
) -> None:
    world = PartitionWorld(database, quotas=ONE_A_SECOND)
    jobs = job_ids(2)
    await store_finished(world, *jobs, seconds=-1)
    shown = tuple(TaskSubmitted(name=f"task-{n}", instances=10 // tasks) for n in range(tasks))
    for job_id in jobs:
        row = await world.termination(job_id)
        capture = InstanceScan(run=row.calls.run, tasks=shown, ended_at=world.clock.now())
        await world.partition.store.instances.write_capture(row, capture, awaits=False)
    await world.probe()
    assert (world.called("DescribeJob"), world.called("DescribeTask")) == ([jobs[0]], by_task)
    for job_id in (jobs[0], *by_task):
        assert (await world.termination(job_id)).state is State.SETTLING


async def test_a_task_with_live_instances_is_no_proof(database: Database) -> None:
    world = PartitionWorld(database, quotas=ONE_A_SECOND)
    proven, live = job_ids(2)
    await store_finished(world, proven, live, seconds=-1, **COUNTED)
    world.cloud_runs(live, state="FAILED", mix={"RUNNING": 0.2})
    await world.probe()
    assert world.called("DescribeTask") == [live]
    still = await world.termination(live)
    assert (still.state, still.evidence) == (State.DRAINING, 2)
    assert still.drain.counters == InstanceCounters(running=2, failed=8)
    assert still.drain.counted_at == world.clock.now()


async def test_the_loops_are_woken_at_the_end_of_a_read_by_either_action(
    database: Database,
) -> None:
    world = PartitionWorld(database, quotas=ONE_A_SECOND)
    await store_finished(world, *job_ids(2), seconds=-1, **COUNTED)
    held = await world.probe_without_answer("DescribeTask")
    await world.single_job_poller.wake.wait()
    assert world.woken() == {"single_polls", "batch_polls"}
    held.set()
    await world.ended(world.single_job_poller)
    assert world.woken() == {"single_polls", "batch_polls"}


# --- effect on the job poller --------------------------------------------------------------------


def proofs_wait(world: PartitionWorld) -> bool:
    return world.partition.proofs_wait


async def test_proofs_wait_from_when_their_quota_is_spent_until_none_is_due(
    world: PartitionWorld,
) -> None:
    await store_finished(world, *job_ids(3), seconds=-1)
    assert not proofs_wait(world)
    await world.probe()
    assert proofs_wait(world)
    assert await world.probe() == pytest.approx(1.0)
    world.clock.advance(1)
    assert math.isinf(await world.probe())
    assert not proofs_wait(world)


async def test_proofs_that_are_not_due_yet_do_not_wait(database: Database) -> None:
    world = PartitionWorld(database, quotas=ONE_A_SECOND)
    due, waiting, later = job_ids(3)
    await store_finished(world, due, waiting, seconds=-1)
    await store_finished(world, later, seconds=3)
    await world.probe()
    assert proofs_wait(world)
    world.clock.advance(1)
    assert await world.probe() == 2.0
    assert not proofs_wait(world)


async def test_the_job_poller_waits_while_proofs_wait_and_is_woken_when_they_do_not(
    database: Database,
) -> None:
    world = PartitionWorld(database, quotas=ONE_A_SECOND)
    proving, draining = job_ids(3)[:2], job_ids(3)[2]
    await store_finished(world, *proving, seconds=-1)
    world.cloud_runs(draining)
    await world.submit(draining, next_poll_at=world.clock.now(), **DRAINING)
    await world.probe()
    assert await world.job_poller.step() == 2 * POLL.batch_max_interval_s
    world.clock.advance(1)
    world.woken()
    await world.single_job_poller.step()
    assert world.woken() == {"batch_polls"}
    assert await world.job_poller.step() == 0
    assert draining in world.called("DescribeJobs")
    await world.ended(world.single_job_poller)


# --- the counts at the end of settle windows -----------------------------------------------------


async def test_last_counts_let_proofs_go_first_for_a_while(database: Database) -> None:
    world = PartitionWorld(database, quotas=ONE_A_SECOND)
    late, later, *proofs = job_ids(4)
    ends_at = world.clock.later(-LAST_COUNT_WAITS_S)
    await store_finished(
        world, late, seconds=-LAST_COUNT_WAITS_S - 2, **SETTLING, settle_until=ends_at
    )
    await store_finished(
        world, later, seconds=2 - LAST_COUNT_WAITS_S, **SETTLING, settle_until=ends_at
    )
    await store_finished(world, *proofs, seconds=-1)
    for _ in range(4):
        await world.probe()
        world.clock.advance(1)
    assert world.called("DescribeJob") == [late, proofs[0], proofs[1], later]


async def test_last_counts_that_wait_do_not_delay_the_batch_polls(database: Database) -> None:
    world = PartitionWorld(database, quotas=ONE_A_SECOND)
    ends_at = world.clock.later(-1)
    await store_finished(world, *job_ids(3), seconds=-1, **SETTLING, settle_until=ends_at)
    await world.probe()
    assert await world.probe() == pytest.approx(1.0)
    assert not proofs_wait(world)


# --- operations that are watched -----------------------------------------------------------------


async def draining(world: PartitionWorld, *ids: str, **known: Any) -> None:
    world.cloud_runs(*ids)
    await world.submit(*ids, **({"next_poll_at": world.clock.later(60)} | DRAINING | known))


async def test_the_instances_of_a_watched_operation_are_counted(world: PartitionWorld) -> None:
    await draining(world, JOB)
    world.recently_viewed.record("op_1")
    planned = await world.termination(JOB)
    assert await world.probe() == 0
    counted = await world.termination(JOB)
    assert world.called("DescribeJob") == [JOB]
    assert counted.drain.counters == InstanceCounters(running=10)
    assert counted.drain.counted_at == world.clock.now()
    assert (counted.state, counted.evidence) == (State.DRAINING, planned.evidence)


async def test_an_unwatched_operation_is_not_counted(world: PartitionWorld) -> None:
    await draining(world, JOB)
    assert math.isinf(await world.probe())
    world.recently_viewed.record("op_other")
    assert await world.probe() == RECENTLY_VIEWED_COUNT_EVERY_S / 4
    assert world.simulator.calls == []


async def test_it_is_watched_for_a_while_after_it_was_asked_for(world: PartitionWorld) -> None:
    await draining(world, JOB)
    world.recently_viewed.record("op_1")
    world.clock.advance(9.9)
    await world.probe()
    assert world.called("DescribeJob") == [JOB]
    world.clock.advance(0.1)
    assert math.isinf(await world.probe())


async def test_counters_are_not_read_again_while_they_are_fresh(world: PartitionWorld) -> None:
    await draining(world, JOB)
    world.recently_viewed.record("op_1")
    await world.probe()
    world.clock.advance(RECENTLY_VIEWED_COUNT_EVERY_S)
    assert await world.probe() == RECENTLY_VIEWED_COUNT_EVERY_S / 4
    world.clock.advance(0.001)
    await world.probe()
    assert world.called("DescribeJob") == [JOB, JOB]


async def test_the_job_counted_longest_ago_is_counted_first(world: PartitionWorld) -> None:
    jobs = job_ids(4)
    await draining(world, *jobs)
    for job_id, ago_s in zip(jobs, (3, 5, None, 4), strict=True):
        at = None if ago_s is None else world.clock.now() - timedelta(seconds=ago_s)
        await world.know(job_id, instances_observed_at=at)
    for _ in jobs:
        world.recently_viewed.record("op_1")
        await world.probe()
        world.clock.advance(1)
    assert world.called("DescribeJob") == [jobs[2], jobs[1], jobs[3], jobs[0]]


@pytest.mark.parametrize(
    "known",
    [
        {"state": State.QUEUED},
        {"state": State.HELD},
        {"state": State.SETTLING},
        {"poll_kind": PollKind.SINGLE},
    ],
    ids=repr,
)
async def test_only_what_drains_and_is_not_to_be_read_anyway_is_counted(
    world: PartitionWorld, known: dict[str, Any]
) -> None:
    await draining(world, JOB, **known)
    world.recently_viewed.record("op_1")
    assert await world.probe() == RECENTLY_VIEWED_COUNT_EVERY_S / 4
    assert world.simulator.calls == []


async def test_counting_waits_behind_every_proof(database: Database) -> None:
    world = PartitionWorld(database, quotas=ONE_A_SECOND)
    proving, watched = job_ids(3)[:2], job_ids(3)[2]
    await draining(world, watched)
    await store_finished(world, *proving, seconds=-1)
    world.recently_viewed.record("op_1")
    for _ in range(3):
        await world.probe()
        world.clock.advance(1)
    assert world.called("DescribeJob") == [*proving, watched]


async def test_counting_keeps_the_quota_and_returns_its_next_time(world: PartitionWorld) -> None:
    await draining(world, *job_ids(3))
    world.recently_viewed.record("op_1")
    assert [await world.probe() for _ in range(3)] == [0.0, 0.0, pytest.approx(1.0)]
    assert world.arrivals_s("DescribeJob") == [1.0, 1.0]


async def test_jobs_without_counters_keep_no_other_from_being_counted(
    world: PartitionWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They remain the jobs that were never counted."""
    *uncountable, countable = job_ids(5)
    asked = {"acknowledged_at": world.clock.later(-300), "next_poll_at": world.clock.later(9000)}
    await draining(world, *uncountable, countable, **asked)
    await world.know(countable, **COUNTED, instances_observed_at=world.clock.later(-100))
    read = world.partition.cloud.describe_job

    async def without_counters(*, region: str, job_id: str) -> JobSeen:
        seen = await read(region=region, job_id=job_id)
        return seen if job_id == countable else replace(seen, instances=None)

    monkeypatch.setattr(world.partition.cloud, "describe_job", without_counters)
    for _ in range(4):
        await world.probe()
        world.clock.advance(1)
    assert sorted(world.called("DescribeJob")) == sorted([*uncountable, countable])


async def test_a_job_that_waits_for_a_permit_hides_no_earlier_one(world: PartitionWorld) -> None:
    *others, one = job_ids(4)
    await store_finished(world, *others)
    world.clock.advance(1)
    await world.probe()
    assert world.called("DescribeJob") == others[:2]
    await store_finished(world, one, **COUNTED)
    await world.know(one, next_poll_at=world.clock.later(0.1))
    assert await world.single_job_poller.step() == pytest.approx(0.1)


async def test_a_count_that_is_awaited_keeps_no_other_job_from_being_counted(
    world: PartitionWorld,
) -> None:
    first, second = job_ids(2)
    await draining(world, first, second)
    world.recently_viewed.record("op_1")
    held = await world.probe_without_answer()
    await world.single_job_poller.step()
    await world.network.arrival("DescribeJob")
    assert world.called("DescribeJob") == [first, second]
    held.set()
    await world.ended(world.single_job_poller)


async def test_a_due_read_shortens_the_wait_for_counting(world: PartitionWorld) -> None:
    await store_finished(world, JOB, seconds=0.2)
    world.recently_viewed.record("op_1")
    assert await world.probe() == 0.2


# --- jobs that are not watched --------------------------------------------------------------------


async def test_a_job_that_runs_on_unwatched_is_seen_and_called_again(world: PartitionWorld) -> None:
    """RetryJobs can revive a job before a poll shows that it stopped."""
    called = {"acknowledged_at": world.clock.now(), "give_up_at": world.clock.later(HOUR_S)}
    await draining(world, JOB, **called)
    world.clock.advance(COUNT_ALL_EVERY_S)
    await world.probe()
    world.clock.advance(IDLE_MAX_S / 2)
    await world.probe()
    assert world.simulator.calls == [], "the database is queried for them only now and then"
    world.clock.advance(IDLE_MAX_S / 2)
    await world.probe()
    assert world.called("DescribeJob") == [JOB]
    assert (await world.termination(JOB)).schedule.terminate_after == world.clock.now()
    await world.dispatch()
    assert world.called("TerminateJob") == [JOB]
    assert (await world.termination(JOB)).state is State.DRAINING


async def test_a_job_that_the_cloud_ends_is_not_called_again(world: PartitionWorld) -> None:
    await world.ready(JOB, next_poll_at=world.clock.later(HOUR_S))
    world.cloud_runs(JOB, drain_s=HOUR_S)
    await world.dispatch()
    for _ in range(5):
        world.clock.advance(COUNT_ALL_EVERY_S + IDLE_MAX_S)
        await world.probe()
    assert len(world.called("DescribeJob")) == 5
    assert math.isinf(await world.dispatch())
    assert world.called("TerminateJob") == [JOB]


async def test_a_job_that_runs_on_is_seen_however_much_is_watched(database: Database) -> None:
    world = PartitionWorld(database, quotas=ONE_A_SECOND)
    *watched, other = job_ids(5)
    await draining(world, *watched, acknowledged_at=world.clock.now())
    await draining(world, other, acknowledged_at=world.clock.later(-HOUR_S))
    world.recently_viewed.record("op_1")
    for _ in range(3):
        await world.probe()
        world.clock.advance(1)
    assert world.called("DescribeJob") == [other, *watched[:2]]


# --- jobs with a short deadline -------------------------------------------------------------------

SHORT: dict[str, Any] = {"give_up_after_s": 160.0}
SHORT_EVERY_S = 10.0


async def hurried(world: PartitionWorld, *ids: str) -> None:
    """Store draining jobs with a short deadline that a first poll has shown."""
    world.cloud_runs(*ids, drain_s=HOUR_S)
    called: dict[str, Any] = {"acknowledged_at": world.clock.now()}
    called |= {"give_up_at": world.clock.later(160.0)}
    await world.submit(*ids, asked=SHORT, **DRAINING, **called, next_poll_at=world.clock.now())
    await world.job_poller.step()


async def test_a_job_with_a_short_deadline_is_counted_sooner(world: PartitionWorld) -> None:
    await hurried(world, JOB)
    assert await world.probe() == SHORT_EVERY_S
    for count in (1, 2):
        world.clock.advance(SHORT_EVERY_S)
        await world.probe()
        assert world.called("DescribeJob") == [JOB] * count
        assert await world.probe() == SHORT_EVERY_S
    assert (await world.termination(JOB)).schedule.poll_kind is PollKind.BATCH


async def test_one_without_counters_is_not_read_all_the_time(
    world: PartitionWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next turn comes after the same time, and no step of the loop is wasted."""
    await hurried(world, JOB)
    read = world.partition.cloud.describe_job

    async def without_counters(*, region: str, job_id: str) -> JobSeen:
        return replace(await read(region=region, job_id=job_id), instances=None)

    monkeypatch.setattr(world.partition.cloud, "describe_job", without_counters)
    for count in (1, 2):
        world.clock.advance(SHORT_EVERY_S)
        await world.probe()
        assert world.called("DescribeJob") == [JOB] * count
        assert await world.probe() == SHORT_EVERY_S


async def test_more_with_short_deadlines_than_the_quota_can_count_take_turns(
    database: Database,
) -> None:
    """They take turns with each other and with proofs; the loop waits for the quota."""
    world = PartitionWorld(database, quotas=ONE_A_SECOND)
    *jobs, proven = job_ids(6)
    await hurried(world, *jobs)
    world.clock.advance(SHORT_EVERY_S)
    await world.probe()
    await store_finished(world, proven, seconds=-1)
    for _ in range(5):
        assert await world.probe() == pytest.approx(1.0)
        world.clock.advance(1)
        await world.probe()
    called = world.called("DescribeJob")
    assert sorted(called) == sorted([*jobs, proven])
    assert called.index(proven) <= 2


async def test_a_job_that_no_longer_drains_is_dropped(world: PartitionWorld) -> None:
    await hurried(world, JOB)
    await world.know(JOB, state=State.HELD, next_poll_at=world.clock.later(60))
    world.clock.advance(SHORT_EVERY_S)
    assert world.partition.counts.due(world.clock.now(), 10) != []
    assert math.isinf(await world.probe())
    assert world.partition.counts.due(world.clock.now(), 10) == []
    assert world.simulator.calls[1:] == []


# --- turns ---------------------------------------------------------------------------------------


async def test_many_reads_of_one_kind_delay_no_other_kind(database: Database) -> None:
    """A thousand unlisted ids in one request delay no other kind."""
    world = PartitionWorld(database, quotas=ONE_A_SECOND)
    jobs = iter(job_ids(40))
    unlisted, found, finished, running = ([next(jobs) for _ in range(8)] for _ in range(4))
    long_ago = world.clock.later(-60)
    await world.submit(*unlisted, poll_kind=PollKind.SINGLE, next_poll_at=long_ago)
    known: dict[str, Any] = {
        "poll_kind": PollKind.SINGLE,
        "next_poll_at": long_ago,
        "job_state": JobState.FAILED,
    }
    await world.submit(*found, **known)
    await store_finished(world, *finished, seconds=-1)
    await draining(world, *running, acknowledged_at=world.clock.later(-HOUR_S))
    for _ in range(8):
        await world.probe()
        world.clock.advance(1)
    asked = world.called("DescribeJob")
    for kind in (unlisted, found, finished, running):
        assert [job_id for job_id in asked if job_id in kind] == kind[:2]


async def test_operations_take_turns_in_first_polls(database: Database) -> None:
    """A few unlisted ids do not wait for thousands of another operation."""
    world = PartitionWorld(database, quotas=ONE_A_SECOND)
    *many, one, another = job_ids(102)
    await world.submit(*many, poll_kind=PollKind.SINGLE, next_poll_at=world.clock.later(-60))
    await world.submit(one, another, poll_kind=PollKind.SINGLE, next_poll_at=world.clock.later(-5))
    for _ in range(5):
        await world.probe()
        world.clock.advance(1)
    assert world.called("DescribeJob") == [many[0], many[1], one, many[2], another]


async def test_first_reads_without_an_answer_yet_leave_the_loop_idle(database: Database) -> None:
    world = PartitionWorld(database, quotas=QUOTAS | {"DescribeJob": 2 * READS_PER_STEP})
    jobs = job_ids(READS_PER_STEP)
    await world.submit(*jobs, poll_kind=PollKind.SINGLE, next_poll_at=world.clock.later(-60))
    held = world.network.hold("DescribeJob")
    await world.single_job_poller.step()
    assert len(world.single_job_poller.calls.under_way) == READS_PER_STEP
    assert await world.single_job_poller.step() > 0
    held.set()
    assert await world.single_job_poller.calls.drain(HANG_S) is True


async def test_first_reads_that_wait_for_their_quota_do_not_delay_the_batch_polls(
    database: Database,
) -> None:
    world = PartitionWorld(database, quotas=ONE_A_SECOND)
    await world.submit(*job_ids(5), poll_kind=PollKind.SINGLE, next_poll_at=world.clock.later(-60))
    await world.probe()
    assert await world.probe() == pytest.approx(1.0)
    assert not proofs_wait(world)


# --- the end -------------------------------------------------------------------------------------


async def test_at_a_stop_the_reads_under_way_end_and_are_written(world: PartitionWorld) -> None:
    await store_finished(world, JOB)
    held = await world.probe_without_answer()
    held.set()
    assert await world.single_job_poller.calls.drain(10.0) is True
    assert (await world.termination(JOB)).state is State.SETTLING


async def test_a_read_that_is_cut_off_at_a_stop_is_made_by_the_next_process(
    world: PartitionWorld,
) -> None:
    await store_finished(world, JOB)
    await world.probe_without_answer()
    before = await world.termination(JOB)
    assert await world.single_job_poller.calls.drain(0.0) is False
    assert await world.termination(JOB) == before
    world.start()
    world.clock.advance(1)
    await world.probe()
    assert (await world.termination(JOB)).state is State.SETTLING
