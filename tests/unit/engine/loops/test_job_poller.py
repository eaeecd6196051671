"""DescribeJobs, one step at a time: the jobs in a call, and the effects of its response."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.exc import IntegrityError

from orchestrator.domain.decisions.unconfirmed_ends import (
    NOT_FOUND_AFTER_S,
    REFUSED_AFTER_S,
    SEEN_JOB_MISSING_S,
)
from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.error_detail import ClientCode
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.termination import PollKind
from orchestrator.domain.model.unconfirmed import FIRST_RETRY_S
from orchestrator.engine.loops.job_poller import BACKOFF_MAX_S, SUSPECTED_S
from orchestrator.engine.paced_calls import JOBS_PER_CALL
from orchestrator.engine.runtime.faulty_ids import REFUSED_MAX, SUSPECTS_MAX
from orchestrator.simulator.traffic.fault_injection import read_faults
from tests.support.partition_world import (
    AMPLE,
    JOB,
    OTHER_REGION,
    PARTITION,
    POLL,
    REGION,
    PartitionWorld,
    job_ids,
)
from tests.unit.domain.build import STOPPED

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.simulator.simulator import Call
    from orchestrator.store.database.database import Database

DRAINING: dict[str, Any] = {"state": State.DRAINING, "evidence": 1}
SETTLING: dict[str, Any] = {
    "state": State.SETTLING,
    "evidence": 3,
    "job_state": JobState.FAILED,
    "instances": STOPPED,
}


async def due_in(world: PartitionWorld, seconds: float, *ids: str, **known: Any) -> None:
    """Store jobs whose batch polls are due so long from now, in this order."""
    await world.submit(*ids)
    for number, job_id in enumerate(ids):
        await world.know(job_id, next_poll_at=world.clock.later(seconds + number / 1000), **known)


def batch_polls(world: PartitionWorld) -> list[Call]:
    return world.calls("DescribeJobs")


def sizes(world: PartitionWorld) -> list[int]:
    return [len(call.job_ids) for call in batch_polls(world)]


# --- which jobs go together ----------------------------------------------------------------------


async def test_one_call_carries_what_is_due_and_what_will_be_soonest_first(
    world: PartitionWorld,
) -> None:
    later, due, other_due = job_ids(3)
    world.cloud_runs(later, due, other_due)
    await due_in(world, 30, later)
    await due_in(world, -1, due)
    await due_in(world, 0, other_due)
    assert await world.job_poller.step() == 0
    (call,) = batch_polls(world)
    assert call.job_ids == (due, other_due, later)
    for job_id in call.job_ids:
        seen = await world.termination(job_id)
        assert (seen.job.state, seen.job.observed_at) == (JobState.RUNNING, world.clock.now())
        assert seen.schedule.terminate_after == world.clock.now()


async def test_nothing_is_polled_before_a_job_is_due(world: PartitionWorld) -> None:
    world.cloud_runs(JOB)
    await due_in(world, 5, JOB)
    assert await world.job_poller.step() == 5.0
    world.clock.advance(4)
    assert await world.job_poller.step() == 1.0
    assert batch_polls(world) == []
    world.clock.advance(1)
    assert await world.job_poller.step() == 0
    assert sizes(world) == [1]


async def test_with_no_job_to_poll_nothing_is_called(world: PartitionWorld) -> None:
    assert math.isinf(await world.job_poller.step())
    await due_in(world, 0, JOB, poll_kind=PollKind.SINGLE)
    assert math.isinf(await world.job_poller.step()), "for the single-job poller"
    await world.submit("job-elsewhere", partition="other@cloud")
    assert math.isinf(await world.job_poller.step()), "of another partition"
    assert batch_polls(world) == []


async def test_each_region_has_its_own_calls_the_soonest_due_first(world: PartitionWorld) -> None:
    here, there = job_ids(4)[:2], job_ids(4)[2:]
    world.cloud_runs(*here)
    world.cloud_runs(*there, region=OTHER_REGION)
    await world.submit(*here, next_poll_at=world.clock.later(-1))
    await world.submit(*there, region=OTHER_REGION, next_poll_at=world.clock.later(-2))
    await world.job_poller.step()
    await world.job_poller.step()
    assert [(call.region, set(call.job_ids)) for call in batch_polls(world)] == [
        (OTHER_REGION, set(there)),
        (REGION, set(here)),
    ]
    for job_id in (*here, *there):
        assert (await world.termination(job_id)).job.state is JobState.RUNNING


async def test_more_jobs_than_a_call_takes_are_read_once_each(database: Database) -> None:
    world = PartitionWorld(database, quotas=AMPLE)
    jobs = job_ids(2 * JOBS_PER_CALL + 50)
    world.cloud_runs(*jobs)
    await world.submit(*jobs)
    for _ in range(3):
        assert await world.job_poller.step() == 0
    assert await world.job_poller.step() == POLL.queued_interval_s
    assert sizes(world) == [JOBS_PER_CALL] * 3, "the third is filled up with those not due"
    assert sorted(world.called("DescribeJobs")[: len(jobs)]) == jobs


async def test_the_quota_is_kept(world: PartitionWorld) -> None:
    jobs = job_ids(2 * JOBS_PER_CALL + 1)
    world.cloud_runs(*jobs)
    await world.submit(*jobs)
    await world.job_poller.step()
    await world.job_poller.step()
    assert await world.job_poller.step() == pytest.approx(1.0)
    assert sizes(world) == [JOBS_PER_CALL, JOBS_PER_CALL]
    world.clock.advance(1)
    assert await world.job_poller.step() == 0
    assert world.arrivals_s("DescribeJobs") == [1.0, 1.0, 2.0]
    assert set(world.called("DescribeJobs")) == set(jobs)


# --- waiting for a full batch --------------------------------------------------------------------


async def test_a_settling_job_joins_the_next_batch_poll_that_others_need(
    world: PartitionWorld,
) -> None:
    settling, draining = job_ids(2)
    world.cloud_runs(settling, state="FAILED")
    world.cloud_runs(draining)
    await due_in(world, 0, settling, settle_until=world.clock.later(30), **SETTLING)
    await due_in(world, 1.5, draining, **DRAINING)
    assert await world.job_poller.step() == 1.5
    assert batch_polls(world) == []
    world.clock.advance(1.5)
    assert await world.job_poller.step() == 0
    assert [call.job_ids for call in batch_polls(world)] == [(settling, draining)]


@pytest.mark.parametrize(
    ("jobs", "calls", "wait_s"),
    [(JOBS_PER_CALL - 1, [], POLL.batch_max_interval_s), (JOBS_PER_CALL, [JOBS_PER_CALL], 0.0)],
)
async def test_a_full_call_is_sent_without_waiting(
    world: PartitionWorld, jobs: int, calls: list[int], wait_s: float
) -> None:
    ids = job_ids(jobs)
    world.cloud_runs(*ids, state="FAILED")
    until = world.clock.later(30)
    await world.submit(*ids, next_poll_at=world.clock.now(), settle_until=until, **SETTLING)
    assert await world.job_poller.step() == wait_s
    assert sizes(world) == calls


# --- results -------------------------------------------------------------------------------------


async def test_a_job_that_left_submitted_is_called_before_those_that_were_there_first(
    world: PartitionWorld,
) -> None:
    waiting, held = job_ids(2)
    await world.ready(waiting)
    world.cloud_runs(held, state="SUBMITTED", submitted_s=3)
    await due_in(world, 0, held)
    await world.job_poller.step()
    at = await world.termination(held)
    assert (at.state, at.schedule.next_poll_at) == (
        State.HELD,
        world.clock.later(POLL.held_interval_s),
    )
    world.clock.advance(3)
    world.woken()
    await world.job_poller.step()
    assert "calls" in world.woken()
    await world.dispatch()
    assert world.called("TerminateJob") == [held]


async def test_an_id_that_is_not_listed_is_polled_again(world: PartitionWorld) -> None:
    """DescribeJobs may leave out unknown jobs: one response alone proves nothing."""
    listed, unlisted = job_ids(2)
    world.cloud_runs(listed)
    await due_in(world, 0, listed, unlisted)
    await world.job_poller.step()
    at = await world.termination(unlisted)
    soon = world.clock.later(FIRST_RETRY_S)
    assert (at.state, at.schedule.poll_kind, at.schedule.next_poll_at) == (
        State.QUEUED,
        PollKind.BATCH,
        soon,
    )
    assert (await world.termination(listed)).schedule.next_poll_at != soon


async def test_unknown_ids_are_not_found_once_they_had_time_to_appear_and_cost_batch_polls_only(
    world: PartitionWorld,
) -> None:
    unknown = job_ids(2 * JOBS_PER_CALL)
    await world.submit(*unknown)
    submitted_at = world.clock.now()
    await world.polled(NOT_FOUND_AFTER_S - 1)
    assert await states(world) == {State.QUEUED: len(unknown)}
    await world.polled(5)
    assert await states(world) == {State.NOT_FOUND: len(unknown)}
    for job_id in unknown:
        ended = await world.termination(job_id)
        assert ended.finished_at is not None
        assert ended.finished_at - submitted_at >= timedelta(seconds=NOT_FOUND_AFTER_S)
    assert {call.action for call in world.simulator.calls} == {"DescribeJobs"}
    assert len(batch_polls(world)) <= 20


async def states(world: PartitionWorld) -> Counter[State]:
    records = await world.records.terminations(after=0, limit=1000)
    return Counter(record.termination.state for record in records)


async def test_a_setting_says_how_long_a_job_has_to_appear(world: PartitionWorld) -> None:
    world.partition.not_found_after_s = 600.0
    await world.submit(JOB)
    await world.polled(599)
    assert (await world.termination(JOB)).state is State.QUEUED
    await world.polled(2)
    assert (await world.termination(JOB)).state is State.NOT_FOUND


async def test_a_job_that_appears_late_is_terminated(world: PartitionWorld) -> None:
    """SubmitJob has just responded, and DescribeJobs does not list the job yet."""
    world.cloud_runs(JOB, hidden_s=NOT_FOUND_AFTER_S - 10)
    await world.submit(JOB)
    await world.polled(NOT_FOUND_AFTER_S)
    seen = await world.termination(JOB)
    assert (seen.state, seen.job.state, seen.unconfirmed) == (State.QUEUED, JobState.RUNNING, None)
    await world.dispatch()
    assert world.called("TerminateJob") == [JOB]


@pytest.mark.parametrize("before", ["called", "settling"])
async def test_a_job_that_is_missing_from_one_answer_is_driven_on(
    world: PartitionWorld, before: str
) -> None:
    fault = {"not_found": {"first_n": 1}}
    world.simulator.faults.replace(
        read_faults({"DescribeJobs": fault, "DescribeJob": fault}), now=world.simulator.now()
    )
    if before == "called":
        await world.ready(JOB, next_poll_at=world.clock.now())
        await world.dispatch()
    else:
        world.cloud_runs(JOB, state="FAILED")
        until = world.clock.later(30)
        await due_in(world, 0, JOB, settle_until=until, observed_at=world.clock.now(), **SETTLING)
    world.clock.advance(POLL.batch_max_interval_s)
    await world.job_poller.step()
    missing = await world.termination(JOB)
    assert missing.unconfirmed is not None
    assert (missing.state.final, missing.unconfirmed.answers) == (False, 1)
    await world.polled(SEEN_JOB_MISSING_S / 2)
    assert (await world.termination(JOB)).unconfirmed is None
    await world.polled(120)
    assert (await world.termination(JOB)).state is State.VERIFIED


async def test_an_answer_from_before_a_job_was_called_changes_nothing(
    world: PartitionWorld,
) -> None:
    await world.ready(JOB, next_poll_at=None)
    await world.know(JOB, next_poll_at=world.clock.now())
    held = world.network.hold("DescribeJobs")
    polling = asyncio.ensure_future(world.job_poller.step())
    await world.network.arrival("DescribeJobs")
    await world.dispatch()
    called = await world.termination(JOB)
    held.set()
    await polling
    assert await world.termination(JOB) == called
    assert called.state is State.DRAINING


async def test_a_poll_that_could_not_be_written_is_repeated(world: PartitionWorld) -> None:
    world.cloud_runs(JOB)
    await due_in(world, 0, JOB)
    await world.execute(
        "CREATE TRIGGER broken BEFORE UPDATE ON terminations "
        "BEGIN SELECT RAISE(ABORT, 'broken'); END"
    )
    with pytest.raises(IntegrityError, match="broken"):
        await world.job_poller.step()
    await world.execute("DROP TRIGGER broken")
    assert await world.job_poller.step() == 0
    assert sizes(world) == [1, 1]
    assert (await world.termination(JOB)).schedule.terminate_after == world.clock.now()


# --- batch polls that fail -----------------------------------------------------------------------


SPOILERS: list[tuple[str, dict[str, Any]]] = [
    ("job-00000001", {"forbidden": True}),
    ("job-MALFORMED", {}),
]


@pytest.mark.parametrize(("spoiler", "spec"), SPOILERS, ids=["forbidden", "malformed"])
async def test_a_job_that_makes_a_batch_fail_is_among_few_that_are_read_one_by_one(
    database: Database, spoiler: str, spec: dict[str, Any]
) -> None:
    world = PartitionWorld(database, quotas=AMPLE)
    good = job_ids(40)[1:]
    world.cloud_runs(*good)
    world.cloud_runs(spoiler, **spec)
    await due_in(world, -1, spoiler)
    await due_in(world, 0, *good)
    world.clock.advance(1)
    while await world.job_poller.step() == 0:
        assert len(batch_polls(world)) < 20
    assert sizes(world) == [40, 20, 20, 10, 10, 5, 5, 2, 3]
    assert [call.code for call in batch_polls(world)].count("OK") == 4
    suspects = [spoiler, good[0]]
    for job_id in suspects:
        suspect = await world.termination(job_id)
        assert (suspect.state, suspect.schedule.poll_kind) == (State.QUEUED, PollKind.SINGLE)
    await world.probe()
    if "forbidden" in spec:
        assert (await world.termination(spoiler)).state is State.QUEUED, "it may be allowed later"
        await world.polled(2 * REFUSED_AFTER_S)
    assert (await world.termination(spoiler)).state is State.REFUSED
    for job_id in good:
        assert (await world.termination(job_id)).job.state is JobState.RUNNING


@pytest.mark.parametrize("place", [0, 5, 6, 11, 12, 24])
async def test_it_is_found_wherever_it_stands(database: Database, place: int) -> None:
    world = PartitionWorld(database, quotas=AMPLE)
    jobs = job_ids(25)
    for number, job_id in enumerate(jobs):
        world.cloud_runs(job_id, forbidden=number == place)
    await due_in(world, -1, *jobs)
    while await world.job_poller.step() == 0:
        assert len(batch_polls(world)) < 20
    suspects = [
        j for j in jobs if (await world.termination(j)).schedule.poll_kind is PollKind.SINGLE
    ]
    assert jobs[place] in suspects
    assert len(suspects) <= SUSPECTS_MAX
    polled = [job_id for call in batch_polls(world) if call.code == "OK" for job_id in call.job_ids]
    assert {*polled, *suspects} == {*jobs}
    assert jobs[place] not in polled


@pytest.mark.parametrize(
    ("fault", "asked"),
    [("throttle", [20, 10, 10, 10, 5, 5, 2, 3]), ("reset", [20, 10, 10, 5, 5, 2, 3])],
)
async def test_the_search_for_it_continues_after_a_call_that_fails(
    database: Database, fault: str, asked: list[int]
) -> None:
    """It does not wait until the jobs that were kept apart are due again."""
    world = PartitionWorld(database, quotas=AMPLE)
    spoiler, *good = job_ids(20)
    world.cloud_runs(*good)
    world.cloud_runs(spoiler, forbidden=True)
    await due_in(world, -1, spoiler, *good)
    await world.job_poller.step()
    faults = read_faults({"DescribeJobs": {fault: {"first_n": 1}}})
    world.simulator.faults.replace(faults, now=world.simulator.now())
    while not math.isinf(wait_s := await world.job_poller.step()) and wait_s < SUSPECTED_S / 2:
        world.clock.advance(wait_s)
    assert sizes(world) == asked
    for job_id in good[2:]:
        assert (await world.termination(job_id)).job.state is JobState.RUNNING


async def test_jobs_that_make_their_polls_fail_delay_no_others(database: Database) -> None:
    """Neither jobs with a sent TerminateJob nor jobs submitted later are delayed."""
    world = PartitionWorld(database, quotas=AMPLE)
    bad, good = job_ids(40)[:38], job_ids(40)[38:]
    world.cloud_runs(*bad, forbidden=True)
    await due_in(world, -1, *bad)
    await world.job_poller.step()
    world.cloud_runs(*good)
    await due_in(world, 0, good[0])
    await due_in(world, 0, good[1], **DRAINING)
    for _ in range(3):
        await world.job_poller.step()
    for job_id in good:
        assert (await world.termination(job_id)).job.state is JobState.RUNNING
    suspect = await world.termination(bad[0])
    assert suspect.schedule.next_poll_at == world.clock.later(SUSPECTED_S)


async def test_lost_suspects_are_polled_again(database: Database) -> None:
    """Another process, or a failed poll of them, can lose the suspects."""
    world = PartitionWorld(database, quotas=AMPLE)
    jobs = job_ids(10)
    world.cloud_runs(*jobs, forbidden=True)
    await due_in(world, -1, *jobs)
    await world.job_poller.step()
    world.start()
    world.clock.advance(SUSPECTED_S)
    await world.job_poller.step()
    assert sizes(world) == [10, 10]


async def test_where_no_batch_poll_is_allowed_jobs_are_read_one_by_one_and_it_is_logged_once(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    world = PartitionWorld(database, quotas=AMPLE)
    jobs = job_ids(60)
    world.cloud_runs(*jobs, forbidden=True)
    await due_in(world, -1, *jobs)
    while await world.job_poller.step() == 0:
        assert len(batch_polls(world)) < 40
    assert len(batch_polls(world)) == REFUSED_MAX + 7, "the halves of what was suspected until then"
    assert [(await world.termination(job_id)).schedule.poll_kind for job_id in jobs] == [
        PollKind.SINGLE
    ] * 60
    forbidden, refused = caplog.records
    assert forbidden.levelname == "ERROR"
    assert "DescribeJobs of main@cloud is not allowed" in forbidden.getMessage()
    assert refused.levelname == "WARNING"
    assert (
        f"job poller of {PARTITION}: DescribeJobs is refused for all jobs" in refused.getMessage()
    )


async def due_at(world: PartitionWorld) -> datetime | None:
    return (await world.termination(JOB)).schedule.next_poll_at


async def test_failing_polls_wait_longer_each_time_and_lose_nothing(database: Database) -> None:
    faults = {"DescribeJobs": {"internal_error": {"first_n": 7}}}
    world = PartitionWorld(database, quotas=AMPLE, faults=faults)
    world.cloud_runs(JOB)
    await due_in(world, 0, JOB)
    waits = []
    for _ in range(7):
        waits.append(await world.job_poller.step())
        world.clock.advance(waits[-1])
        planned = await due_at(world)
        assert planned is not None
        assert planned <= world.clock.later(SUSPECTED_S)
        assert (await world.termination(JOB)).schedule.poll_kind is PollKind.BATCH
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert await world.job_poller.step() == 0
    assert (await world.termination(JOB)).schedule.terminate_after == world.clock.now()


async def test_a_poll_that_works_ends_the_longer_waits(database: Database) -> None:
    world = PartitionWorld(database, quotas=AMPLE)
    world.cloud_runs(JOB)
    waits: list[float] = []
    for fault in ("http_500", "lost_answer", None, "reset"):
        world.simulator.faults.replace(
            read_faults({"DescribeJobs": {fault: 1.0}} if fault else {}), now=world.simulator.now()
        )
        if not waits:
            await due_in(world, 0, JOB)
        else:
            await world.know(JOB, next_poll_at=world.clock.now())
        waits.append(await world.job_poller.step())
        world.clock.advance(1)
    assert waits == [0.5, 1.0, 0.0, 0.5]


# --- calls that one job makes fail ---------------------------------------------------------------


FAILURES = [
    ("InternalError", True),
    ("ResourceNotFound.Job", True),
    (ClientCode.BAD_ANSWER, True),
    (ClientCode.TIMEOUT, True),
    (ClientCode.CONNECT_FAILED, False),
    ("RequestLimitExceeded", False),
    ("AuthFailure.SignatureExpire", False),
    ("AuthFailure.SignatureFailure", False),
]


async def run(world: PartitionWorld, seconds: float) -> None:
    """Advance the clock while only the job poller runs."""
    until = world.clock.passed_s + seconds
    while (left_s := until - world.clock.passed_s) > 0:
        world.clock.advance(min(left_s, await world.job_poller.step()))


@pytest.mark.parametrize("place", [0, 19, 39])
@pytest.mark.parametrize(("code", "search"), FAILURES)
async def test_a_job_that_makes_calls_fail_keeps_no_others_from_being_read(
    database: Database, code: str, place: int, *, search: bool
) -> None:
    world = PartitionWorld(database, quotas=AMPLE)
    jobs = job_ids(40)
    other = "job-99999999"
    world.cloud_runs(*jobs)
    world.cloud_runs(other, region=OTHER_REGION)
    world.network.spoil("DescribeJobs", jobs[place], code)
    await due_in(world, -1, *jobs)
    await world.submit(other, region=OTHER_REGION, next_poll_at=world.clock.now())
    await run(world, 60)
    read = [j for j in (*jobs, other) if (await world.termination(j)).job.state is not None]
    if not search:
        assert read == []
        assert (await world.termination(jobs[place])).schedule.poll_kind is PollKind.BATCH
        return
    assert read == [*jobs[:place], *jobs[place + 1 :], other]
    spoiler = await world.termination(jobs[place])
    assert (spoiler.state, spoiler.schedule.poll_kind) == (State.QUEUED, PollKind.SINGLE)
    await world.probe()
    assert (await world.termination(jobs[place])).job.state is JobState.RUNNING


async def test_a_job_that_neither_action_can_read_shows_the_error_of_its_reads(
    database: Database,
) -> None:
    world = PartitionWorld(database, quotas=AMPLE)
    spoiler, good = job_ids(2)
    world.cloud_runs(spoiler, good)
    for action in ("DescribeJobs", "DescribeJob"):
        world.network.spoil(action, spoiler, "InternalError")
    await due_in(world, -1, spoiler, good)
    await world.polled(100)
    unread = await world.termination(spoiler)
    assert unread.problem is not None
    assert (unread.state, unread.problem.code) == (State.QUEUED, "InternalError")
    assert (await world.termination(good)).job.state is JobState.RUNNING


async def test_a_job_that_failed_alone_is_read_alone_until_that_works(database: Database) -> None:
    world = PartitionWorld(database, quotas=AMPLE)
    spoiler, *_ = jobs = job_ids(8)
    world.cloud_runs(*jobs)
    world.network.spoil("DescribeJobs", spoiler, "InternalError")
    await due_in(world, -1, *jobs)
    await run(world, 60)
    searched = len(batch_polls(world))
    for _ in range(3):
        await world.know(*jobs, poll_kind=PollKind.BATCH, next_poll_at=world.clock.now())
        await run(world, 2)
    assert sorted(sizes(world)[searched:]) == [7, 7, 7], "the spoilt ones do not arrive"
    world.network.spoil("DescribeJobs", spoiler, None)
    for _ in range(2):
        await world.know(*jobs, poll_kind=PollKind.BATCH, next_poll_at=world.clock.now())
        await run(world, 2)
    assert sorted(sizes(world)[searched + 3 :]) == [1, 8, 8], (
        "it goes with the others once it worked"
    )


async def test_while_no_call_works_none_is_read_by_another_action_and_few_calls_are_made(
    database: Database,
) -> None:
    faults = {"DescribeJobs": {"internal_error": 1.0}}
    world = PartitionWorld(database, quotas=AMPLE, faults=faults)
    jobs = job_ids(JOBS_PER_CALL + 1)
    world.cloud_runs(*jobs)
    await due_in(world, -1, *jobs)
    await run(world, 900)
    assert len(batch_polls(world)) < 900 / BACKOFF_MAX_S + 10
    assert {(await world.termination(job_id)).schedule.poll_kind for job_id in jobs} == {
        PollKind.BATCH
    }
    world.simulator.faults.replace({}, now=world.simulator.now())
    await run(world, 2 * SUSPECTED_S)
    for job_id in jobs:
        assert (await world.termination(job_id)).job.state is JobState.RUNNING


# --- turns ---------------------------------------------------------------------------------------


async def test_few_ids_wait_for_no_first_polls_of_many(world: PartitionWorld) -> None:
    """Held jobs do not wait either: each kind of poll has its turn."""
    held, good, *stale = job_ids(1002)
    world.cloud_runs(good)
    world.cloud_runs(held, state="SUBMITTED")
    await world.submit(*stale)
    await world.submit(good)
    await world.submit(held, state=State.HELD, job_state=JobState.SUBMITTED)
    for _ in range(4):
        await world.job_poller.step()
        world.clock.advance(1)
    polled = [{*call.job_ids} for call in batch_polls(world)]
    assert any(good in jobs for jobs in polled[:2])
    assert any(held in jobs for jobs in polled)


async def test_first_polls_cost_no_call_of_their_own_where_one_carries_all(
    world: PartitionWorld,
) -> None:
    jobs = job_ids(90)
    world.cloud_runs(*jobs)
    await world.submit(*jobs[:45])
    await world.submit(*jobs[45:], state=State.HELD, job_state=JobState.SUBMITTED)
    await world.job_poller.step()
    assert sizes(world) == [90]
