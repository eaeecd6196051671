"""Partitions of several replicas: shares, moves, and renewals that fail.

Leases expire by the database's clock; a replica stops in time by the clock of its own machine.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import pytest

from orchestrator.domain.errors import LeaseLost, StoreUnavailable
from orchestrator.domain.leasing.leases import FencingToken
from orchestrator.engine.partition import ACTIONS
from orchestrator.engine.replica import lease_manager as engine_leases
from orchestrator.engine.replica.lease_manager import running
from orchestrator.engine.replica.partition_runner import PartitionRunner
from orchestrator.store.partition.lease_store import SqlLeaseStore
from tests.support import HANG_S
from tests.support.partition_world import JOB, PARTITION, NoJitter
from tests.support.replica_world import (
    POLICY,
    Cluster,
    Gate,
    IdleLoops,
    PartitionRow,
    Replica,
    is_stopped,
    own_logs,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SIXTY = [f"p{number:02}@cloud" for number in range(60)]
SIX = SIXTY[:6]
TWO = ["a@cloud", PARTITION]
"""The replica that holds both passes on the second."""
POINTS = [(what, when) for what in ("renew", "take", "release") for when in ("before", "after")]


@pytest.fixture
async def cluster(database_url: str) -> AsyncIterator[Cluster]:
    async with Cluster(database_url) as cluster:
        yield cluster


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until the condition is true."""
    async with asyncio.timeout(HANG_S):
        while not condition():  # noqa: ASYNC110 - no event is set for it
            await asyncio.sleep(0)


# --- fair shares ---------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", range(3))
async def test_three_share_evenly_and_replace_a_lost_one(cluster: Cluster, lost: int) -> None:
    replicas = []
    for name in "abc":
        replicas.append(await cluster.replica(name, SIXTY))
        replicas[-1].steps_at = cluster.now_s
        await cluster.play(5 * POLICY.retry_s)
    assert await cluster.shares() == {each.id: 20 for each in replicas}
    changes = await cluster.changes()
    assert changes == 60 + 30 + 20, "all to the first, half to the second, a third to the third"

    gone = replicas.pop(lost)
    cluster.stop_stepping(gone)
    await cluster.play(POLICY.duration_s + 1.0)
    assert await cluster.shares() == {each.id: 30 for each in replicas}
    await cluster.play(60.0)
    assert await cluster.changes() == changes + 20

    gone.steps_at = cluster.now_s
    await cluster.play(5 * POLICY.retry_s)
    replicas.append(gone)
    assert await cluster.shares() == {each.id: 20 for each in replicas}
    await cluster.play(60.0)
    assert await cluster.changes() == changes + 20 + 20
    await cluster.check_sound(*replicas)


async def test_a_step_changes_nothing_where_the_shares_are_even(cluster: Cluster) -> None:
    replicas = [await cluster.replica(name, SIX) for name in "abc"]
    await cluster.play(5 * POLICY.retry_s)
    before, ran = await cluster.rows(), [list(each.loops) for each in replicas]
    for replica in replicas:
        replica.link.asked.clear()
        wait_s = await replica.step()
        assert replica.link.asked == ["renew", "with_work"]
        assert wait_s == POLICY.retry_s
    assert await cluster.rows() == before
    assert [each.loops for each in replicas] == ran


async def test_the_first_takes_all_at_once_and_gives_half_to_the_second(cluster: Cluster) -> None:
    first, second = [await cluster.replica(name, SIXTY) for name in "ab"]
    await first.step()
    assert first.runs == set(SIXTY)
    await second.step()
    assert second.runs == set(), "nothing is released yet"
    await first.step()
    await second.step()
    assert (len(first.runs), len(second.runs)) == (30, 30)
    assert first.runs | second.runs == set(SIXTY)
    await cluster.check_sound(first, second)


async def test_of_two_replicas_one_takes_a_free_partition(cluster: Cluster) -> None:
    """The first replica has read a snapshot without others, and is slow."""
    first, second = [await cluster.replica(name, SIX) for name in "ab"]
    taking = first.link.hold("take", "before")
    step = asyncio.create_task(first.step())
    await taking.reached()
    await second.step()
    assert len(second.runs) == 3
    taking.open()
    await step
    assert first.runs == set(SIX) - second.runs
    await first.step()
    assert {row.epoch for row in (await cluster.rows()).values()} == {1}
    await cluster.check_sound(first, second)


async def test_a_dead_replica_is_replaced_as_soon_as_its_lease_has_expired(
    cluster: Cluster,
) -> None:
    """That is sooner than the next regular step, after ``retry_s``."""
    first, second = [await cluster.replica(name, SIX) for name in "ab"]
    await first.step()
    cluster.stop_stepping(first)
    died_at = cluster.now_s
    await cluster.play(POLICY.duration_s - 0.01)
    assert second.runs == set()
    await cluster.play(0.02)
    assert second.runs == set(SIX)
    assert cluster.now_s - died_at < POLICY.duration_s + 0.1
    assert {row.epoch for row in (await cluster.rows()).values()} == {2}


async def test_each_drives_only_what_it_is_configured_for(cluster: Cluster) -> None:
    first = await cluster.replica("a", ["both@cloud", "old@cloud", "only-a@cloud"])
    await first.step()
    assert first.runs == {"both@cloud", "old@cloud", "only-a@cloud"}
    cluster.stop_stepping(first)
    await cluster.play(POLICY.duration_s)
    first = await cluster.replica("a2", ["both@cloud", "only-a@cloud"])
    second = await cluster.replica("b", ["both@cloud", "only-b@cloud", "other-b@cloud"])
    await cluster.play(5 * POLICY.retry_s)
    assert first.runs == {"both@cloud", "only-a@cloud"}
    assert second.runs == {"only-b@cloud", "other-b@cloud"}
    assert (await cluster.rows())["old@cloud"].epoch == 1
    await cluster.check_sound(first, second)


async def test_a_partition_that_no_replica_is_configured_for_stays_free(cluster: Cluster) -> None:
    before = await cluster.replica("before", ["kept@cloud", "old@cloud"])
    await before.step()
    cluster.stop_stepping(before)
    after = await cluster.replica("after", ["kept@cloud"])
    await cluster.play(2 * POLICY.duration_s)
    assert after.runs == {"kept@cloud"}
    assert (await cluster.rows())["old@cloud"] == PartitionRow(before.id, 1)
    assert await cluster.live() == {after.id}
    assert "release" not in after.link.asked


async def test_a_held_partition_that_is_not_configured_is_released(cluster: Cluster) -> None:
    await (first := await cluster.replica("a", SIX)).step()
    second = await cluster.replica("b", ["other@cloud"])
    await second.step()
    (fence,) = await SqlLeaseStore(second._database).take(first.id, {"other@cloud": 1})
    await first.step()
    assert (await cluster.rows())["other@cloud"] == PartitionRow(None, fence.epoch)
    for _ in range(2):
        await second.step()
        await second.settled()
    assert second.runs == {"other@cloud"}
    await cluster.check_sound(first, second)


# --- moving a partition --------------------------------------------------------------------------


async def test_it_passes_on_once_its_calls_have_ended_and_are_written(cluster: Cluster) -> None:
    giver = await cluster.replica("a", TWO, PartitionRunner)
    await giver.step()
    world, later = cluster.world, "job-later001"
    await world.ready(JOB)
    answer = giver.network.hold("TerminateJob")
    cluster.advance(1.0)
    giver.leases.on_notification(PARTITION)
    await giver.network.arrival("TerminateJob")
    taker = await cluster.replica("b", TWO)
    await taker.step()

    giving = asyncio.create_task(giver.step())
    (loops,) = giver.loops_of(PARTITION)
    await eventually(lambda: is_stopped(loops))
    await world.ready(later)
    for _ in range(3):
        await taker.step()
    assert taker.runs == set()
    assert "release" not in giver.link.asked
    assert await world.outcomes(JOB) == [None]
    answer.set()
    await giving
    assert await world.outcomes(JOB) == ["accepted"], "written while it was held"
    assert (await cluster.rows())[PARTITION] == PartitionRow(None, 1)
    assert giver.runs == {"a@cloud"}
    assert not giver.holds(PARTITION)

    await taker.step()
    assert taker.leases.running[PARTITION].lease.fence == FencingToken(PARTITION, 2)
    assert world.called("TerminateJob") == [JOB]
    with pytest.raises(LeaseLost):
        await loops.partition.store.set_health(None, None)
    await cluster.check_sound(giver, taker)


async def test_while_its_last_call_ends_it_is_renewed(cluster: Cluster) -> None:
    giver, taker = await _giving(cluster)
    for _ in range(20):
        cluster.advance(POLICY.retry_s)
        await giver.step()
        await taker.step()
    assert giver.runs == set(TWO)
    assert giver.holds(PARTITION)
    assert taker.runs == set()
    _last_call(giver).open()
    await giver.settled()
    assert giver.leases.wake.is_set(), "a step is due at once"
    await taker.step()
    assert (giver.runs, taker.runs) == ({"a@cloud"}, {PARTITION})
    await cluster.check_sound(giver, taker)


async def test_a_released_partition_is_taken_again_if_its_new_holder_dies(
    cluster: Cluster,
) -> None:
    giver, taker = await _giving(cluster)
    cluster.stop_stepping(taker)
    for _ in range(9):
        cluster.advance(POLICY.retry_s)
        await giver.step()
    assert giver.runs == set(TWO)
    assert len(giver.loops) == 2, "never two of one partition at once"
    _last_call(giver).open()
    await giver.settled()
    await giver.step()
    assert giver.runs == set(TWO)
    assert (await cluster.rows())[PARTITION] == PartitionRow(giver.id, 2)
    await cluster.check_sound(giver)


async def _giving(cluster: Cluster, *own: str) -> tuple[Replica, Replica]:
    """Return a replica that runs two partitions, and another that is to take one of them.

    The last call of that partition takes long. Only the first replica is configured for ``own``.
    """
    giver, taker = await cluster.replica("a", [*TWO, *own]), await cluster.replica("b", TWO)
    await giver.step()
    (loops,) = giver.loops_of(PARTITION)
    assert isinstance(loops, IdleLoops)
    loops.last_call = Gate()
    await taker.step()
    await giver.step()
    assert is_stopped(loops)
    return giver, taker


def _last_call(replica: Replica) -> Gate:
    loops = replica.loops_of(PARTITION)[0]
    assert isinstance(loops, IdleLoops)
    assert loops.last_call is not None
    return loops.last_call


async def test_no_call_leaves_in_the_second_after_it_was_taken(cluster: Cluster) -> None:
    first = await cluster.replica("a", TWO)
    await first.step()
    await cluster.world.ready(JOB, next_poll_at=cluster.world.clock.now())
    cluster.stop_stepping(first)
    cluster.advance(POLICY.duration_s)
    second = await cluster.replica("b", TWO, PartitionRunner)
    left_at: list[float] = []

    async def note(_action: str) -> None:
        left_at.append(cluster.now_s)

    second.network.before_arrival = note
    assert await second.step() == 0.0, "joined; a renewal declares the first one dead"
    await second.step()
    taken_at = cluster.now_s
    (loops,) = second.loops_of(PARTITION)
    assert [loops.partition.limiters[action].wait_s() for action in ACTIONS] == [1.0] * len(ACTIONS)
    await second.machine.waits.get()
    cluster.advance(1.0)
    second.leases.on_notification(PARTITION)
    await second.network.arrival("TerminateJob")
    assert min(left_at) >= taken_at + 1.0


# --- renewals that fail --------------------------------------------------------------------------


async def test_it_stops_calling_so_long_after_it_asked_for_its_last_renewal(
    cluster: Cluster,
) -> None:
    await (replica := await cluster.replica("a", TWO)).step()
    cluster.advance(3.0)
    asked_at, slow = cluster.now_s, replica.link.hold("renew", "after")
    renewing = asyncio.create_task(replica.step())
    await slow.reached()
    cluster.advance(4.0)
    slow.open()
    await renewing
    replica.link.cut = True
    (loops,) = replica.loops_of(PARTITION)
    while cluster.now_s < asked_at + POLICY.renewal_deadline_s - 0.5:
        assert replica.holds(PARTITION)
        with pytest.raises(StoreUnavailable):
            await replica.step()
        cluster.advance(0.5)
    assert replica.holds(PARTITION)
    cluster.advance(asked_at + POLICY.renewal_deadline_s - cluster.now_s)
    assert not any(replica.holds(name) for name in TWO)
    with pytest.raises(LeaseLost):
        await loops.partition.limiters["DescribeJob"].send(
            loops.partition.limiters["DescribeJob"].take(), _never
        )
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await replica.step()
        cluster.advance(1.0)
        assert not any(replica.holds(name) for name in TWO)


async def _never() -> None:
    raise AssertionError("it was called")


async def test_a_lease_counts_from_when_it_was_requested(cluster: Cluster) -> None:
    replica = await cluster.replica("a", TWO)
    asked_at, slow = cluster.now_s, replica.link.hold("take", "after")
    taking = asyncio.create_task(replica.step())
    await slow.reached()
    cluster.advance(4.0)
    slow.open()
    await taking
    cluster.advance(asked_at + POLICY.renewal_deadline_s - cluster.now_s - 0.1)
    assert all(replica.holds(name) for name in TWO)
    cluster.advance(0.1)
    assert not any(replica.holds(name) for name in TWO)


@pytest.mark.parametrize("others", [0, 1])
async def test_a_replica_that_resumes_within_its_lease_continues(
    cluster: Cluster, others: int
) -> None:
    """It is the only replica, so after any time away nothing has been taken."""
    await (replica := await cluster.replica("a", TWO)).step()
    for _ in range(others):
        await (await cluster.replica("b", ["b@cloud"])).step()
    ran, before = list(replica.loops), await cluster.rows()
    replica.link.cut = True
    for _ in range(7 if others else 70):
        cluster.advance(2.0)
        with pytest.raises(StoreUnavailable):
            await replica.step()
    assert not replica.holds(PARTITION)
    replica.link.cut = False
    await replica.step()
    assert all(replica.holds(name) for name in TWO)
    assert replica.loops == ran
    assert await cluster.rows() == before
    assert replica.ids == ["a.1"]
    await cluster.check_sound(replica)


async def test_a_replica_that_resumes_after_its_lease_rejoins_with_a_new_id(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    first, second = [await cluster.replica(name, SIX) for name in "ab"]
    await first.step()
    first.link.cut = True
    cluster.stop_stepping(first)
    await cluster.play(POLICY.duration_s + 1.0)
    assert second.runs == set(SIX)
    caplog.clear()
    old = list(first.loops)
    assert not any(map(is_stopped, old))
    with pytest.raises(StoreUnavailable):
        await first.step()
    first.link.cut = False
    first.link.fail("join", "before")
    with pytest.raises(StoreUnavailable):
        await first.step()
    assert first.runs == set()
    assert all(map(is_stopped, old)), "even where it cannot join again"
    await first.step()
    await first.settled()
    ((level, text),) = own_logs(caplog)
    assert level == "ERROR"
    assert text.startswith("replica a.1 did not renew its leases in time and sends no more API")
    for loops in old:
        assert not loops.partition.lease.holds(float("-inf"))
        with pytest.raises(LeaseLost):
            await loops.partition.store.set_health(None, None)
    await first.step()
    await second.step()
    await first.step()
    assert (len(first.runs), len(second.runs)) == (3, 3)
    assert first.id != "a.1"
    taken = first.leases.running.values()
    assert {each.lease.fence.epoch for each in taken} == {3}
    assert all(each.runner not in old for each in taken)
    await cluster.check_sound(first, second)


async def test_a_paused_replica_calls_and_writes_nothing_when_it_resumes(
    cluster: Cluster,
) -> None:
    first = await cluster.replica("a", TWO, PartitionRunner)
    await first.step()
    world = cluster.world
    await world.ready(JOB)
    cluster.advance(0.96)
    first.leases.on_notification(PARTITION)
    while await world.outcomes(JOB) != [None]:
        pass
    first.paused = True
    cluster.stop_stepping(first)
    second = await cluster.replica("b", TWO)
    await cluster.play(POLICY.duration_s + 1.0)
    assert second.runs == set(TWO)

    first.paused = False
    first.machine.advance(POLICY.duration_s + 1.0)
    (loops,) = first.loops_of(PARTITION)
    async with asyncio.timeout(HANG_S):
        assert await loops.job_terminator.calls.drain(HANG_S), (
            "the call that waited for its permit has ended"
        )
    partition = loops.partition
    for limiter in partition.limiters.values():
        assert math.isinf(limiter.wait_s())
        with pytest.raises(LeaseLost):
            await limiter.send(limiter.take(), _never)
    before = await world.termination(JOB)
    for write in (
        partition.store.set_health(None, None),
        partition.store.postpone([before.id], world.clock.now()),
        loops.job_terminator._close([]),
    ):
        with pytest.raises(LeaseLost):
            await write
    assert await world.termination(JOB) == before
    assert await world.outcomes(JOB) == [None]
    await first.step()
    assert all(map(is_stopped, first.loops))
    assert world.simulator.calls == []
    await first.step()
    await second.step()
    await first.step()
    await cluster.check_sound(first, second)


async def test_a_partition_that_another_replica_took_is_lost_and_logged_once(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """A person can change the database so."""
    first, second = [await cluster.replica(name, TWO) for name in "ab"]
    await first.step()
    old = list(first.loops)
    await second.step()
    await SqlLeaseStore(second._database).take(second.id, {PARTITION: 1})
    caplog.clear()
    for _ in range(3):
        await first.step()
        await second.step()
    assert (first.runs, second.runs) == ({"a@cloud"}, {PARTITION})
    assert [is_stopped(each) for each in old] == [False, True]
    assert not first.holds(PARTITION)
    await cluster.check_sound(first, second)
    assert [level for level, _ in own_logs(caplog) if level != "INFO"] == ["ERROR"]


async def test_a_partition_held_under_another_epoch_is_taken_again(cluster: Cluster) -> None:
    """Nothing could be written under the old epoch."""
    await (replica := await cluster.replica("a", TWO)).step()
    (old,) = replica.loops_of(PARTITION)
    await SqlLeaseStore(replica._database).take(replica.id, {PARTITION: 1})
    await replica.step()
    assert is_stopped(old)
    assert len(replica.loops_of(PARTITION)) == 1, "its calls have not ended"
    await replica.settled()
    await replica.step()
    assert (await cluster.rows())[PARTITION] == PartitionRow(replica.id, 3)
    assert len(replica.loops_of(PARTITION)) == 2
    await cluster.check_sound(replica)


# --- results that are lost -----------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("what", ["join", "renew", "take"])
async def test_a_write_reported_as_failed_is_repaired_by_the_next_step(
    cluster: Cluster, what: str, when: str
) -> None:
    """It was committed or not."""
    replica = await cluster.replica("a", SIX)
    if what == "renew":
        await replica.step()
    replica.link.fail(what, when)
    with pytest.raises(StoreUnavailable):
        await replica.step()
    assert replica.runs == (set(SIX) if what == "renew" else set())
    await replica.step()
    assert replica.runs == set(SIX)
    assert await cluster.live() == {replica.id}
    await cluster.check_sound(replica)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_join_reported_as_failed_takes_nothing_from_others(
    cluster: Cluster, when: str
) -> None:
    others = [await cluster.replica(name, SIX) for name in "ab"]
    await cluster.play(3 * POLICY.retry_s)
    changes = await cluster.changes()
    late = await cluster.replica("c", SIX)
    cluster.stop_stepping(late)
    late.link.fail("join", when)
    with pytest.raises(StoreUnavailable):
        await late.step()
    await late.step()
    await cluster.play(3 * POLICY.retry_s)
    assert await cluster.shares() == {each.id: 2 for each in [*others, late]}
    assert await cluster.changes() == changes + 2


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_release_reported_as_failed_is_repaired_by_the_next_step(
    cluster: Cluster, when: str
) -> None:
    giver, taker = [await cluster.replica(name, TWO) for name in "ab"]
    await giver.step()
    await taker.step()
    giver.link.fail("release", when)
    await giver.step()
    assert (await cluster.rows())[PARTITION].holder == (giver.id if when == "before" else None)
    assert giver.runs == {"a@cloud"}
    assert giver.leases.wake.is_set(), "a step is due at once"
    await giver.step()
    await taker.step()
    assert (giver.runs, taker.runs) == ({"a@cloud"}, {PARTITION})
    await cluster.check_sound(giver, taker)


async def test_a_release_in_a_step_reported_as_failed_is_repaired_by_the_next(
    cluster: Cluster,
) -> None:
    await (first := await cluster.replica("a", SIX)).step()
    await (await cluster.replica("b", ["other@cloud"])).step()
    await SqlLeaseStore(first._database).take(first.id, {"other@cloud": 1})
    first.link.fail("release", "before")
    with pytest.raises(StoreUnavailable):
        await first.step()
    await first.step()
    assert (await cluster.rows())["other@cloud"] == PartitionRow(None, 2)
    await cluster.check_sound(first)


# --- a step during which loops end ---------------------------------------------------------------


@pytest.mark.parametrize(("what", "when"), POINTS)
async def test_partitions_whose_loops_end_during_a_step_are_released_once(
    cluster: Cluster, what: str, when: str
) -> None:
    """The step takes one partition, releases another, and waits somewhere in between."""
    giver, taker = await _giving(cluster, "own@cloud")
    stored = SqlLeaseStore(giver._database)
    await (await cluster.replica("c", ["other@cloud"])).step()
    await stored.take(giver.id, {"other@cloud": 1})
    await stored.release(FencingToken("own@cloud", 1))
    if what == "take":  # A lost partition is taken once its loops have ended.
        await giver.step()
        await giver.settled()

    held = giver.link.hold(what, when)
    step = asyncio.create_task(giver.step())
    await held.reached()
    _last_call(giver).open()
    await giver.settled()
    held.open()
    await step
    for _ in range(2):
        await taker.step()
        await giver.step()
    rows = await cluster.rows()
    assert rows[PARTITION] == PartitionRow(taker.id, 2)
    assert rows["a@cloud"] == PartitionRow(giver.id, 1)
    assert rows["own@cloud"] == PartitionRow(giver.id, 2)
    assert rows["other@cloud"].holder is None
    assert len(giver.loops_of(PARTITION)) == 1
    await cluster.check_sound(giver, taker)


@pytest.mark.parametrize("taker_lives", [True, False])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_steps_during_a_release_cause_no_errors(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, when: str, *, taker_lives: bool
) -> None:
    """The result may arrive late; if the taker leaves, the giver takes the partition again."""
    monkeypatch.setattr(engine_leases, "LEAVE_S", HANG_S)
    giver, taker = await _giving(cluster)
    released = giver.link.hold("release", when)
    _last_call(giver).open()
    await released.reached()
    if not taker_lives:
        await SqlLeaseStore(taker._database).leave(taker.id)
    for _ in range(2):
        cluster.advance(POLICY.retry_s)
        await giver.leases.step()
        if taker_lives:
            await taker.step()
        cluster.check_exclusive()
    released.open()
    await giver.settled()
    for _ in range(2):
        await giver.step()
        if taker_lives:
            await taker.step()
    rows = await cluster.rows()
    assert rows[PARTITION].holder == (taker.id if taker_lives else giver.id)
    assert rows["a@cloud"] == PartitionRow(giver.id, 1)
    await cluster.check_sound(giver, *[taker] * taker_lives)


async def test_a_release_while_a_renewal_finds_the_lease_expired_causes_no_errors(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The renewal was requested first, so it returns first."""
    monkeypatch.setattr(engine_leases, "LEAVE_S", HANG_S)
    giver, taker = await _giving(cluster)
    cluster.stop_stepping(giver)
    await cluster.play(POLICY.duration_s + 1.0)
    assert taker.runs == set(TWO)
    renewed, released = giver.link.hold("renew", "after"), giver.link.hold("release", "before")
    step = asyncio.create_task(giver.leases.step())
    await renewed.reached()
    _last_call(giver).open()
    await released.reached()
    renewed.open()
    await step
    assert giver.runs == set()
    released.open()
    await giver.settled()
    assert (await cluster.rows())[PARTITION] == PartitionRow(taker.id, 2)
    for _ in range(2):
        await giver.step()
        await taker.step()
    await giver.step()
    assert (giver.runs, taker.runs) == ({PARTITION}, {"a@cloud"})
    await cluster.check_sound(giver, taker)


async def test_an_unanswered_release_delays_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_leases, "LEAVE_S", 0.05)
    giver, taker = await _giving(cluster)
    giver.link.hold("release", "before")
    _last_call(giver).open()
    await giver.settled()
    assert giver.runs == {"a@cloud"}
    await giver.step()
    await taker.step()
    assert taker.runs == {PARTITION}
    await cluster.check_sound(giver, taker)


# --- run and stop --------------------------------------------------------------------------------


async def test_it_renews_by_itself_and_steps_at_once_after_a_release(
    cluster: Cluster,
) -> None:
    giver, taker = [await cluster.replica(name, TWO) for name in "ab"]
    async with giver.running():
        assert await giver.machine.waits.get() == POLICY.retry_s
        assert giver.runs == set(TWO)
        await taker.step()
        giver.link.asked.clear()
        cluster.advance(POLICY.retry_s)
        assert await giver.machine.waits.get() == POLICY.retry_s
        assert await giver.machine.waits.get() == POLICY.retry_s
        assert giver.runs == {"a@cloud"}
        written = [each for each in giver.link.asked if each != "with_work"]
        assert written == ["renew", "release", "renew"]
        await taker.step()
        assert taker.runs == {PARTITION}


async def test_stopped_it_gives_all_back_at_once(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = [await cluster.replica(name, SIX) for name in "ab"]
    before = asyncio.all_tasks()
    async with first.running():
        await first.machine.waits.get()
        await second.step()
    assert first.runs == set()
    assert all(map(is_stopped, first.loops))
    assert not any(first.holds(name) for name in SIX)
    assert first.link.asked[-7:] == ["release"] * 6 + ["leave"]
    assert await cluster.live() == {second.id}
    await second.step()
    assert second.runs == set(SIX)
    assert len(asyncio.all_tasks()) == len(before) + len(SIX), "those of the second"
    assert [each for each in own_logs(caplog) if each[0] != "INFO"] == []


async def test_stopped_before_its_first_step_it_asks_for_nothing(cluster: Cluster) -> None:
    replica = await cluster.replica("a", SIX)
    replica.leases.stop()
    async with asyncio.timeout(HANG_S):
        await replica.leases.run(NoJitter())
    assert replica.link.asked == []


async def test_a_second_stop_changes_nothing(cluster: Cluster) -> None:
    replica = await cluster.replica("a", SIX)
    async with replica.running():
        await replica.machine.waits.get()
        replica.leases.stop()
        replica.leases.stop()
    replica.leases.stop()
    assert replica.link.asked.count("leave") == 1
    assert await cluster.live() == set()


@pytest.mark.parametrize(
    ("what", "when"),
    [(what, when) for what in ("join", "renew", "take") for when in ("before", "after")],
)
async def test_stopped_during_a_step_it_gives_all_back(
    cluster: Cluster, what: str, when: str
) -> None:
    replica = await cluster.replica("a", SIX)
    held = replica.link.hold(what, when)
    async with replica.running():
        if what == "renew":
            await replica.machine.waits.get()
            replica.leases.wake.set()
        await held.reached()
        replica.leases.stop()
        held.open()
    assert replica.runs == set()
    assert await cluster.live() == set()
    assert await cluster.shares() == {}
    assert all(map(is_stopped, replica.loops))


async def test_a_replica_stopped_after_a_join_reported_as_failed_is_gone(cluster: Cluster) -> None:
    replica = await cluster.replica("a", SIX)
    replica.link.fail("join", "after")
    async with replica.running():
        await replica.machine.waits.get()
    assert await cluster.live() == set()


async def test_after_a_stop_during_a_step_no_call_starts(cluster: Cluster) -> None:
    replica = await cluster.replica("a", SIX)
    async with replica.running():
        await replica.machine.waits.get()
        held = replica.link.hold("renew", "before")
        replica.leases.wake.set()
        await held.reached()
        replica.leases.stop()
        await asyncio.sleep(0)
        stopped = [is_stopped(loops) for loops in replica.loops]
        held.open()
    assert stopped == [True] * len(SIX)


@pytest.mark.parametrize("what", ["renew", "release", "leave"])
async def test_a_database_that_does_not_answer_delays_a_stop_by_little(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(engine_leases, "LEAVE_S", 0.05)
    replica = await cluster.replica("a", TWO)
    held = []
    async with asyncio.timeout(HANG_S) as patience:
        async with running(replica.leases, NoJitter()):
            await replica.machine.waits.get()
            held.append(replica.link.hold(what, "before"))
            if what == "renew":
                replica.leases.wake.set()
                await held[0].reached()
            # Much more than LEAVE_S, but a limit.
            patience.reschedule(asyncio.get_running_loop().time() + 3.0)
    await held[0].reached()
    assert replica.runs == set()


async def test_a_database_that_fails_at_a_stop_is_left_to_time(cluster: Cluster) -> None:
    first, second = [await cluster.replica(name, SIX) for name in "ab"]
    cluster.stop_stepping(first)
    async with first.running():
        await first.machine.waits.get()
        first.link.cut = True
    assert first.runs == set()
    await cluster.play(POLICY.duration_s + 1.0)
    assert second.runs == set(SIX)


async def test_loops_that_die_take_the_others_and_the_block_with_them(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a BaseException that is no Exception ends a loop; others are logged and retried."""

    class Dead(BaseException):
        pass

    async def dies() -> float:
        raise Dead

    async def idle() -> float:
        return math.inf

    class Idle(PartitionRunner):
        """Loops without a read in progress, which the threads of aiosqlite do not survive."""

        def __post_init__(self) -> None:
            super().__post_init__()
            for loop in self.loops:
                loop.step = idle  # type: ignore[method-assign]

    replica = await cluster.replica("a", TWO, Idle)
    before = asyncio.all_tasks()
    async with asyncio.timeout(HANG_S):
        with pytest.raises(BaseExceptionGroup) as raised:  # noqa: PT012 - the block is what dies
            async with running(replica.leases, NoJitter()):
                await eventually(lambda: len(replica.loops) == len(TWO))
                monkeypatch.setattr(replica.loops[0].single_job_poller, "step", dies)
                replica.leases.on_notification(TWO[0])
                await asyncio.Event().wait()
    assert raised.group_contains(Dead)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_cancelled_it_leaves_nothing_running(cluster: Cluster) -> None:
    replica = await cluster.replica("a", TWO)
    before = asyncio.all_tasks()
    task = asyncio.create_task(replica.leases.run(NoJitter()))
    await replica.machine.waits.get()
    assert len(asyncio.all_tasks() - before) > len(TWO)
    task.cancel()
    async with asyncio.timeout(HANG_S):
        with pytest.raises(asyncio.CancelledError):
            await task
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


# --- partitions without work ---------------------------------------------------------------------


async def test_the_loops_of_a_partition_run_only_while_it_has_work(cluster: Cluster) -> None:
    """Work is found by one query for all partitions, or earlier by a notification."""
    other = next(name for name in TWO if name != PARTITION)
    await (replica := await cluster.replica("a", TWO, PartitionRunner)).step()
    loops = {each.partition.name: each for each in replica.loops}
    assert {name: each.has_work for name, each in loops.items()} == dict.fromkeys(TWO, False)

    await cluster.world.submit(JOB)
    await replica.step()
    assert (loops[PARTITION].has_work, loops[other].has_work) == (True, False)

    await cluster.world.execute(
        "UPDATE terminations SET state = 'withdrawn', finished_at = created_at, next_poll_at = NULL"
    )
    await replica.step()
    assert not loops[PARTITION].has_work
    replica.leases.on_notification(other)
    assert loops[other].has_work


async def test_a_notification_counts_for_more_than_an_earlier_answer(cluster: Cluster) -> None:
    await (replica := await cluster.replica("a", TWO, PartitionRunner)).step()
    (runner,) = replica.loops_of(PARTITION)
    held = replica.link.hold("with_work", "after")
    step = asyncio.create_task(replica.leases.step())
    await held.reached()
    replica.leases.on_notification(PARTITION)
    held.open()
    await step
    assert runner.has_work
    await replica.leases.step()
    assert not runner.has_work


@pytest.mark.parametrize("how", ["fails", "hangs"])
async def test_a_query_of_the_work_that_fails_delays_nothing_and_changes_only_what_is_not_known(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    async def step_without_answer() -> None:
        with monkeypatch.context() as impatient:
            if how == "fails":
                replica.link.fail("with_work", "before")
            else:
                held.append(replica.link.hold("with_work", "before"))
                impatient.setattr(engine_leases, "WORK_QUERY_S", 0.01)
            async with asyncio.timeout(HANG_S):
                await replica.step()
        for gate in held:
            gate.open()

    held: list[Gate] = []
    replica = await cluster.replica("a", TWO, PartitionRunner)
    await step_without_answer()
    assert [each.has_work for each in replica.loops] == [True, True]
    await replica.step()  # takes the late answer, which is older than the wake-ups
    await replica.step()
    assert [each.has_work for each in replica.loops] == [False, False]
    await step_without_answer()
    assert [each.has_work for each in replica.loops] == [False, False]


# --- notifications -------------------------------------------------------------------------------


async def test_a_notice_wakes_the_loops_of_its_partition_or_else_the_leases(
    cluster: Cluster,
) -> None:
    await (replica := await cluster.replica("a", TWO)).step()

    def woken() -> list[str]:
        wakeups = {"leases": replica.leases.wake} | {
            each.name: each.wake
            for loops in replica.loops
            for each in (loops.job_terminator, loops.job_poller, loops.single_job_poller)
        }
        found = sorted(name for name, wake in wakeups.items() if wake.is_set())
        for wake in wakeups.values():
            wake.clear()
        return found

    woken()
    replica.leases.on_notification(PARTITION)
    assert woken() == [
        f"{each} of {PARTITION}" for each in ("job poller", "job terminator", "single-job poller")
    ]
    replica.leases.on_notification("other@cloud")
    assert woken() == []
    replica.leases.on_notification("")
    assert woken() == ["leases"]
