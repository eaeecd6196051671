"""Live replicas, the partitions they hold, and writes that a lost lease prevents."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Interval, insert, literal, select, update

from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.errors import LeaseLost
from orchestrator.domain.leasing.leases import FencingToken
from orchestrator.domain.model.attempt import AttemptResult, NewAttempt
from orchestrator.domain.model.batch_job import InstanceSeen, TaskPage, TaskSeen, TaskSubmitted
from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.domain.model.instance_scan import InstanceScan
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.machine import MachineStatus
from orchestrator.domain.model.observation import CallAcknowledged, CallStarted, Withdrawn
from orchestrator.store import schema
from orchestrator.store.database.database import Database
from orchestrator.store.partition.lease_store import SqlLeaseStore
from orchestrator.store.partition.partition_store import PartitionStore
from orchestrator.store.records.queries import SqlRecords
from tests.support.clock import ManualClock
from tests.support.operation_records import operation_records
from tests.support.stored_operations import (
    PARTITION,
    due_for_batch_poll,
    only,
    ready_to_call,
    start,
    submit,
)
from tests.unit.domain.build import NOW, POLICY, later, read

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from orchestrator.domain.model.machine import CapturedMachine
    from orchestrator.store.database.transaction import Transaction

OTHER = "other@host"
LEASE_S = 100.0
"""Far longer than a test takes: the server's clock advances while the test's does not."""


@dataclass(frozen=True, slots=True)
class LeaseWorld:
    """A database with leases, and its clock: the test's, unless the database has its own."""

    database: Database
    clock: ManualClock

    @property
    def leases(self) -> SqlLeaseStore:
        return SqlLeaseStore(self.database)

    async def passes(self, seconds: float) -> None:
        """Let time pass; if the clock is the server's, move all stored deadlines instead."""
        if not self.database.dialect.shared:
            self.clock.advance(seconds)
            return

        async def work(transaction: Transaction) -> None:
            expires_at = schema.replicas.c.expires_at
            nearer = expires_at - literal(timedelta(seconds=seconds), Interval)
            await transaction.execute(update(schema.replicas).values(expires_at=nearer))

        await self.database.write(work)

    async def live(self, *names: str, replicas: tuple[str, ...], lease_s: float = LEASE_S) -> None:
        """Store several live replicas, which on SQLite is impossible by joining."""

        async def work(transaction: Transaction) -> None:
            expires_at = await transaction.clock() + timedelta(seconds=lease_s)
            rows = [
                {"id": name, "partitions": list(names), "expires_at": expires_at}
                for name in replicas
            ]
            await transaction.execute(insert(schema.replicas), rows)
            known = set((await transaction.execute(select(schema.partitions.c.name))).scalars())
            for name in set(names) - known:
                await transaction.execute(insert(schema.partitions).values(name=name, epoch=0))

        await self.database.write(work)

    async def lives(self) -> set[str]:
        async with self.database.read() as connection:
            return set((await connection.execute(select(schema.replicas.c.id))).scalars())

    async def held(self) -> dict[str, tuple[str | None, int]]:
        async with self.database.read() as connection:
            found = await connection.execute(select(schema.partitions))
            return {row.name: (row.holder, row.epoch) for row in found}

    async def contents(self) -> dict[str, set[str]]:
        async with self.database.read() as connection:
            return {
                name: {str(row) for row in await connection.execute(select(table))}
                for name, table in schema.metadata.tables.items()
            }


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[LeaseWorld]:
    clock = ManualClock()
    async with Database(database_url, clock.now) as database:
        yield LeaseWorld(database, clock)


async def take(world: LeaseWorld, replica: str, *names: str) -> list[FencingToken]:
    held = await world.held()
    return await world.leases.take(replica, {name: held[name][1] for name in names})


# --- live replicas -------------------------------------------------------------------------------


async def test_a_replica_that_joins_is_live_and_holds_nothing(world: LeaseWorld) -> None:
    await world.leases.join("a", {"p2", "p1"}, LEASE_S)
    standing = await world.leases.renew("a", LEASE_S)
    assert standing is not None
    assert standing.candidates == {"a": ["p1", "p2"]}
    assert standing.holders == {"p1": None, "p2": None}
    assert standing.epochs == {"p1": 0, "p2": 0}
    assert standing.next_expiry_s == math.inf


async def test_partitions_that_are_known_stay_as_they_are_when_another_joins(
    world: LeaseWorld,
) -> None:
    await world.leases.join("a", ["p1"], LEASE_S)
    await take(world, "a", "p1")
    await world.leases.join("b", ["p1", "p2"], LEASE_S)
    assert await world.held() == {"p1": ("a", 1), "p2": (None, 0)}
    # A file has one replica: any earlier one is dead.
    shared = world.database.dialect.shared
    assert await world.lives() == ({"a", "b"} if shared else {"b"})


async def test_many_join_at_once(world: LeaseWorld) -> None:
    names = [f"p{number}" for number in range(5)]
    await asyncio.gather(
        *(world.leases.join(replica, names, LEASE_S) for replica in "abcdefgh"),
    )
    assert await world.held() == dict.fromkeys(names, (None, 0))
    assert len(await world.lives()) == (8 if world.database.dialect.shared else 1)


async def test_a_renewal_extends_the_lease(world: LeaseWorld) -> None:
    await world.live("p1", replicas=("a", "b"))
    for _ in range(3):
        await world.passes(0.9 * LEASE_S)
        for replica in ("a", "b"):
            assert await world.leases.renew(replica, LEASE_S) is not None
    assert await world.lives() == {"a", "b"}


async def test_an_expired_replica_is_dead_once_another_renews(world: LeaseWorld) -> None:
    await world.live("p1", "p2", replicas=("a", "b"))
    await take(world, "a", "p1")
    await take(world, "b", "p2")
    await world.passes(0.9 * LEASE_S)
    await world.leases.renew("b", LEASE_S)
    await world.passes(0.2 * LEASE_S)
    standing = await world.leases.renew("b", LEASE_S)
    assert standing is not None
    assert standing.candidates == {"b": ["p1", "p2"]}
    assert standing.holders == {"p1": None, "p2": "b"}
    assert standing.epochs == {"p1": 1, "p2": 1}
    assert standing.next_expiry_s == math.inf
    assert await world.lives() == {"b"}
    assert await world.leases.take("b", {"p1": 1}) == [FencingToken("p1", 2)]


async def test_a_late_renewal_finds_nothing_once_another_replica_saw_the_expiry(
    world: LeaseWorld,
) -> None:
    await world.live("p1", replicas=("a", "b"), lease_s=1.0)
    await world.leases.renew("b", LEASE_S)
    await world.passes(2.0)
    await world.leases.renew("b", LEASE_S)
    assert await world.leases.renew("a", LEASE_S) is None
    assert await world.lives() == {"b"}


async def test_a_late_renewal_that_no_replica_noticed_keeps_its_partitions(
    world: LeaseWorld,
) -> None:
    await world.live("p1", replicas=("a", "b"))
    (fence,) = await take(world, "a", "p1")
    await world.passes(2 * LEASE_S)
    standing = await world.leases.renew("a", LEASE_S)
    assert standing is not None
    assert (standing.holders, standing.epochs) == ({"p1": "a"}, {"p1": fence.epoch})
    assert await world.leases.renew("b", LEASE_S) is None
    await PartitionStore(world.database, fence).set_health(None, None)


async def test_of_two_late_renewals_at_once_one_finds_itself_dead(world: LeaseWorld) -> None:
    for _ in range(5):
        await world.live("p1", replicas=("a", "b"))
        await world.passes(2 * LEASE_S)
        found = await asyncio.gather(
            *(world.leases.renew(replica, LEASE_S) for replica in ("a", "b"))
        )
        assert [standing is None for standing in found].count(True) == 1
        assert len(await world.lives()) == 1
        for replica in ("a", "b"):
            await world.leases.leave(replica)


async def test_a_replica_that_never_joined_is_not_live(world: LeaseWorld) -> None:
    assert await world.leases.renew("nobody", LEASE_S) is None
    assert await world.lives() == set()


async def test_the_next_to_expire_is_another_one_and_the_soonest(world: LeaseWorld) -> None:
    await world.live("p1", replicas=("b",), lease_s=50.0)
    await world.live("p1", replicas=("c",), lease_s=70.0)
    await world.live("p1", replicas=("a",), lease_s=1.0)
    standing = await world.leases.renew("a", 40.0)
    assert standing is not None
    # The server's clock goes on.
    assert 40.0 < standing.next_expiry_s <= 50.0
    assert set(standing.candidates) == {"a", "b", "c"}


@pytest.mark.parametrize(("lasts_s", "live"), [(1.9 * LEASE_S, True), (2.1 * LEASE_S, False)])
async def test_a_lease_from_before_the_clock_was_set_back_has_ended(
    world: LeaseWorld, lasts_s: float, *, live: bool
) -> None:
    await world.live("p1", replicas=("a",))
    await world.live("p1", replicas=("b",), lease_s=lasts_s)
    await take(world, "b", "p1")
    standing = await world.leases.renew("a", LEASE_S)
    assert standing is not None
    assert standing.holders == {"p1": "b" if live else None}
    assert await world.lives() == ({"a", "b"} if live else {"a"})


async def test_a_replica_that_leaves_has_released_everything(world: LeaseWorld) -> None:
    await world.live("p1", replicas=("a", "b"))
    await take(world, "a", "p1")
    await world.leases.leave("a")
    await world.leases.leave("a")
    standing = await world.leases.renew("b", LEASE_S)
    assert standing is not None
    assert standing.holders == {"p1": None}
    assert set(standing.candidates) == {"b"}
    assert await world.leases.take("b", standing.epochs) == [FencingToken("p1", 2)]


# --- holding -------------------------------------------------------------------------------------


async def test_of_many_takers_one_gets_a_partition(world: LeaseWorld) -> None:
    takers = [f"replica-{number}" for number in range(8)]
    await world.live("p1", "p2", replicas=tuple(takers))
    taken = await asyncio.gather(
        *(world.leases.take(taker, {"p1": 0, "p2": 0}) for taker in takers)
    )
    assert sorted(fence.partition for fences in taken for fence in fences) == ["p1", "p2"]
    holders = {
        fence.partition: taker for taker, each in zip(takers, taken, strict=True) for fence in each
    }
    assert await world.held() == {name: (holders[name], 1) for name in ("p1", "p2")}


async def test_only_partitions_unchanged_since_they_were_read_are_taken(world: LeaseWorld) -> None:
    await world.live("p1", "p2", replicas=("a", "b"))
    await take(world, "a", "p1")
    assert await world.leases.take("b", {"p1": 0, "p2": 0, "p3": 0}) == [FencingToken("p2", 1)]
    assert await world.held() == {"p1": ("a", 1), "p2": ("b", 1)}


async def test_a_released_partition_is_free_at_once_and_keeps_its_epoch(world: LeaseWorld) -> None:
    await world.live("p1", replicas=("a", "b"))
    (fence,) = await take(world, "a", "p1")
    await world.leases.release(fence)
    assert await world.held() == {"p1": (None, 1)}
    assert await world.leases.take("b", {"p1": 1}) == [FencingToken("p1", 2)]


async def test_a_partition_held_by_another_replica_cannot_be_released(world: LeaseWorld) -> None:
    await world.live("p1", replicas=("a", "b"))
    (stale,) = await take(world, "a", "p1")
    await take(world, "b", "p1")
    await world.leases.release(stale)
    assert await world.held() == {"p1": ("b", 2)}


async def test_partitions_of_one_replica_pass_on_one_by_one(world: LeaseWorld) -> None:
    await world.live("p1", "p2", "p3", replicas=("a", "b"))
    p1, p2, p3 = await take(world, "a", "p1", "p2", "p3")
    await world.leases.release(p1)
    await take(world, "b", "p2")
    assert await world.held() == {"p1": (None, 1), "p2": ("b", 2), "p3": ("a", 1)}
    await PartitionStore(world.database, p3).set_health(None, None)
    for lost in (p1, p2):
        with pytest.raises(LeaseLost, match=f"{lost.partition} is no longer held"):
            await PartitionStore(world.database, lost).set_health(None, None)


@pytest.mark.parametrize(
    "fence", [FencingToken("p1", 0), FencingToken("p1", 1), FencingToken("p2", 0)]
)
async def test_a_free_partition_accepts_no_fencing_token(
    world: LeaseWorld, fence: FencingToken
) -> None:
    await world.live("p1", replicas=("a",))

    async def work(transaction: Transaction) -> None:
        await transaction.lock_partition(fence)

    with pytest.raises(LeaseLost):
        await world.database.write(work)


async def test_each_fencing_token_of_a_transaction_is_checked(world: LeaseWorld) -> None:
    await world.live("p1", "p2", replicas=("a", "b"))
    mine, lost = await take(world, "a", "p1", "p2")
    await take(world, "b", "p2")

    async def work(transaction: Transaction) -> None:
        await transaction.lock_partition(mine)
        await transaction.lock_partition(mine)
        await transaction.lock_partition(lost)

    with pytest.raises(LeaseLost, match="p2"):
        await world.database.write(work)


# --- writing as the holder -----------------------------------------------------------------------

if TYPE_CHECKING:
    Ready = Callable[[PartitionStore], Awaitable[Callable[[], Awaitable[object]]]]


async def applying(store: PartitionStore) -> Callable[[], Awaitable[object]]:
    before = await only(store)
    decision = decide(before, Withdrawn(), later(1), POLICY)
    return lambda: store.apply([(before, decision)], later(1))


async def looking(store: PartitionStore) -> Callable[[], Awaitable[object]]:
    before = await only(store)
    decision = decide(before, read(None, at=later(1)), later(1), POLICY)
    assert decision.event is None
    return lambda: store.apply([(before, decision)], later(1))


async def postponing(store: PartitionStore) -> Callable[[], Awaitable[object]]:
    before = await only(store)
    return lambda: store.postpone([before.id], later(99))


async def starting(store: PartitionStore) -> Callable[[], Awaitable[object]]:
    ready = await ready_to_call(store)
    started = decide(ready, CallStarted(), NOW, POLICY)
    attempt = NewAttempt(action="TerminateJob", target=ready.job_id, sent_at=NOW)
    return lambda: store.start_attempt(ready, started, attempt)


async def finishing(store: PartitionStore) -> Callable[[], Awaitable[object]]:
    sending = await start(store, await ready_to_call(store))
    accepted = decide(sending, CallAcknowledged("r1"), later(1), POLICY)
    answer = AttemptResult(at=later(1), outcome="accepted", request_id="r1")
    return lambda: store.finish_attempt(sending, accepted, answer)


async def troubling(store: PartitionStore) -> Callable[[], Awaitable[object]]:
    return lambda: store.set_health(ErrorDetail(code="C", message="m"), None)


async def capturing(store: PartitionStore) -> Callable[[], Awaitable[object]]:
    return partial(
        store.instances.write_capture, await only(store), InstanceScan(run=1), awaits=False
    )


async def looking_up(store: PartitionStore) -> Callable[[], Awaitable[object]]:
    return partial(store.instances.machines_seen, [(await captured(store), MachineStatus.UP)], NOW)


async def hiding(store: PartitionStore) -> Callable[[], Awaitable[object]]:
    return partial(
        store.instances.record_machines_invisible,
        await captured(store),
        ErrorDetail(code="C", message="m"),
    )


async def captured(store: PartitionStore) -> CapturedMachine:
    task = TaskSubmitted(name="a", instances=1)
    await store.instances.write_capture(
        await only(store), InstanceScan(run=1, tasks=(task,)), awaits=False
    )
    page = TaskPage(
        observed_at=NOW,
        task=TaskSeen(name="a"),
        instances=(InstanceSeen(index=0, state=None, machine_id="ins-1"),),
        rows=1,
        instances_total=1,
    )
    await store.instances.write_capture(await only(store), InstanceScan(run=1), page, awaits=False)
    (machine,) = await store.instances.machines_due(NOW, NOW, 1)
    return machine


WRITES = [
    applying,
    looking,
    postponing,
    starting,
    finishing,
    troubling,
    capturing,
    looking_up,
    hiding,
]


async def lose(world: LeaseWorld, fence: FencingToken, how: str) -> None:
    if how == "given back":
        await world.leases.release(fence)
    else:
        await take(world, "b", fence.partition)


@pytest.mark.parametrize("how", ["given back", "passed on"])
@pytest.mark.parametrize("ready", WRITES)
async def test_no_write_changes_anything_after_the_lease_is_lost(
    world: LeaseWorld, ready: Ready, how: str
) -> None:
    await world.live(PARTITION, OTHER, replicas=("a", "b"))
    (fence,) = await take(world, "a", PARTITION)
    records = SqlRecords(world.database, lambda: NOW)
    await submit(records, 1, "job-1")
    write = await ready(PartitionStore(world.database, fence))
    await lose(world, fence, how)
    before = await world.contents()
    with pytest.raises(LeaseLost, match=f"{PARTITION} is no longer held under epoch 1"):
        await write()
    assert await world.contents() == before


@pytest.mark.parametrize("ready", WRITES)
async def test_each_of_these_writes_changes_something(world: LeaseWorld, ready: Ready) -> None:
    """While the lease is held; otherwise the test above would prove nothing."""
    await world.live(PARTITION, replicas=("a", "b"))
    (fence,) = await take(world, "a", PARTITION)
    await submit(SqlRecords(world.database, lambda: NOW), 1, "job-1")
    write = await ready(PartitionStore(world.database, fence))
    before = await world.contents()
    await write()
    assert await world.contents() != before


@pytest.mark.parametrize("how", ["given back", "passed on"])
async def test_a_lost_lease_fails_no_write_that_shared_its_transaction(
    world: LeaseWorld, how: str
) -> None:
    await world.live(PARTITION, OTHER, replicas=("a", "b"))
    lost, mine = await take(world, "a", PARTITION, OTHER)
    records = SqlRecords(world.database, lambda: NOW)
    await submit(records, 1, "job-1")
    stale = await troubling(PartitionStore(world.database, lost))
    await lose(world, lost, how)
    first, error, second, standing = await asyncio.gather(
        submit(records, 2, "job-2"),
        stale(),
        PartitionStore(world.database, mine).set_health(ErrorDetail(code="C", message="m"), None),
        world.leases.renew("a", LEASE_S),
        return_exceptions=True,
    )
    assert (first, second) == ("op_2", None)
    assert isinstance(error, LeaseLost)
    assert not isinstance(standing, BaseException)
    assert standing is not None
    assert await records.troubles() == {OTHER: ("C", "a")}


# --- partitions with work ------------------------------------------------------------------------


async def test_a_partition_has_work_until_nothing_is_left_to_do_for_its_loops(
    world: LeaseWorld,
) -> None:
    await world.live(PARTITION, OTHER, replicas=("a",))
    (fence,) = await take(world, "a", PARTITION)
    store, records = PartitionStore(world.database, fence), SqlRecords(world.database, lambda: NOW)

    async def with_work() -> set[str]:
        return await world.leases.with_work([PARTITION, OTHER])

    async def change(values: dict[str, object]) -> None:
        await world.database.write(
            lambda transaction: transaction.execute(update(schema.terminations).values(values))
        )

    assert await with_work() == set()
    await submit(records, 1, "job-1")
    assert await with_work() == {PARTITION}
    assert await world.leases.with_work([OTHER]) == set()
    await start(store, await ready_to_call(store))
    ended = {"state": State.UNVERIFIED, "finished_at": NOW}
    await change(ended | {"next_poll_at": None, "terminate_after": None})
    assert await with_work() == {PARTITION}, "an attempt has no result"
    closed = {"answered_at": NOW, "outcome": "interrupted"}
    await world.database.write(
        lambda transaction: transaction.execute(update(schema.attempts).values(closed))
    )
    assert await with_work() == set()
    await change({"revival_checked_at": NOW})
    assert await with_work() == {PARTITION}, "a revival would be recorded"


# --- handing over --------------------------------------------------------------------------------


async def test_unfinished_work_of_a_region_goes_to_the_partition_of_its_host(
    world: LeaseWorld,
) -> None:
    await world.live(PARTITION, "main@new", replicas=("a",))
    old, new = await take(world, "a", PARTITION, "main@new")
    records = SqlRecords(world.database, lambda: NOW)
    await submit(records, 1, "job-done")
    store = PartitionStore(world.database, old)
    await (await applying(store))()
    await submit(records, 2, "job-1")
    await submit(records, 3, "job-2", region="ap-shanghai")
    await submit(records, 4, "job-3", account="another")
    stale = await due_for_batch_poll(store, 10)
    await world.leases.reassign_region(account="main", region="ap-guangzhou", partition="main@new")
    found = await records.terminations(after=0, limit=10)
    assert {each.termination.job_id: each.termination.partition for each in found} == {
        "job-done": PARTITION,
        "job-1": "main@new",
        "job-2": PARTITION,
        "job-3": PARTITION,
    }
    listed = await operation_records(records)
    assert {each.id: each.partition for each in listed} == {
        "op_1": PARTITION,
        "op_2": "main@new",
        "op_3": PARTITION,
        "op_4": PARTITION,
    }
    # What was read before, under the old partition's lease, is not this one's to decide any more.
    moves = [(each, decide(each, Withdrawn(), NOW, POLICY)) for each in stale]
    assert await store.apply(moves, NOW) == 2
    (adopted,) = await due_for_batch_poll(PartitionStore(world.database, new), 10)
    assert adopted.job_id == "job-1"
