"""Instances and their machines: stored page by page, read together."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.domain.model.instance_scan import InstanceScan
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.machine import MachineCounts, MachineStatus
from tests.support.captures import NODES, TASK, capture, found, instance, page
from tests.support.stored_operations import PARTITION, due_for_batch_poll, submit
from tests.support.termination_fields import store_fields
from tests.unit.domain.build import NOW, later

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.model.machine import CapturedMachine
    from orchestrator.domain.model.termination import Termination
    from orchestrator.store.database.database import Database
    from orchestrator.store.partition.partition_store import PartitionStore
    from orchestrator.store.records.queries import SqlRecords

STOPPED: dict[str, Any] = {"state": State.SETTLING, "settle_until": later(30), "evidence": 3}


async def due(store: PartitionStore, *, at: float = 0.0, limit: int = 100) -> list[str]:
    machines = await store.instances.machines_due(later(at), later(at - 5), limit)
    return [machine.machine_id for machine in machines]


async def see(
    store: PartitionStore, status: MachineStatus | None, *, at: float = 0.0
) -> list[CapturedMachine]:
    """Read all machines that are due, and store this status for each."""
    machines = await store.instances.machines_due(later(at), later(at - 5), 100)
    await store.instances.machines_seen([(machine, status) for machine in machines], later(at))
    return machines


# --- capturing -----------------------------------------------------------------------------------


async def test_a_page_is_written_with_how_far_it_brings_the_capture(
    store: PartitionStore, records: SqlRecords
) -> None:
    await submit(records, 1, "job-1")
    after = await capture(
        store, records, "job-1", instance(1, "ins-1"), instance(0, reason="being created")
    )
    assert after.captures.machines == InstanceScan(
        run=1, tasks=(TASK,), task=1, occupying=2, captured=1, counted_at=NOW, ended_at=NOW
    )
    assert (after.machines, after.captures.awaited) == (MachineCounts(total=1), False)
    stored = await records.instances(
        after=0, limit=10, termination_id=after.id, states=None, machine=None
    )
    assert [(row.index, row.machine_id, row.reason) for row in stored] == [
        (0, None, "being created"),
        (1, "ins-1", None),
    ]


async def test_an_instance_read_again_is_counted_once(
    store: PartitionStore, records: SqlRecords
) -> None:
    await submit(records, 1, "job-1")
    await capture(store, records, "job-1", instance(0, "ins-1"), instance(1, "ins-2"))
    starting = instance(0, "ins-1", state=JobState.STARTING)
    again = await capture(
        store, records, "job-1", starting, instance(1, "ins-3"), instance(2, "ins-4"), run=2
    )
    assert again.captures.machines is not None
    assert (again.machines.total, again.captures.machines.captured) == (4, 2)
    stored = await records.instances(
        after=0, limit=10, termination_id=again.id, states=[JobState.STARTING], machine=None
    )
    assert [row.machine_id for row in stored] == ["ins-1"]


@pytest.mark.parametrize(("began_at", "captured"), [(later(1), 2), (NOW, 1)])
async def test_a_machine_that_an_earlier_run_had_is_captured_again(
    store: PartitionStore, records: SqlRecords, began_at: datetime, captured: int
) -> None:
    await submit(records, 1, "job-1")
    await capture(store, records, "job-1", instance(0, "ins-1"))
    same, new = instance(0, "ins-1"), instance(1, "ins-2")
    again = await capture(store, records, "job-1", same, new, run=2, began_at=began_at)
    assert again.captures.machines is not None
    # What was seen since it began stood on a page before.
    assert (again.machines.total, again.captures.machines.captured) == (2, captured)


async def test_a_page_is_written_only_on_the_capture_it_was_read_for(
    store: PartitionStore, records: SqlRecords
) -> None:
    await submit(records, 1, "job-1")
    before = await found(records, "trm_1_job-1")
    after = await capture(store, records, "job-1", instance(0, "ins-1"))
    await store.instances.write_capture(before, InstanceScan(run=1), awaits=True)
    stale = replace(
        before, captures=replace(before.captures, machines=InstanceScan(run=1, tasks=(TASK,)))
    )
    await store.instances.write_capture(
        stale, InstanceScan(run=1), page(instance(1, "ins-2")), awaits=True
    )
    assert await found(records, before.id) == after


async def test_no_decision_undoes_a_capture(
    store: PartitionStore, records: SqlRecords, database: Database
) -> None:
    await submit(records, 1, "job-1")
    before = await found(records, "trm_1_job-1")
    after = await capture(store, records, "job-1", instance(0, "ins-1"))
    await store_fields(database, before, evidence=1)
    assert await found(records, before.id) == replace(after, evidence=1)


async def to_capture(store: PartitionStore, *, at: float = 0.0) -> list[str]:
    rows, _ = await store.instances.to_read(later(at), 10)
    return [row.id for row in rows]


async def test_captures_are_due_in_the_order_of_the_calls(
    store: PartitionStore, records: SqlRecords, database: Database
) -> None:
    await submit(records, 1, "job-1", "job-2", "job-3", "job-4", "job-5")
    unseen, first, second, captured, over = await due_for_batch_poll(store, 10)
    await store_fields(database, second, run=1, priority=True)
    for each in (first, captured):
        await store_fields(database, each, run=1)
    await store_fields(
        database, over, run=1, state=State.WITHDRAWN, finished_at=NOW, next_poll_at=None
    )
    await capture(store, records, captured.job_id)
    assert await to_capture(store) == [second.id, first.id]
    await store.instances.write_capture(
        first, InstanceScan(run=1, failures=1), awaits=True, due_at=later(3)
    )
    assert await to_capture(store, at=2.9) == [second.id]
    assert await to_capture(store, at=3) == [second.id, first.id]
    await store_fields(database, captured, run=2)
    assert captured.id in await to_capture(store)
    assert unseen.calls.run == 0


# --- calling -------------------------------------------------------------------------------------


async def test_a_call_waits_for_its_capture_no_longer_than_it_may(
    store: PartitionStore, records: SqlRecords, database: Database
) -> None:
    await submit(records, 1, "job-1", "job-2")
    waiting, captured = await due_for_batch_poll(store, 10)
    for each in (waiting, captured):
        await store_fields(database, each, run=1, terminate_after=NOW, job_state=JobState.RUNNING)
    await capture(store, records, captured.job_id, instance(0, "ins-1"))

    async def ready(at: float) -> tuple[list[str], datetime | None]:
        rows, next_at = await store.ready_to_terminate(
            later(at), 10, capture_wait_s=10, captured_in_time=1
        )
        return [row.id for row in rows], next_at

    assert await ready(9.9) == ([captured.id], None)
    assert await ready(10) == ([waiting.id, captured.id], None)
    assert await ready(-1) == ([], NOW)
    await store_fields(database, await found(records, captured.id), terminate_after=None)
    assert await ready(9.9) == ([], later(10))
    await store.instances.write_capture(
        await found(records, waiting.id), InstanceScan(run=1, tasks=(TASK,)), awaits=False
    )
    assert await ready(0) == ([waiting.id], None)
    assert await ready(-1) == ([], NOW)


async def test_a_call_waits_for_no_capture_that_cannot_be_made_in_time(
    store: PartitionStore, records: SqlRecords, database: Database
) -> None:
    await submit(records, 1, *[f"job-{number}" for number in range(4)])
    rows = await due_for_batch_poll(store, 10)
    for each, at in zip(rows, (0, 0, 0, 1), strict=True):
        await store_fields(
            database, each, run=1, terminate_after=later(at), job_state=JobState.RUNNING
        )

    async def ready(captured_in_time: int) -> tuple[list[str], datetime | None]:
        found, next_at = await store.ready_to_terminate(
            NOW, 10, capture_wait_s=10, captured_in_time=captured_in_time
        )
        return [row.id for row in found], next_at

    first, second, third, _ = [row.id for row in rows]
    assert await ready(1) == ([second, third], None)
    assert await ready(2) == ([third], None)
    assert await ready(3) == ([], later(10))
    await capture(store, records, rows[0].job_id, instance(0, "ins-1"))
    assert await ready(1) == ([first], None)


# --- looking up ----------------------------------------------------------------------------------


async def test_machines_are_read_once_early_and_then_when_their_job_has_stopped(
    store: PartitionStore, records: SqlRecords, database: Database
) -> None:
    await submit(records, 1, "job-1")
    assert await due(store) == []
    job = await capture(store, records, "job-1", instance(0, "ins-1"), instance(1, "ins-2"))
    assert await due(store, limit=1) == ["ins-1"]
    (early,) = await store.instances.machines_due(NOW, NOW, 1)
    await store.instances.machines_seen([(early, MachineStatus.UP)], NOW)
    assert await due(store, at=60) == []
    await store_fields(database, job, **STOPPED)
    assert await due(store, at=1) == ["ins-2", "ins-1"], "seen before it had stopped"
    both = await store.instances.machines_due(later(1), later(1 - 5), 10)
    await store.instances.machines_seen([(machine, MachineStatus.UP) for machine in both], later(1))
    assert await due(store, at=5.9) == []
    assert set(await due(store, at=6)) == {"ins-1", "ins-2"}
    again = await store.instances.machines_due(later(60), later(60), 10)
    assert {machine.stopped_at for machine in again} == {NOW}


async def test_machines_are_counted_by_status(
    store: PartitionStore, records: SqlRecords, database: Database
) -> None:
    await submit(records, 1, "job-1")
    starting = instance(2, "ins-3", state=JobState.STARTING)
    job = await capture(
        store, records, "job-1", instance(0, "ins-1"), instance(1, "ins-2"), starting, instance(3)
    )

    async def counts() -> tuple[int, int, int, bool]:
        machines = (await found(records, job.id)).machines
        return machines.total, machines.up, machines.gone, machines.listed

    await see(store, None)
    assert await counts() == (3, 0, 0, False)
    await store_fields(database, job, **STOPPED)
    machines = await see(store, MachineStatus.UP, at=5)
    assert {m.machine_id for m in machines if m.starting} == {"ins-3"}
    assert await counts() == (3, 3, 0, True)
    await see(store, MachineStatus.UP, at=10)
    assert await counts() == (3, 3, 0, True)
    due_again = await store.instances.machines_due(later(15), later(10), 100)
    first, second, third = sorted(due_again, key=lambda machine: machine.machine_id)
    seen = [
        (first, MachineStatus.GONE),
        (second, MachineStatus.TERMINATED),
        (third, MachineStatus.MISSING),
    ]
    await store.instances.machines_seen(seen, later(15))
    assert await counts() == (3, 0, 2, True)
    assert (await found(records, job.id)).machines.observed_at == later(15)
    assert await due(store, at=20) == ["ins-3"]
    await see(store, MachineStatus.GONE, at=20)
    assert await counts() == (3, 0, 3, True)
    assert await due(store, at=99) == []


async def test_a_job_is_polled_once_the_last_of_its_machines_is_gone(
    store: PartitionStore, records: SqlRecords, database: Database
) -> None:
    await submit(records, 1, "job-1")
    job = await capture(store, records, "job-1", instance(0, "ins-1"), instance(1, "ins-2"))
    await store_fields(database, job, next_poll_at=later(60), **STOPPED)
    first, second = await store.instances.machines_due(NOW, NOW, 100)
    await store.instances.machines_seen([(first, MachineStatus.GONE)], later(1))
    assert (await found(records, job.id)).schedule.next_poll_at == later(60)
    await store.instances.machines_seen([(second, MachineStatus.GONE)], later(2))
    assert (await found(records, job.id)).schedule.next_poll_at == later(2)


async def test_machines_that_were_gone_are_read_again_after_the_settle_window(
    store: PartitionStore, records: SqlRecords, database: Database
) -> None:
    await submit(records, 1, "job-1")
    job = await capture(store, records, "job-1", instance(0, "ins-1"), instance(1, "ins-2"))

    async def observe(machine: CapturedMachine, status: MachineStatus, at: float) -> Termination:
        await store.instances.machines_seen([(machine, status)], later(at))
        return await found(records, job.id)

    await store_fields(database, job, **STOPPED)
    first, second = await store.instances.machines_due(NOW, NOW, 10)
    assert (await observe(first, MachineStatus.GONE, 1)).machines.all_observed_at is None
    job = await observe(second, MachineStatus.TERMINATED, 2)
    assert job.machines.all_observed_at == later(1), "the one that was read the longest ago"
    assert await due(store, at=99) == [], "no caller has asked yet"
    job = await store_fields(database, job, confirm_from=later(30), next_poll_at=later(60))
    assert await due(store, at=29.9) == []
    assert await due(store, at=30) == ["ins-1", "ins-2"]
    first, second = await store.instances.machines_due(later(30), later(25), 10)
    assert (first.status, second.status) == (MachineStatus.GONE, MachineStatus.TERMINATED)
    job = await observe(first, MachineStatus.GONE, 30)
    assert (job.machines.all_observed_at, job.schedule.next_poll_at) == (later(2), later(60))
    assert await due(store, at=30) == ["ins-2"]
    job = await observe(second, MachineStatus.GONE, 31)
    assert (job.machines.all_observed_at, job.schedule.next_poll_at) == (later(30), later(31))
    assert (job.machines.gone, job.machines.up) == (2, 0)
    assert await due(store, at=99) == []


async def test_a_machine_that_is_up_again_after_the_settle_window_is_left(
    store: PartitionStore, records: SqlRecords, database: Database
) -> None:
    await submit(records, 1, "job-1")
    job = await capture(store, records, "job-1", instance(0, "ins-1"), instance(1, "ins-2"))
    await store_fields(database, job, **STOPPED, confirm_from=later(30), next_poll_at=later(60))
    await see(store, MachineStatus.GONE, at=1)
    first, second = await store.instances.machines_due(later(30), later(25), 10)
    await store.instances.machines_seen(
        [(first, MachineStatus.UP), (second, MachineStatus.GONE)], later(30)
    )
    job = await found(records, job.id)
    assert (job.machines.gone, job.machines.up, job.machines.all_observed_at) == (1, 1, None)
    assert await due(store, at=34.9) == []
    assert await due(store, at=35) == ["ins-1"]


async def test_machines_of_a_job_that_was_revived_are_not_confirmed_gone(
    store: PartitionStore, records: SqlRecords, database: Database
) -> None:
    await submit(records, 1, "job-1")
    job = await capture(store, records, "job-1", instance(0, "ins-1"))
    await store_fields(database, job, **STOPPED, confirm_from=later(30))
    await see(store, MachineStatus.GONE, at=1)
    assert await due(store, at=30) == ["ins-1"]
    await store_fields(database, job, state=State.DRAINING, confirm_from=later(30))
    assert await due(store, at=30) == []


async def test_one_call_is_for_the_machines_of_one_region_and_any_number_of_jobs(
    store: PartitionStore, records: SqlRecords, database: Database
) -> None:
    await submit(records, 1, "job-1", "job-2")
    await submit(records, 1, "job-3", id="op_2", region="ap-shanghai")
    for job, machine in (("job-1", "ins-1"), ("job-2", "ins-2"), ("job-3", "ins-3")):
        await store_fields(
            database, await capture(store, records, job, instance(0, machine)), **STOPPED
        )
    assert await due(store) == ["ins-1", "ins-2"]
    await see(store, MachineStatus.GONE)
    assert await due(store) == ["ins-3"]


async def test_nodes_and_hidden_machines_are_not_read(
    store: PartitionStore, records: SqlRecords, database: Database
) -> None:
    await submit(records, 1, "job-1", "job-2", "job-3")
    nodes = await capture(
        store, records, "job-1", instance(0, "ins-1"), instance(1, "ins-1"), task=NODES
    )
    assert nodes.captures.machines is not None
    assert (
        nodes.captures.machines.captured,
        nodes.captures.machines.nodes,
        nodes.machines.total,
    ) == (2, 1, 0)
    hidden = await capture(store, records, "job-2", instance(0, "ins-2"))
    seen = await capture(store, records, "job-3", instance(0, "ins-3"))
    for each in (nodes, hidden, seen):
        await store_fields(database, each, **STOPPED)
    machines = await store.instances.machines_due(NOW, NOW, 100)
    assert [machine.machine_id for machine in machines] == ["ins-2", "ins-3"]
    problem = ErrorDetail(code="UnauthorizedOperation", message="no")
    await store.instances.record_machines_invisible(machines[0], problem)
    assert await due(store) == ["ins-3"]
    assert (await found(records, hidden.id)).machines.problem == problem
    assert hidden.partition == PARTITION


async def test_instances_are_listed_by_state_and_machine(
    store: PartitionStore, records: SqlRecords
) -> None:
    await submit(records, 1, "job-1")
    job = await capture(
        store,
        records,
        "job-1",
        instance(0, "ins-1"),
        instance(1, "ins-2", state=JobState.STARTING),
        instance(2, "ins-3"),
    )
    starting, *_ = await store.instances.machines_due(NOW, NOW, 100)
    await store.instances.machines_seen([(starting, MachineStatus.UP)], NOW)

    async def listed(**asked: Any) -> list[int]:
        values = {"after": 0, "limit": 10, "states": None, "machine": None} | asked
        rows = await records.instances(termination_id=job.id, **values)
        return [row.index for row in rows]

    assert await listed() == [0, 1, 2]
    assert await listed(limit=2) == [0, 1]
    assert await listed(after=2) == [2]
    assert await listed(states=[JobState.STARTING]) == [1]
    assert await listed(states=[]) == []
    assert await listed(machine=MachineStatus.UP) == [1], "it is read first"


async def test_machines_that_are_left_out_are_not_due(
    store: PartitionStore, records: SqlRecords
) -> None:
    await submit(records, 1, "job-1")
    await capture(store, records, "job-1", instance(0, "ins-1"), instance(1, "ins-2"))
    for left_out, others in ((["ins-1"], ["ins-2"]), (["ins-1", "ins-2"], [])):
        machines = await store.instances.machines_due(NOW, NOW, 100, without=left_out)
        assert [machine.machine_id for machine in machines] == others
