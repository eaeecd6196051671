"""Rescans of live instances, and the calls for each of them, on every database."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import update

from orchestrator.domain.decisions.escalation import RoundFinished, Straggler
from orchestrator.domain.model.attempt import AttemptResult
from orchestrator.domain.model.batch_job import InstanceCounters, JobState
from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.domain.model.instance_scan import LIVE, InstanceScan, ended, with_page
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.machine import MachineStatus
from orchestrator.domain.model.termination import EscalationLevel
from orchestrator.store.records.queries import SqlRecords
from orchestrator.store.schema import instances
from tests.support.captures import TASK, capture, found, instance, page
from tests.support.stored_operations import submit
from tests.support.termination_fields import store_fields
from tests.unit.domain.build import NOW, later

if TYPE_CHECKING:
    from orchestrator.store.database.database import Database
    from orchestrator.store.database.transaction import Transaction
    from orchestrator.store.partition.partition_store import PartitionStore

DRAINING: dict[str, Any] = {
    "state": State.DRAINING,
    "run": 1,
    "instances": InstanceCounters(running=3),
}
ESCALATED = DRAINING | {
    "escalation_level": EscalationLevel.INSTANCES,
    "escalation_started_at": later(10),
    "escalation_round": 1,
}
ID = "trm_1_job-1"


@pytest.fixture
def records(database: Database) -> SqlRecords:
    return SqlRecords(database, lambda: later(20))


async def to_read(store: PartitionStore, *, at: float = 30.0) -> list[str]:
    _, rows = await store.instances.to_read(later(at), 10)
    return [row.id for row in rows]


async def read(
    store: PartitionStore,
    records: SqlRecords,
    *indices: int,
    at: float = 12.0,
    termination_id: str = ID,
) -> None:
    """Read the live instances in one page, in a rescan that began at this time."""
    before = await found(records, termination_id)
    begun = InstanceScan(run=1, tasks=(TASK,), began_at=later(at))
    seen = replace(page(*(instance(n, f"ins-{n}") for n in indices)), observed_at=later(at))
    done = with_page(begun, seen, later(at))
    await store.instances.write_rescan(before, done, seen, due_at=later(at + 5))


async def live(records: SqlRecords) -> list[int]:
    rows = await records.instances(after=0, limit=100, termination_id=ID, states=LIVE, machine=None)
    return [row.index for row in rows]


async def escalated(
    store: PartitionStore, records: SqlRecords, database: Database, **known: Any
) -> None:
    await submit(records, 1, "job-1")
    await capture(store, records, "job-1", *(instance(n, f"ins-{n}") for n in range(3)))
    await store_fields(database, await found(records, ID), **(ESCALATED | known))


async def store_status(database: Database, index: int, sight: MachineStatus) -> None:
    async def work(transaction: Transaction) -> None:
        this = instances.c.instance_index == index
        await transaction.execute(update(instances).where(this).values(machine=sight))

    await database.write(work)


async def start_next(store: PartitionStore) -> Straggler:
    straggler = await store.instances.next_escalation_target()
    assert isinstance(straggler, Straggler)
    await store.instances.open_attempt(straggler, later(13))
    return straggler


async def call_all(store: PartitionStore) -> list[tuple[str, str]]:
    """Make all calls of the round; return the action and the target of each."""
    called = []
    while not isinstance(await store.instances.next_escalation_target(), RoundFinished):
        straggler = await start_next(store)
        called.append((straggler.action, straggler.target))
        answer = AttemptResult(at=later(14), outcome="accepted", request_id="r")
        await store.instances.close_attempt(straggler, answer, again=False)
    assert await store.instances.next_escalation_target() == RoundFinished(ID)
    return called


async def test_escalated_instances_are_rescanned_until_a_read_has_begun_since(
    store: PartitionStore, records: SqlRecords, database: Database
) -> None:
    await escalated(store, records, database)
    assert await to_read(store) == [ID]
    await read(store, records, 1, 2, at=9)
    assert await to_read(store, at=13.9) == [], "not sooner than it is due"
    assert await to_read(store, at=14) == [ID], "it began before the round"
    await read(store, records, 1, 2, at=12)
    assert await to_read(store) == []
    await store_fields(database, await found(records, ID), last_progress_at=later(13))
    assert await to_read(store) == [ID], "fewer are live since"


async def test_too_many_live_instances_are_not_rescanned(
    store: PartitionStore, records: SqlRecords, database: Database
) -> None:
    await escalated(store, records, database, instances=InstanceCounters(running=5001))
    assert await to_read(store) == []


async def test_watched_instances_are_rescanned_at_intervals(
    store: PartitionStore, records: SqlRecords, database: Database
) -> None:
    await submit(records, 1, "job-1")
    await store_fields(database, await found(records, ID), **DRAINING)
    assert await to_read(store) == []
    await records.ask_for_instances(ID)
    assert await to_read(store) == [ID]
    await read(store, records, 0, at=20)
    assert await to_read(store) == []
    await SqlRecords(database, lambda: later(24)).ask_for_instances(ID)
    assert await to_read(store) == [], "asked again within five seconds"
    await SqlRecords(database, lambda: later(26)).ask_for_instances(ID)
    assert await to_read(store) == [ID]


async def test_instances_missing_from_a_read_are_no_longer_live(
    store: PartitionStore, records: SqlRecords, database: Database
) -> None:
    await escalated(store, records, database)
    assert await live(records) == [0, 1, 2]
    await read(store, records, 1, 2, 7)
    assert await live(records) == [1, 2, 7]
    rows = await records.instances(after=0, limit=100, termination_id=ID, states=None, machine=None)
    assert [(row.index, row.state) for row in rows] == [
        (0, None),
        (1, JobState.RUNNING),
        (2, JobState.RUNNING),
        (7, JobState.RUNNING),
    ]
    assert (await found(records, ID)).machines.total == 4


async def test_each_live_instance_is_called_once_a_round(
    store: PartitionStore, records: SqlRecords, database: Database
) -> None:
    await escalated(store, records, database)
    assert await store.instances.next_escalation_target() is None, "not read in this round yet"
    await read(store, records, 1, 2)
    called = [("TerminateTaskInstance", "a/1"), ("TerminateTaskInstance", "a/2")]
    assert await call_all(store) == called
    await store.instances.end_round(RoundFinished(ID), later(15))
    assert (await found(records, ID)).escalation.finished_at == later(15)
    await store_fields(
        database, await found(records, ID), escalation_started_at=later(80), escalation_round=2
    )
    assert await store.instances.next_escalation_target() is None
    await read(store, records, 2, at=81)
    straggler = await store.instances.next_escalation_target()
    assert isinstance(straggler, Straggler)
    assert straggler.target == "a/2"


async def test_a_read_that_fails_permanently_ends_its_round_and_no_other(
    store: PartitionStore, records: SqlRecords, database: Database
) -> None:
    await escalated(store, records, database)
    for at, done_at in ((9, None), (10, 11), (70, 11)):
        begun = InstanceScan(run=1, tasks=(TASK,), began_at=later(at))
        failed = ended(begun, later(at + 1), ErrorDetail(code="Unauthorized", message="no"))
        await store.instances.write_rescan(await found(records, ID), failed, due_at=later(at + 60))
        known = await found(records, ID)
        assert known.escalation.finished_at == (done_at and later(done_at))
    assert known.captures.rescanned_at is None
    assert await store.instances.next_escalation_target() is None


async def test_a_call_without_effect_is_made_again(
    store: PartitionStore, records: SqlRecords, database: Database
) -> None:
    await escalated(store, records, database)
    await read(store, records, 1)
    straggler = await start_next(store)
    assert await store.instances.next_escalation_target() is None, "its answer may come"
    answer = AttemptResult(at=later(14), outcome="throttled", code="RequestLimitExceeded")
    await store.instances.close_attempt(straggler, answer, again=True)
    assert await store.instances.next_escalation_target() == straggler


@pytest.mark.parametrize(
    "meanwhile",
    [
        {"state": State.SETTLING, "evidence": 3},
        {"escalation_level": EscalationLevel.MACHINES},
        {"escalation_started_at": later(13)},
        None,
    ],
    ids=["job stopped", "next level", "next round", "round ended"],
)
async def test_no_request_is_sent_for_what_changed_since_it_was_chosen(
    store: PartitionStore, records: SqlRecords, database: Database, meanwhile: dict[str, Any] | None
) -> None:
    await escalated(store, records, database)
    await read(store, records, 1)
    straggler = await store.instances.next_escalation_target()
    assert isinstance(straggler, Straggler)
    if meanwhile is None:
        await store.instances.end_round(RoundFinished(ID), later(13))
    else:
        await store_fields(database, await found(records, ID), **meanwhile)
    assert await store.instances.open_attempt(straggler, later(14)) is False
    record = await records.termination(ID)
    assert record is not None
    assert record.attempts == ()


async def test_a_call_that_was_never_answered_is_closed_unless_it_is_under_way(
    store: PartitionStore, records: SqlRecords, database: Database
) -> None:
    await escalated(store, records, database)
    await read(store, records, 1)
    straggler = await start_next(store)
    assert await store.with_open_attempts() == [], "no TerminateJob call is in doubt"
    for under_way, closed_at in (({straggler}, None), (set[Straggler](), later(15))):
        await store.instances.close_orphaned_attempts(under_way, later(15))
        record = await records.termination(ID)
        assert record is not None
        (attempt,) = record.attempts
        assert attempt.answered_at == closed_at
    assert attempt.outcome == "interrupted"
    assert await store.instances.next_escalation_target() == RoundFinished(ID), "it was called for"


async def test_an_instance_that_got_a_machine_is_not_called_while_a_call_for_it_is_open(
    store: PartitionStore, records: SqlRecords, database: Database
) -> None:
    await escalated(store, records, database)
    await read(store, records, 1)
    straggler = await start_next(store)
    before = await found(records, ID)
    begun = InstanceScan(run=1, tasks=(TASK,), began_at=later(14))
    seen = replace(page(instance(1, "ins-new")), observed_at=later(14))
    done = with_page(begun, seen, later(14))
    await store.instances.write_rescan(before, done, seen, due_at=later(20))
    assert await store.instances.next_escalation_target() is None
    await store.instances.close_orphaned_attempts((), later(15))
    assert await store.instances.next_escalation_target() == straggler
    await store.instances.open_attempt(straggler, later(16))


async def test_a_round_ends_while_another_one_continues(
    store: PartitionStore, records: SqlRecords, database: Database
) -> None:
    await escalated(store, records, database)
    await read(store, records, 1, 2)
    await submit(records, 2, "job-2")
    other = "trm_2_job-2"
    await store_fields(database, await found(records, other), **ESCALATED)
    await read(store, records, termination_id=other)
    assert await store.instances.next_escalation_target() == RoundFinished(other)
    await store.instances.end_round(RoundFinished(other), later(13))
    assert isinstance(await store.instances.next_escalation_target(), Straggler)


async def test_only_machines_that_may_run_for_the_job_alone_are_ended(
    store: PartitionStore, records: SqlRecords, database: Database
) -> None:
    """No machine that no rescan named, none that is being terminated already, and no node."""
    on_machines = {"escalation_level": EscalationLevel.MACHINES}
    await escalated(store, records, database, **on_machines)
    seen = replace(
        page(*(instance(n, f"ins-{n}" if n else None) for n in range(5))), observed_at=later(12)
    )
    begun = InstanceScan(run=1, tasks=(replace(TASK, instances=5),), began_at=later(12))
    done = with_page(begun, seen, later(12))
    await store.instances.write_rescan(await found(records, ID), done, seen, due_at=None)
    for index, sight in ((1, MachineStatus.UP), (2, MachineStatus.GONE), (3, MachineStatus.NODE)):
        await store_status(database, index, sight)
    called = [("TerminateInstances", "ins-1"), ("TerminateInstances", "ins-4")]
    assert await call_all(store) == called
    record = await records.termination(ID)
    assert record is not None
    assert [each.outcome for each in record.attempts] == ["accepted", "accepted"]


async def test_stale_data_is_not_written(
    store: PartitionStore, records: SqlRecords, database: Database
) -> None:
    await escalated(store, records, database)
    stale = await found(records, ID)
    await read(store, records, 1)
    begun = InstanceScan(run=1, tasks=(TASK,), began_at=NOW)
    await store.instances.write_rescan(stale, begun, page(instance(9, "ins-9")), due_at=None)
    assert await live(records) == [1]
