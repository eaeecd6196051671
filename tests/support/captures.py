"""Instances that tests store as captured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.domain.model.batch_job import (
    InstanceCounters,
    InstanceSeen,
    JobState,
    TaskPage,
    TaskSeen,
    TaskSubmitted,
)
from orchestrator.domain.model.instance_scan import InstanceScan, with_page
from tests.unit.domain.build import NOW

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.model.termination import Termination
    from orchestrator.store.partition.partition_store import PartitionStore
    from orchestrator.store.records.queries import SqlRecords

TASK, NODES = TaskSubmitted(name="a", instances=4), TaskSubmitted(name="b", instances=4, env_id="e")


def instance(index: int, machine_id: str | None = None, **shown: Any) -> InstanceSeen:
    values: dict[str, Any] = {"state": JobState.RUNNING} | shown
    return InstanceSeen(index=index, machine_id=machine_id, **values)


def page(*instances: InstanceSeen) -> TaskPage:
    return TaskPage(
        observed_at=NOW,
        task=TaskSeen(name="a", instances=InstanceCounters(running=len(instances))),
        instances=instances,
        rows=len(instances),
        instances_total=None,
    )


async def found(records: SqlRecords, termination_id: str) -> Termination:
    record = await records.termination(termination_id)
    assert record is not None
    return record.termination


async def capture(
    store: PartitionStore,
    records: SqlRecords,
    job_id: str,
    *instances: InstanceSeen,
    task: TaskSubmitted = TASK,
    run: int = 1,
    began_at: datetime | None = None,
) -> Termination:
    """Capture a run of the job in one page."""
    before = await found(records, f"trm_1_{job_id}")
    begun = InstanceScan(run=run, tasks=(task,), began_at=began_at)
    await store.instances.write_capture(before, begun, awaits=True)
    before = await found(records, before.id)
    assert before.captures.machines is not None
    read = page(*instances)
    await store.instances.write_capture(
        before, with_page(before.captures.machines, read, NOW), read, awaits=False
    )
    return await found(records, before.id)
