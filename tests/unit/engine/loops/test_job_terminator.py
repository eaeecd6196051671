"""TerminateJob, one step at a time: requests that arrive, and what is written before them."""

from __future__ import annotations

import asyncio
import itertools
import math
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.errors import StoreUnavailable
from orchestrator.domain.model.attempt import INTERRUPTED
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.observation import Withdrawn
from orchestrator.domain.model.termination import PollKind, Termination
from orchestrator.store.partition.partition_store import PartitionStore
from orchestrator.store.terminations.set_aside import AGAIN_AFTER_S
from tests.support import HANG_S
from tests.support.clock import NOON
from tests.support.partition_world import AMPLE, JOB, PARTITION, QUOTAS, PartitionWorld, job_ids
from tests.unit.domain.build import POLICY

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.store.database.database import Database

ONE_A_SECOND = QUOTAS | {"TerminateJob": 1}
ANSWERS_CANNOT_BE_WRITTEN = (
    "CREATE TRIGGER broken BEFORE UPDATE OF answered_at ON attempts "
    "BEGIN SELECT RAISE(ABORT, 'broken'); END"
)


async def test_the_attempt_is_written_before_the_call_leaves(world: PartitionWorld) -> None:
    await world.ready(JOB)
    written = []

    async def look_at_the_database(_: str) -> None:
        written.append(await world.record(JOB))

    world.network.before_arrival = look_at_the_database
    await world.dispatch()
    (record,) = written
    (attempt,) = record.attempts
    assert record.termination.state is State.SENDING
    assert record.termination.calls.first_sent_at == NOON.replace(second=1)
    assert (attempt.number, attempt.action, attempt.target) == (1, "TerminateJob", JOB)
    assert (attempt.sent_at, attempt.answered_at, attempt.outcome) == (
        NOON.replace(second=1),
        None,
        None,
    )
    assert world.called("TerminateJob") == [JOB]
    # Its deadline counts from the request, once that may have reached the cloud.
    assert record.termination.schedule.give_up_at is None
    assert (await world.termination(JOB)).schedule.give_up_at == NOON.replace(hour=13, second=1)


async def test_an_accepted_call_drains_and_keeps_its_request_id(world: PartitionWorld) -> None:
    await world.ready(JOB, failures=3)
    await world.dispatch()
    record = await world.record(JOB)
    (call,) = world.calls("TerminateJob")
    (attempt,) = record.attempts
    assert (call.code, attempt.outcome, attempt.request_id) == ("OK", "accepted", call.request_id)
    assert attempt.answered_at == world.clock.now()
    after = record.termination
    assert (after.state, after.evidence, after.schedule.failures) == (State.DRAINING, 1, 0)
    assert (
        after.schedule.poll_kind,
        after.schedule.next_poll_at,
        after.schedule.terminate_after,
    ) == (PollKind.BATCH, world.clock.later(2), None)
    assert after.calls.acknowledged_at == world.clock.now()


@pytest.mark.parametrize(
    ("fault", "outcome", "acted"),
    [
        ("internal_error", "outcome_unknown", False),
        ("reset", "outcome_unknown", False),
        ("lost_answer", "outcome_unknown", True),
    ],
)
async def test_a_call_of_unknown_outcome_is_in_doubt_and_not_repeated(
    database: Database, fault: str, outcome: str, acted: bool
) -> None:
    world = PartitionWorld(database, faults={"TerminateJob": {fault: {"first_n": 1}}})
    await world.ready(JOB)
    await world.dispatch()
    after = await world.termination(JOB)
    assert (after.state, after.calls.outcome_unknown, after.schedule.poll_kind) == (
        State.SENDING,
        True,
        PollKind.SINGLE,
    )
    assert after.schedule.next_poll_at == world.clock.now()
    assert await world.outcomes(JOB) == [outcome]
    world.clock.advance(600)
    assert math.isinf(await world.dispatch())
    assert [call.acted for call in world.calls("TerminateJob")] == [acted]


async def test_a_permanent_refusal_is_kept_with_its_advice(world: PartitionWorld) -> None:
    await world.ready(JOB)
    world.cloud_runs(JOB, env_id="env-1", refuse_env=True)
    await world.dispatch()
    after = await world.termination(JOB)
    assert (after.state, after.finished_at) == (State.REFUSED, world.clock.now())
    assert after.problem is not None
    assert after.problem.code == "UnsupportedOperation.TerminateOperationWithEnvId"
    assert after.problem.advice
    assert await world.outcomes(JOB) == ["refused"]


# --- which job, and when -------------------------------------------------------------------------


async def test_no_job_is_called_before_its_time(world: PartitionWorld) -> None:
    await world.ready(JOB, terminate_after=world.clock.later(3))
    assert await world.dispatch() == 3.0
    world.clock.advance(2.999)
    assert await world.dispatch() == pytest.approx(0.001)
    assert world.called("TerminateJob") == []
    world.clock.advance(0.001)
    await world.dispatch()
    assert world.called("TerminateJob") == [JOB]


async def test_a_job_that_no_poll_has_shown_to_be_callable_is_not_called(
    world: PartitionWorld,
) -> None:
    world.cloud_runs(JOB)
    await world.submit(JOB)
    assert math.isinf(await world.dispatch())
    assert world.simulator.calls == []


async def test_the_job_of_another_partition_is_left_alone(world: PartitionWorld) -> None:
    await world.ready(JOB, partition="other@cloud")
    assert math.isinf(await world.dispatch())
    assert await world.outcomes(JOB) == []


async def test_the_quota_is_spent_evenly_and_wholly(world: PartitionWorld) -> None:
    jobs = job_ids(20)
    await world.ready(*jobs)
    world.start()
    for _ in range(3 * len(jobs)):
        wait_s = min(await world.dispatch(), 1.0)
        if wait_s > 0:
            world.clock.advance(wait_s)
    (counted,) = world.simulator.quota.report()
    assert (counted["refused"], counted["most_in_any_second"]) == (0, 2)
    arrivals = world.arrivals_s("TerminateJob")
    assert {round(b - a, 3) for a, b in itertools.pairwise(arrivals)} == {0.475, 0.525}
    assert (arrivals[0], arrivals[-1]) == (2.0, 11.475), "two a second, and no burst"


async def test_nothing_is_called_in_the_first_second_after_a_start(world: PartitionWorld) -> None:
    await world.ready(JOB)
    world.start()
    assert await world.job_terminator.step() == pytest.approx(1.0 - 0.05)
    assert await world.outcomes(JOB) == []
    world.clock.advance(0.951)
    await world.dispatch()
    assert world.arrivals_s("TerminateJob") == [2.0]


async def test_an_attempt_taken_up_ahead_leaves_when_its_permit_says(world: PartitionWorld) -> None:
    await world.ready(JOB)
    world.start()
    world.clock.advance(0.951)
    await world.job_terminator.step()
    assert await world.outcomes(JOB) == [None]
    assert await world.clock.waits.get() == pytest.approx(0.049)
    assert world.calls("TerminateJob") == []
    world.clock.advance(0.049)
    await world.ended(world.job_terminator)
    assert world.called("TerminateJob") == [JOB]


# --- concurrent changes --------------------------------------------------------------------------


class Overtaken(PartitionStore):
    """The real store; a person withdraws the first job right after it was read."""

    taken_back: Termination | None = None

    async def ready_to_terminate(
        self, now: datetime, limit: int, **waits: Any
    ) -> tuple[list[Termination], datetime | None]:
        found, next_at = await super().ready_to_terminate(now, limit, **waits)
        if self.taken_back is None:
            (self.taken_back,) = found
            withdrawn = decide(self.taken_back, Withdrawn(), now, POLICY)
            assert await self.apply([(self.taken_back, withdrawn)], now) == 1
        return found, next_at


async def test_a_job_taken_back_meanwhile_is_not_called_and_costs_no_permit(
    database: Database,
) -> None:
    world = PartitionWorld(database, quotas=ONE_A_SECOND, store=Overtaken)
    jobs = job_ids(2)
    await world.ready(*jobs)
    assert await world.dispatch() == 0
    assert (await world.termination(jobs[0])).state is State.WITHDRAWN
    assert await world.outcomes(jobs[0]) == []
    assert world.calls("TerminateJob") == []
    world.clock.advance(0.951)
    await world.dispatch()
    assert world.called("TerminateJob") == [jobs[1]]


# --- open attempts -------------------------------------------------------------------------------


async def cut_off(world: PartitionWorld, job_id: str) -> None:
    """End the process while the response to this job's request is in flight."""
    world.network.hold("TerminateJob")
    await world.job_terminator.step()
    await world.network.arrival("TerminateJob")
    assert await world.job_terminator.calls.drain(0.0) is False
    assert await world.outcomes(job_id) == [None]


async def test_an_attempt_that_an_earlier_process_left_open_is_in_doubt_before_any_call(
    world: PartitionWorld,
) -> None:
    first, second = job_ids(2)
    await world.ready(first, second)
    await cut_off(world, first)
    world.start()
    world.clock.advance(60)
    known = []

    async def look_at_the_database(_: str) -> None:
        known.append(await world.record(first))

    world.network.before_arrival = look_at_the_database
    await world.dispatch()
    assert world.called("TerminateJob") == [first, second]
    (record,) = known
    (attempt,) = record.attempts
    assert (attempt.outcome, attempt.answered_at) == (INTERRUPTED, world.clock.now())
    after = record.termination
    assert (after.state, after.calls.outcome_unknown) == (State.SENDING, True)
    assert (after.schedule.poll_kind, after.schedule.next_poll_at) == (
        PollKind.SINGLE,
        world.clock.now(),
    )


async def test_it_is_in_doubt_even_while_no_call_may_leave(world: PartitionWorld) -> None:
    await world.ready(JOB)
    await cut_off(world, JOB)
    world.start()
    assert await world.job_terminator.step() > 0
    assert (await world.termination(JOB)).calls.outcome_unknown
    assert world.woken() == {"single_polls"}, "the single-job poller is to read the job"


async def test_an_open_attempt_is_closed_once(world: PartitionWorld) -> None:
    await world.ready(JOB)
    await cut_off(world, JOB)
    world.start()
    await world.dispatch()
    before = await world.termination(JOB)
    assert world.woken()
    world.clock.advance(60)
    await world.dispatch()
    assert await world.termination(JOB) == before
    assert await world.outcomes(JOB) == [INTERRUPTED]
    assert not world.woken(), "a step that does nothing wakes no loop"


async def test_an_answered_attempt_is_not_taken_for_an_open_one(world: PartitionWorld) -> None:
    await world.ready(JOB)
    await world.dispatch()
    before = await world.termination(JOB)
    world.start()
    world.clock.advance(60)
    await world.dispatch()
    assert await world.termination(JOB) == before
    assert await world.outcomes(JOB) == ["accepted"]


async def test_an_answer_that_could_not_be_written_is_in_doubt_at_the_next_step(
    world: PartitionWorld, caplog: pytest.LogCaptureFixture
) -> None:
    await world.ready(JOB)
    await world.execute(ANSWERS_CANNOT_BE_WRITTEN)
    await world.dispatch()
    assert await world.outcomes(JOB) == [None]
    assert [r.getMessage() for r in caplog.records] == [
        f"a TerminateJob call of {PARTITION} had an internal error; report this traceback"
    ]
    await world.execute("DROP TRIGGER broken")
    world.clock.advance(10)
    assert math.isinf(await world.dispatch())
    after = await world.termination(JOB)
    assert (after.state, after.calls.outcome_unknown, after.schedule.poll_kind) == (
        State.SENDING,
        True,
        PollKind.SINGLE,
    )
    assert after.schedule.next_poll_at == world.clock.now()
    assert await world.outcomes(JOB) == [INTERRUPTED]
    assert world.called("TerminateJob") == [JOB]


async def test_an_open_attempt_that_cannot_be_closed_is_not_repeated_before_a_read(
    world: PartitionWorld,
) -> None:
    """It is set aside; TerminateJob is sent for other jobs meanwhile."""
    first, second = job_ids(2)
    await world.ready(first, second)
    await cut_off(world, first)
    world.start()
    world.clock.advance(60)
    await world.execute(ANSWERS_CANNOT_BE_WRITTEN)
    await world.dispatch()
    await world.execute("DROP TRIGGER broken")
    await world.dispatch()
    assert await world.outcomes(first) == [None]
    assert (await world.termination(first)).schedule.set_aside == "IntegrityError: broken"
    assert world.called("TerminateJob") == [first, second]
    world.clock.advance(AGAIN_AFTER_S)
    assert await world.set_aside.step() == 0
    await world.dispatch()
    assert await world.outcomes(first) == [INTERRUPTED]
    assert (await world.termination(first)).schedule.set_aside is None
    assert world.called("TerminateJob") == [first, second]


async def test_a_call_under_way_is_not_taken_for_one_left_open(database: Database) -> None:
    world = PartitionWorld(database, quotas=AMPLE)
    slow, broken = job_ids(2)
    await world.ready(slow, broken)
    held = world.network.hold("TerminateJob")
    await world.job_terminator.step()
    await world.network.arrival("TerminateJob")
    await world.execute(ANSWERS_CANNOT_BE_WRITTEN)
    await world.job_terminator.step()
    assert not world.woken()
    await world.pass_waits()
    await world.job_terminator.wake.wait()
    await world.execute("DROP TRIGGER broken")
    await world.job_terminator.step()
    assert await world.outcomes(broken) == [INTERRUPTED]
    assert await world.outcomes(slow) == [None]
    held.set()
    await world.ended(world.job_terminator)
    assert await world.outcomes(slow) == ["accepted"]


async def test_a_failing_write_of_an_attempt_sends_no_call_and_costs_no_permit(
    database: Database,
) -> None:
    world = PartitionWorld(database, quotas=ONE_A_SECOND)
    await world.ready(JOB)
    await world.execute("ALTER TABLE attempts RENAME TO away")
    with pytest.raises(StoreUnavailable):
        await world.job_terminator.step()
    await world.execute("ALTER TABLE away RENAME TO attempts")
    assert world.calls("TerminateJob") == []
    assert (await world.termination(JOB)).state is State.QUEUED
    world.clock.advance(0.951)
    await world.dispatch()
    assert world.called("TerminateJob") == [JOB]


# --- the end -------------------------------------------------------------------------------------


async def test_at_a_stop_the_calls_under_way_end_and_are_written(world: PartitionWorld) -> None:
    await world.ready(JOB)
    held = world.network.hold("TerminateJob")
    await world.job_terminator.step()
    await world.network.arrival("TerminateJob")
    ending = asyncio.ensure_future(world.job_terminator.calls.drain(HANG_S))
    assert await world.outcomes(JOB) == [None]
    assert not ending.done()
    held.set()
    assert await ending is True
    assert await world.outcomes(JOB) == ["accepted"]
    assert (await world.termination(JOB)).state is State.DRAINING


async def test_the_loops_are_woken_at_every_end(world: PartitionWorld) -> None:
    await world.ready(JOB, run=1)
    await world.job_terminator.step()
    world.woken()
    world.clock.advance(1)
    await world.ended(world.job_terminator)
    assert world.woken() == {"calls", "batch_polls"}
