"""Steps that overlap, and failures in between, lose nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.exc import IntegrityError

from orchestrator.domain.errors import CloudError, CloudErrorKind, StoreUnavailable
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.termination import PollKind
from orchestrator.engine.paced_calls import BACKOFF_BASE_S
from orchestrator.engine.runtime.loop import run_until
from orchestrator.store.partition.partition_store import PartitionStore
from tests.support.partition_world import AMPLE, JOB, NoJitter, PartitionWorld, job_ids

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.decisions.decision import Decision
    from orchestrator.domain.leasing.leases import FencingToken
    from orchestrator.domain.model.attempt import AttemptResult
    from orchestrator.domain.model.termination import PollFilter, Termination
    from orchestrator.store.database.database import Database

DRAINING: dict[str, Any] = {"state": State.DRAINING, "evidence": 1}
BREAK_PARTITIONS = """CREATE TRIGGER broken BEFORE UPDATE OF trouble_code ON partitions
BEGIN SELECT RAISE(ABORT, 'broken'); END"""


class Gated(PartitionStore):
    """A store whose recoveries wait for an event, and which refuses results while ``full``."""

    def __init__(self, database: Database, fence: FencingToken) -> None:
        super().__init__(database, fence)
        self.full = False
        self.recovering = asyncio.Event()
        self.gate = asyncio.Event()

    async def finish_attempt(
        self, before: Termination, decision: Decision, answer: AttemptResult
    ) -> None:
        if answer.outcome == "interrupted":
            self.recovering.set()
            await self.gate.wait()
        elif self.full:
            raise StoreUnavailable("full")
        await super().finish_attempt(before, decision, answer)


class Late(PartitionStore):
    """A store that returns the planned polls only once ``taken`` is set."""

    def __init__(self, database: Database, fence: FencingToken) -> None:
        super().__init__(database, fence)
        self.read = asyncio.Event()
        self.taken = asyncio.Event()
        self.taken.set()

    async def next_polls(
        self, now: datetime, limit: int, *kinds: PollFilter
    ) -> dict[PollFilter, list[Termination]]:
        found = await super().next_polls(now, limit, *kinds)
        self.read.set()
        await self.taken.wait()
        return found


async def test_an_answer_lost_while_another_is_recovered_is_recovered_too(
    database: Database,
) -> None:
    world = PartitionWorld(database, quotas=AMPLE, store=Gated)
    store = world.partition.store
    assert isinstance(store, Gated)
    slow, lost = job_ids(2)
    await world.ready(slow, lost)
    held = world.network.hold("TerminateJob")
    await world.job_terminator.step()
    await world.network.arrival("TerminateJob")
    store.full = True
    await world.job_terminator.step()
    assert not world.woken()
    await world.pass_waits()
    await world.job_terminator.wake.wait()
    step = asyncio.ensure_future(world.job_terminator.step())
    await store.recovering.wait()
    held.set()
    await world.ended(world.job_terminator)
    store.full = False
    store.gate.set()
    await step
    await world.dispatch()
    assert (await world.termination(slow)).calls.outcome_unknown
    assert (await world.termination(lost)).calls.outcome_unknown


async def test_the_end_of_a_failure_is_written_once_it_can_be(database: Database) -> None:
    world = PartitionWorld(database, quotas=AMPLE)
    world.cloud_runs(JOB)
    await world.submit(JOB)
    await world.record_result(CloudError(CloudErrorKind.CREDENTIAL, "X.Y", "m"))
    await world.execute(BREAK_PARTITIONS)
    with pytest.raises(IntegrityError):
        await world.record_result(None)
    await world.execute("DROP TRIGGER broken")
    await world.record_result(None)
    assert (await world.record(JOB)).trouble is None


async def test_an_answer_is_kept_although_the_end_of_the_failure_cannot_be_written(
    database: Database,
) -> None:
    world = PartitionWorld(database, quotas=AMPLE)
    await world.ready(JOB)
    await world.record_result(CloudError(CloudErrorKind.CREDENTIAL, "X.Y", "m"))
    await world.execute(BREAK_PARTITIONS)
    await world.dispatch()
    assert await world.outcomes(JOB) == ["accepted"]


async def test_an_earlier_batch_poll_does_not_undo_a_count(database: Database) -> None:
    world = PartitionWorld(database, quotas=AMPLE)
    world.cloud_runs(JOB)
    await world.submit(JOB, next_poll_at=world.clock.now(), **DRAINING)
    world.recently_viewed.record("op_1")
    held = world.network.hold("DescribeJobs")
    polling = asyncio.ensure_future(world.job_poller.step())
    await world.network.arrival("DescribeJobs")
    world.clock.advance(0.1)
    await world.probe()
    counted = await world.termination(JOB)
    assert counted.drain.counters
    held.set()
    await polling
    assert (await world.termination(JOB)).drain.counters == counted.drain.counters


async def test_an_earlier_count_does_not_undo_a_batch_poll(database: Database) -> None:
    world = PartitionWorld(database, quotas=AMPLE)
    world.cloud_runs(JOB)
    await world.submit(JOB, next_poll_at=world.clock.now(), **DRAINING)
    world.recently_viewed.record("op_1")
    held = await world.probe_without_answer()
    world.clock.advance(1)
    world.cloud_runs(JOB, state="FAILED")
    await world.job_poller.step()
    batch_read = await world.termination(JOB)
    assert (batch_read.evidence, batch_read.schedule.poll_kind) == (2, PollKind.SINGLE)
    held.set()
    await world.ended(world.single_job_poller)
    after = await world.termination(JOB)
    assert replace(after, drain=batch_read.drain) == batch_read
    assert after.drain.counters is not None, "the count itself is kept"


async def test_a_poll_that_ends_while_the_plan_is_read_is_not_repeated(
    database: Database,
) -> None:
    world = PartitionWorld(database, quotas=AMPLE, store=Late)
    store = world.partition.store
    assert isinstance(store, Late)
    world.cloud_runs(JOB)
    await world.submit(JOB, next_poll_at=world.clock.now(), poll_kind=PollKind.SINGLE, **DRAINING)
    held = await world.probe_without_answer()
    store.read.clear()
    store.taken.clear()
    step = asyncio.ensure_future(world.single_job_poller.step())
    await store.read.wait()
    held.set()
    await world.ended(world.single_job_poller)
    store.taken.set()
    await step
    await world.ended(world.single_job_poller)
    assert world.called("DescribeJob") == [JOB]


async def test_a_wake_up_does_not_shorten_the_backoff_of_failing_polls(
    database: Database,
) -> None:
    world = PartitionWorld(database, quotas=AMPLE, faults={"DescribeJobs": {"internal_error": 1.0}})
    world.cloud_runs(JOB)
    await world.submit(JOB, next_poll_at=world.clock.now())
    loop = asyncio.create_task(
        run_until(asyncio.Event(), world.job_poller, world.clock, NoJitter(), {})
    )

    async def waits_s() -> float:
        while (seconds := await world.clock.waits.get()) == 0:
            pass
        return seconds

    unwoken_s = await waits_s()
    assert unwoken_s < BACKOFF_BASE_S
    world.clock.advance(unwoken_s)
    world.job_poller.wake.set()
    # The rest of the pause, which the wake-up ends, and after another step the rest once more.
    assert await waits_s() == pytest.approx(await waits_s())
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    assert len(world.calls("DescribeJobs")) == 1
