"""Forecasts of jobs and operations while their instances stop."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from orchestrator.domain.forecasting.forecast import Forecast
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.progress.operation_forecast import forecast
from orchestrator.domain.progress.termination_forecast import current
from tests.support.operation_records import operation_record
from tests.support.partition_world import AMPLE, JOB, QUOTAS, PartitionWorld, job_ids

if TYPE_CHECKING:
    from orchestrator.store.database.database import Database

TICK_S = 0.5


async def live(world: PartitionWorld, seconds: float) -> None:
    """Run the loops for so long, while a client watches the first operation."""
    until = world.clock.later(seconds)
    while world.clock.now() < until:
        world.recently_viewed.record("op_1")
        for _ in range(2):
            await world.dispatch()
            await world.job_poller.step()
            await world.probe()
        world.clock.advance(TICK_S)


async def forecast_of(world: PartitionWorld, job_id: str) -> Forecast:
    found = await world.termination(job_id)
    now = current(found, None, None, world.clock.now())
    assert now is not None
    return now


async def of_operation(world: PartitionWorld, operation_id: str = "op_1") -> Forecast:
    record = await operation_record(world.records, operation_id)
    assert record is not None
    progress = await world.records.progress([(record, QUOTAS["TerminateJob"])])
    return forecast(progress[operation_id], world.clock.now())


def in_s(world: PartitionWorld, made: Forecast) -> tuple[float, float]:
    """Return p50 and p90, in seconds from now."""
    assert made.p50_at is not None
    assert made.p90_at is not None
    now = world.clock.now()
    return (made.p50_at - now).total_seconds(), (made.p90_at - now).total_seconds()


async def test_a_drain_has_a_forecast_from_its_first_progress_on(database: Database) -> None:
    """A job of 100 instances that takes 100 s."""
    world = PartitionWorld(database)
    world.cloud_runs(JOB, instances=100, drain_s=100.0)
    await world.submit(JOB)
    await live(world, 10)
    first_sent_at = (await world.termination(JOB)).calls.acknowledged_at
    assert first_sent_at is not None
    for _ in range(3):
        await live(world, 20)
        left_s = (first_sent_at + timedelta(seconds=100) - world.clock.now()).total_seconds()
        made = await forecast_of(world, JOB)
        p50_s, p90_s = in_s(world, made)
        assert p50_s == pytest.approx(left_s, rel=0.2)
        assert left_s < p90_s < 2 * left_s
        assert made.rate_per_s == pytest.approx(1, rel=0.1)
        assert in_s(world, await of_operation(world)) == pytest.approx((p50_s, p90_s), rel=0.02)
    await live(world, 60)
    stopped = await world.termination(JOB)
    assert (stopped.state, stopped.drain.history, stopped.drain.forecast) == (
        State.SETTLING,
        None,
        None,
    )
    assert (await of_operation(world)).p50_at is None


async def test_a_stalled_drain_is_reported_with_its_begin(database: Database) -> None:
    """One of 20 instances does not stop; the others stop after 20 s."""
    world = PartitionWorld(database)
    world.cloud_runs(JOB, instances=20, drain_s=20.0, immortal=1, again="ok")
    await world.submit(JOB)
    await live(world, 15)
    assert (await forecast_of(world, JOB)).p50_at is not None
    await live(world, 100)
    found = await world.termination(JOB)
    stuck = await forecast_of(world, JOB)
    assert found.calls.acknowledged_at is not None
    assert stuck.stalled_since is not None
    assert stuck.stalled_since < world.clock.later(-80)
    assert (stuck.p50_at, stuck.rate_per_s) == (None, 0.0)
    assert await of_operation(world) == Forecast(
        made_at=world.clock.now(), rate_per_s=0.0, stalled_since=stuck.stalled_since
    )


async def test_the_forecast_of_queued_jobs_includes_their_quota(database: Database) -> None:
    """At two calls a second 80 jobs take 40 s, and the last of them 5 s more."""
    world = PartitionWorld(database, quotas=AMPLE | {"TerminateJob": 2})
    ids = job_ids(80)
    world.cloud_runs(*ids, instances=1, drain_s=5.0)
    await world.submit(*ids)
    began_at = world.clock.now()
    assert (await of_operation(world)).p50_at is None
    await live(world, 15)
    p50_s, p90_s = in_s(world, await of_operation(world))
    passed_s = (world.clock.now() - began_at).total_seconds()
    while (await of_operation(world)).p50_at is not None:
        await live(world, TICK_S)
    took_s = (world.clock.now() - began_at).total_seconds()
    assert passed_s + p50_s == pytest.approx(took_s, rel=0.15)
    assert took_s < passed_s + p90_s < 1.4 * took_s
    await world.submit("job-again001", state=State.QUEUED)
    assert (await of_operation(world, "op_2")).p50_at is not None


async def test_past_drains_forecast_one_without_progress(database: Database) -> None:
    """Jobs of one instance show no progress before they have stopped."""
    world = PartitionWorld(database, quotas=AMPLE | {"TerminateJob": 2})
    ids = job_ids(30)
    world.cloud_runs(*ids, instances=1, drain_s=20.0)
    await world.submit(*ids)
    await live(world, 30)
    drains = [
        found
        for job_id in ids
        if (found := await world.termination(job_id)).state is State.DRAINING
        and found.drain.forecast
    ]
    assert drains
    for found in drains:
        assert found.calls.acknowledged_at is not None
        p50_s, _ = in_s(world, await forecast_of(world, found.job_id))
        left_s = 20 - (world.clock.now() - found.calls.acknowledged_at).total_seconds()
        assert p50_s == pytest.approx(left_s, abs=6)
