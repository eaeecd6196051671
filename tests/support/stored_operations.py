"""Operations that tests store, and their terminations as an engine reads and writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from orchestrator.domain.audit.hash_chain import chain_errors
from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.model.attempt import NewAttempt
from orchestrator.domain.model.batch_job import JobState, JobSubmitted, TaskSubmitted
from orchestrator.domain.model.observation import CallStarted
from orchestrator.domain.model.termination import PollFilter, PollKind
from orchestrator.store import schema
from tests.support.operations import new_operation
from tests.unit.domain.build import LIVE, NOW, POLICY, STOPPED, read

if TYPE_CHECKING:
    from orchestrator.domain.model.operation import NewOperation
    from orchestrator.domain.model.termination import Termination
    from orchestrator.store.database.database import Database
    from orchestrator.store.partition.partition_store import PartitionStore
    from orchestrator.store.records.queries import SqlRecords

PARTITION = "main@host"


def operation(number: int, *jobs: str, **changes: Any) -> NewOperation:
    values = {"partition": PARTITION, "created_at": NOW} | changes
    return new_operation(f"op_{number}", *jobs, **values)


async def due_for_batch_poll(store: PartitionStore, limit: int) -> list[Termination]:
    kind = PollFilter(PollKind.BATCH)
    return (await store.next_polls(NOW, limit, kind))[kind]


async def submit(records: SqlRecords, number: int, *jobs: str, **changes: Any) -> str:
    ids = [f"trm_{number}_{job}" for job in jobs]
    return (await records.create(operation(number, *jobs, **changes), ids)).operation_id


async def only(store: PartitionStore) -> Termination:
    (termination,) = await due_for_batch_poll(store, 10)
    return termination


async def ready_to_call(store: PartitionStore) -> Termination:
    queued = await only(store)
    polled = decide(queued, read(JobState.RUNNING, LIVE), NOW, POLICY)
    await store.apply([(queued, polled)], NOW)
    (ready,), _ = await store.ready_to_terminate(NOW, 10, capture_wait_s=0, captured_in_time=None)
    return ready


async def start(store: PartitionStore, ready: Termination) -> Termination:
    started = decide(ready, CallStarted(), NOW, POLICY)
    attempt = NewAttempt(action="TerminateJob", target=ready.job_id, sent_at=NOW)
    assert await store.start_attempt(ready, started, attempt) == 1
    return started.after


SUBMISSION = JobSubmitted(
    observed_at=NOW, job_id="a job", tasks=(TaskSubmitted(name="t1", instances=STOPPED.total),)
)
"""A submitted job with as many instances as a read of the stopped job counts."""


async def chains(database: Database) -> dict[str, list[dict[str, Any]]]:
    """Return the events of each subject in the order of their ids, after checking the chains."""
    found: dict[str, list[dict[str, Any]]] = {}
    async with database.read() as connection:
        rows = await connection.execute(select(schema.events).order_by(schema.events.c.id))
        for row in rows.mappings():
            subject_id = row["termination_id"] or row["operation_id"]
            before = found.setdefault(subject_id, [])
            previous = before[-1]["hash"] if before else subject_id
            before.append({**row, "previous": previous})
    for subject_id, each in found.items():
        assert list(chain_errors(subject_id, each)) == [], subject_id
    return found
