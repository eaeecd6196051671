"""Steps of the database's clock: replicas record them, and the stored times move with them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.domain.clock_steps import CLOCK_STEP_S
from orchestrator.domain.errors import LeaseLost, StoreUnavailable
from orchestrator.domain.model.lifecycle import State
from orchestrator.store.partition.lease_store import SqlLeaseStore
from tests.support.partition_world import JOB, PARTITION
from tests.support.replica_world import POLICY, Cluster, is_stopped, own_logs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

SIX = [f"p{number:02}@cloud" for number in range(6)]
TWO = ["a@cloud", PARTITION]
EIGHT_HOURS_S = 8 * 3600.0
"""The step of a hardware clock in local time."""
EIGHT_HOURS = timedelta(seconds=EIGHT_HOURS_S)
DRAINING: dict[str, Any] = {"state": State.DRAINING, "evidence": 1}


@pytest.fixture
async def cluster(database_url: str) -> AsyncIterator[Cluster]:
    async with Cluster(database_url) as cluster:
        yield cluster


async def times(cluster: Cluster) -> tuple[datetime, datetime]:
    """Return the end of the job's settle window, and its deadline."""
    stored = await cluster.world.termination(JOB)
    assert stored.schedule.settle_until is not None
    assert stored.schedule.give_up_at is not None
    return stored.schedule.settle_until, stored.schedule.give_up_at


async def with_times(cluster: Cluster) -> tuple[datetime, datetime]:
    """Store a job whose times lie in the future."""
    later = cluster.world.clock.later
    known = DRAINING | {
        "settle_until": later(30),
        "give_up_at": later(3600),
        "next_poll_at": later(20),
    }
    await cluster.world.submit(JOB, **known)
    return await times(cluster)


@pytest.mark.parametrize("by_s", [EIGHT_HOURS_S, 60.0])
async def test_times_move_along_with_a_step_of_the_clock_and_back_again(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, by_s: float
) -> None:
    await (replica := await cluster.replica("a", TWO)).step()
    before, by = await with_times(cluster), timedelta(seconds=by_s)
    caplog.set_level("WARNING")
    for step_s, expected in ((by_s, [at + by for at in before]), (-by_s, [*before])):
        cluster.advance(POLICY.retry_s)
        cluster.step_clock(step_s)
        (old,) = [each for each in replica.loops_of(PARTITION) if not is_stopped(each)]
        epoch = replica.leases.running[PARTITION].lease.fence.epoch
        assert await replica.step() == 0.0
        assert [*await times(cluster)] != expected, "recorded, and not followed yet"
        await replica.step()
        assert [*await times(cluster)] == expected
        planned = (await cluster.world.termination(JOB)).schedule.next_poll_at
        assert planned is not None
        assert planned <= cluster.world.clock.now(), "it is read at once"
        assert replica.clock.now() == cluster.world.clock.now()
        assert is_stopped(old)
        await replica.settled()
        await replica.step()
        assert replica.leases.running[PARTITION].lease.fence.epoch == epoch + 2
        with pytest.raises(LeaseLost):
            await old.partition.store.set_health(None, None)
        await cluster.check_sound(replica)
    assert [message for _, message in own_logs(caplog)] == [
        f"the database's clock stepped by {sign}{by_s:.0f} s: deadlines, settle windows and "
        "revival watches move with it; check the time synchronization of its host"
        for sign in "+-"
    ]
    cluster.advance(POLICY.retry_s)
    replica.link.asked.clear()
    await replica.step()
    assert replica.link.asked == ["renew", "with_work"], "that was all"


@pytest.mark.parametrize("by_s", [EIGHT_HOURS_S, 60.0])
@pytest.mark.parametrize("lost", ["join", "take", "renew"])
async def test_a_step_back_is_followed_even_if_it_comes_right_after_the_start(
    cluster: Cluster, lost: str, by_s: float
) -> None:
    """The clock was wrong at the start, and the first steps of the replica fail."""
    replica = await cluster.replica("a", TWO)
    cluster.step_clock(by_s)
    if lost == "renew":
        await replica.step()
    replica.link.fail(lost, "after")
    with pytest.raises(StoreUnavailable):
        await replica.step()
    by = timedelta(seconds=by_s)
    before = [at - by for at in await with_times(cluster)]
    cluster.step_clock(-by_s)
    for _ in range(3):
        await replica.step()
        await replica.settled()
    assert [*await times(cluster)] == before
    planned = (await cluster.world.termination(JOB)).schedule.next_poll_at
    assert planned is not None
    assert planned <= cluster.world.clock.now()
    await cluster.check_sound(replica)


async def test_a_join_whose_answer_was_lost_is_no_second_start(cluster: Cluster) -> None:
    """Times that were stored before the start are right once the clock is."""
    before = await with_times(cluster)
    cluster.step_clock(EIGHT_HOURS_S)
    replica = await cluster.replica("a", TWO)
    replica.link.fail("join", "after")
    with pytest.raises(StoreUnavailable):
        await replica.step()
    await replica.step()
    cluster.step_clock(-EIGHT_HOURS_S)
    for _ in range(3):
        await replica.step()
        await replica.settled()
    assert await times(cluster) == before
    await cluster.check_sound(replica)


async def test_a_join_declares_no_other_replica_dead(cluster: Cluster) -> None:
    """Its lease may read as expired after a step of the clock that it has yet to record."""
    await (first := await cluster.replica("a", TWO)).step()
    before = await with_times(cluster)
    cluster.step_clock(EIGHT_HOURS_S)
    late = await cluster.replica("b", TWO)
    await late.step()
    assert await first.step() == 0.0, "it records the step"
    await first.step()
    assert [*await times(cluster)] == [at + EIGHT_HOURS for at in before]


async def test_replicas_note_a_step_once_and_all_follow_it(cluster: Cluster) -> None:
    replicas = [await cluster.replica(name, SIX) for name in "abc"]
    await cluster.play(5 * POLICY.retry_s)
    await cluster.world.submit(JOB, partition=SIX[0])
    await cluster.world.know(JOB, **DRAINING, give_up_at=cluster.world.clock.later(3600))
    before = (await cluster.world.termination(JOB)).schedule.give_up_at
    assert before is not None
    for step_s, moved in ((EIGHT_HOURS_S, EIGHT_HOURS), (-EIGHT_HOURS_S, timedelta())):
        cluster.step_clock(step_s)
        for _ in range(8):
            # After a step ahead the first takes all: the other leases read as expired.
            for replica in replicas:
                await replica.step()
            cluster.advance(POLICY.retry_s)
        assert await cluster.shares() == {each.id: 2 for each in replicas}
        assert (await cluster.world.termination(JOB)).schedule.give_up_at == before + moved
        for replica in replicas:
            assert replica.clock.now() == cluster.world.clock.now()
    await cluster.check_sound(*replicas)


async def test_two_that_see_a_step_at_once_note_it_once(cluster: Cluster) -> None:
    first, second = [await cluster.replica(name, SIX) for name in "ab"]
    await cluster.play(5 * POLICY.retry_s)
    step_s = 5.0
    assert CLOCK_STEP_S < step_s < POLICY.duration_s - POLICY.retry_s, "no lease expires of it"
    cluster.step_clock(step_s)
    noting = [each.link.hold("note_step", "before") for each in (first, second)]
    steps = [asyncio.create_task(each.leases.step()) for each in (first, second)]
    for each in noting:
        await each.reached()
    for each in noting:
        each.open()
    await asyncio.gather(*steps)
    assert await cluster.steps_s() == step_s


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_renewal_that_takes_long_is_no_step(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    """The clock was read at its start or at its end; the middle is assumed."""
    await (replica := await cluster.replica("a", TWO)).step()
    before = await with_times(cluster)
    took_s = POLICY.renewal_deadline_s - 1.0
    cluster.advance(POLICY.retry_s)
    held = replica.link.hold("renew", when)
    renewing = asyncio.create_task(replica.step())
    await held.reached()
    cluster.advance(took_s)
    held.open()
    assert await renewing > 0
    off_s = (replica.clock.now() - cluster.world.clock.now()).total_seconds()
    assert off_s == pytest.approx(took_s / 2 if when == "before" else -took_s / 2)
    for _ in range(3):
        cluster.advance(POLICY.retry_s)
        replica.link.asked.clear()
        await replica.step()
        assert replica.link.asked == ["renew", "with_work"]
        assert replica.clock.now() == cluster.world.clock.now()
    assert await cluster.steps_s() == 0
    assert await times(cluster) == before
    assert {row.epoch for row in (await cluster.rows()).values()} == {1}
    assert [level for level, _ in own_logs(caplog) if level != "INFO"] == []


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("by_s", "noted"), [(CLOCK_STEP_S, 0), (CLOCK_STEP_S + 1, 1)])
async def test_a_small_difference_is_no_step_and_is_gone_by(
    cluster: Cluster, sign: int, by_s: float, noted: int
) -> None:
    """Clocks drift, and are corrected by small amounts."""
    await (replica := await cluster.replica("a", TWO)).step()
    cluster.advance(POLICY.retry_s)
    cluster.step_clock(sign * by_s)
    for _ in range(2):
        await replica.step()
    assert await cluster.steps_s() == noted * sign * by_s
    assert replica.clock.now() == cluster.world.clock.now()
    assert {row.epoch for row in (await cluster.rows()).values()} == {1 + noted}


async def test_a_recorded_step_that_was_not_followed_is_followed_by_the_next_replica(
    cluster: Cluster,
) -> None:
    await (first := await cluster.replica("a", TWO)).step()
    before = await with_times(cluster)
    cluster.step_clock(EIGHT_HOURS_S)
    assert await first.step() == 0.0
    cluster.stop_stepping(first)
    second = await cluster.replica("b", TWO)
    await cluster.play(POLICY.duration_s + 1.0)
    assert second.runs == set(TWO)
    assert [*await times(cluster)] == [at + EIGHT_HOURS for at in before]


@pytest.mark.parametrize("noted", [True, False])
async def test_a_clock_that_was_set_back_without_live_replicas_is_recorded_at_the_restart(
    cluster: Cluster, *, noted: bool
) -> None:
    """It was wrong from the start, or a recorded step ahead is undone now."""
    if noted:
        await (first := await cluster.replica("a", TWO)).step()
        before = await with_times(cluster)
        cluster.step_clock(EIGHT_HOURS_S)
        await first.step()
    else:
        before = await with_times(cluster)
        cluster.step_clock(EIGHT_HOURS_S)
        first = await cluster.replica("a", TWO)
        await first.step()
    await first.step()
    await cluster.world.know(JOB, next_poll_at=cluster.world.clock.later(60))
    await SqlLeaseStore(first._database).leave(first.id)
    cluster.stop_stepping(first)
    stopped_s = 1.0
    cluster.advance(stopped_s)
    cluster.step_clock(-EIGHT_HOURS_S)
    second = await cluster.replica("b", TWO)
    await second.step()
    assert second.runs == set(TWO)
    off = [
        (after - at).total_seconds() for after, at in zip(await times(cluster), before, strict=True)
    ]
    assert off == [pytest.approx(stopped_s if noted else 0.0)] * 2
    assert (await cluster.world.termination(JOB)).schedule.next_poll_at == cluster.world.clock.now()
    assert await cluster.steps_s() == 0


async def test_a_restart_records_nothing_if_the_clock_continued(cluster: Cluster) -> None:
    await (first := await cluster.replica("a", TWO)).step()
    await SqlLeaseStore(first._database).leave(first.id)
    cluster.stop_stepping(first)
    cluster.advance(3600)
    before = await with_times(cluster)
    planned = (await cluster.world.termination(JOB)).schedule.next_poll_at
    await (await cluster.replica("b", TWO)).step()
    assert await cluster.steps_s() == 0
    assert await times(cluster) == before
    assert (await cluster.world.termination(JOB)).schedule.next_poll_at == planned
