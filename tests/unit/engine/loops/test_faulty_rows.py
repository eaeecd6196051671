"""A termination that cannot be written delays no other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.domain.errors import StoreUnavailable
from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.termination import PollKind
from orchestrator.engine.runtime.loop import PAUSE_S
from orchestrator.store.partition.partition_store import PartitionStore
from orchestrator.store.terminations.set_aside import AGAIN_AFTER_S
from tests.support.partition_world import AMPLE, PARTITION, QUOTAS, PartitionWorld, job_ids

if TYPE_CHECKING:
    from orchestrator.store.database.database import Database

FAULTY, GOOD = job_ids(2)
FAULT = f"""CREATE TRIGGER fault BEFORE UPDATE OF state ON terminations
WHEN NEW.job_id = '{FAULTY}' BEGIN SELECT RAISE(ABORT, 'a fault'); END"""
TO_PROVE: dict[str, Any] = {
    "state": State.DRAINING,
    "evidence": 2,
    "job_state": JobState.FAILED,
    "poll_kind": PollKind.SINGLE,
}


class Unavailable(PartitionStore):
    """A store that writes no decision."""

    async def apply(self, *_: Any) -> int:
        raise StoreUnavailable("full")

    async def start_attempt(self, *_: Any) -> int | None:
        raise StoreUnavailable("full")


async def test_other_jobs_of_the_same_poll_are_written(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    world = PartitionWorld(database, quotas=AMPLE)
    world.cloud_runs(FAULTY, GOOD)
    await world.submit(FAULTY, GOOD, next_poll_at=world.clock.now())
    await world.execute(FAULT)
    assert await world.job_poller.step() == 0
    assert (await world.termination(GOOD)).job.state is JobState.RUNNING
    why = (await world.termination(FAULTY)).schedule.set_aside
    assert why is not None
    assert why.startswith("IntegrityError: ")
    assert "a fault" in why
    assert await world.set_aside.step() == AGAIN_AFTER_S
    await world.job_poller.step()
    assert len(world.calls("DescribeJobs")) == 1
    for _ in range(2):
        world.clock.advance(AGAIN_AFTER_S)
        assert await world.set_aside.step() == 0
        await world.job_poller.step()
    assert world.called("DescribeJobs").count(FAULTY) == 3
    (logged,) = caplog.records
    assert logged.levelname == "ERROR"
    assert logged.getMessage() == (
        f"{PARTITION}: termination trm_{FAULTY} has an internal error; it is set aside and tried "
        "again every minute; its job may still run; report this traceback"
    )
    assert logged.exc_info
    await world.execute("DROP TRIGGER fault")
    world.clock.advance(AGAIN_AFTER_S)
    await world.set_aside.step()
    await world.job_poller.step()
    found = await world.termination(FAULTY)
    assert (found.schedule.set_aside, found.job.state) == (None, JobState.RUNNING)
    assert caplog.records[-1].getMessage().endswith("goes on: it is no longer set aside")
    assert await world.set_aside.step() == math.inf


async def test_it_is_read_by_itself_now_and_then_only(database: Database) -> None:
    one_a_second = QUOTAS | {"DescribeJob": 1, "DescribeTask": 1}
    world = PartitionWorld(database, quotas=one_a_second)
    world.cloud_runs(FAULTY, GOOD, state="FAILED")
    await world.submit(FAULTY, next_poll_at=world.clock.later(-2), **TO_PROVE)
    await world.submit(GOOD, next_poll_at=world.clock.later(-1), **TO_PROVE)
    await world.execute(FAULT)
    for _ in range(5):
        await world.probe()
        world.clock.advance(1)
    assert world.called("DescribeJob") == [FAULTY, GOOD]
    assert (await world.termination(GOOD)).state is State.SETTLING
    await world.execute("DROP TRIGGER fault")
    world.clock.advance(AGAIN_AFTER_S)
    await world.set_aside.step()
    await world.probe()
    assert (await world.termination(FAULTY)).state is State.SETTLING


async def test_the_next_in_line_is_called(database: Database) -> None:
    world = PartitionWorld(database, quotas=AMPLE)
    await world.ready(FAULTY, GOOD)
    await world.execute(FAULT)
    for _ in range(2):
        await world.dispatch()
    assert world.called("TerminateJob") == [GOOD]
    assert (await world.termination(FAULTY)).schedule.set_aside is not None


async def test_nothing_is_postponed_where_the_database_fails(database: Database) -> None:
    world = PartitionWorld(database, quotas=AMPLE, store=Unavailable)
    world.cloud_runs(FAULTY, GOOD)
    now = world.clock.now()
    await world.submit(FAULTY, GOOD)
    for job_id in (FAULTY, GOOD):
        await world.execute(
            f"UPDATE terminations SET terminate_after = '{now:%Y-%m-%d %H:%M:%S.%f}'"
            f" WHERE job_id = '{job_id}'"
        )
    before = [await world.termination(job_id) for job_id in (FAULTY, GOOD)]
    for step in (world.job_poller.step, world.job_terminator.step):
        with pytest.raises(StoreUnavailable):
            await step()
    await world.execute("UPDATE terminations SET poll_kind = 'single'")
    await world.probe()
    assert await world.probe() == PAUSE_S
    assert len(world.called("DescribeJob")) == 2, "nothing is read that cannot be stored"
    after = [await world.termination(job_id) for job_id in (FAULTY, GOOD)]
    assert [(t.schedule.next_poll_at, t.schedule.terminate_after) for t in after] == [
        (t.schedule.next_poll_at, t.schedule.terminate_after) for t in before
    ]
