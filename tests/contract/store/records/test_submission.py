"""Requests that are stored together: each gets what it would have got alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sqlalchemy import event

from orchestrator.domain.errors import IdempotencyKeyReused
from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.domain.model.termination import OnSubmitted, Schedule, Termination
from orchestrator.services.ports import SubmissionResult
from tests.support.operation_records import operation_record
from tests.support.stored_operations import chains, operation, submit
from tests.unit.domain.build import later

if TYPE_CHECKING:
    from typing import Any

    from orchestrator.domain.model.operation import NewOperation
    from orchestrator.store.database.database import Database
    from orchestrator.store.partition.partition_store import PartitionStore
    from orchestrator.store.records.queries import SqlRecords

SAME = {"idempotency_key": "k", "request_hash": "h"}


def replayed(operation_id: str) -> SubmissionResult:
    return SubmissionResult(operation_id=operation_id, replayed=True, record=None)


async def created(
    records: SqlRecords, *requested: NewOperation
) -> list[SubmissionResult | BaseException]:
    """Request all of these at once."""
    return await asyncio.gather(
        *(
            records.create(new, [f"trm_{new.id}_{job_id}" for job_id in new.job_ids])
            for new in requested
        ),
        return_exceptions=True,
    )


async def jobs_of(records: SqlRecords, *operation_ids: str) -> dict[str, dict[str, str]]:
    """Return the termination of each job of these operations."""
    return {
        id_: {
            found.termination.job_id: found.termination.id
            for found in await records.terminations(after=0, limit=100, operation_id=id_)
        }
        for id_ in operation_ids
    }


async def test_requests_that_share_jobs_or_keys_are_stored_in_turn(
    database: Database, records: SqlRecords
) -> None:
    await submit(records, 9, "job-old")
    one, two, three, four, five, elsewhere = await created(
        records,
        operation(1, "job-b", "job-a"),
        operation(2, "job-c", **SAME),
        operation(3, "job-d", "job-a"),
        operation(4, "job-c", **SAME),
        operation(5, "job-old", "job-e"),
        operation(6, "job-a", region="ap-shanghai"),
    )
    assert await jobs_of(records, *(f"op_{n}" for n in (1, 2, 3, 4, 5, 6))) == {
        "op_1": {"job-a": "trm_op_1_job-a", "job-b": "trm_op_1_job-b"},
        "op_2": {"job-c": "trm_op_2_job-c"},
        "op_3": {"job-a": "trm_op_1_job-a", "job-d": "trm_op_3_job-d"},
        "op_4": {},
        "op_5": {"job-old": "trm_9_job-old", "job-e": "trm_op_5_job-e"},
        "op_6": {"job-a": "trm_op_6_job-a"},
    }
    assert four == replayed("op_2")
    for joined in (three, five):
        assert isinstance(joined, SubmissionResult)
        assert (joined.replayed, joined.record) == (False, None)
    for new in (one, two, elsewhere):
        assert isinstance(new, SubmissionResult)
        assert new.record == await operation_record(records, new.operation_id)
    await chains(database)


async def test_a_key_of_another_request_refuses_that_request_alone(records: SqlRecords) -> None:
    await submit(records, 1, "job-1", **SAME)
    refused, stored = await created(
        records,
        operation(2, "job-1", idempotency_key="k", request_hash="another"),
        operation(3, "job-2", idempotency_key="k", request_hash="another", requested_by="you"),
    )
    assert isinstance(refused, IdempotencyKeyReused)
    assert isinstance(stored, SubmissionResult)
    assert (stored.operation_id, stored.replayed) == ("op_3", False)


async def test_the_record_of_a_new_operation_has_the_health_of_its_partition(
    records: SqlRecords, store: PartitionStore
) -> None:
    await store.set_health(ErrorDetail(code="AuthFailure", message="m", advice="a"), 1.5)
    (made,) = await created(
        records, operation(1, "job-1", created_at=later(5), reterminate_for_s=60.0)
    )
    assert isinstance(made, SubmissionResult)
    assert made.record is not None
    assert made.record.trouble is not None
    assert made.record == await operation_record(records, "op_1")


async def test_many_requests_take_as_many_statements_as_one(
    database: Database, records: SqlRecords
) -> None:
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(database.dialect.writers.sync_engine, "before_cursor_execute", note)
    taken = []
    for numbers in (range(1), range(1, 33)):
        statements.clear()
        await created(
            records,
            *(operation(n, f"job-{n}", idempotency_key=f"k{n}") for n in numbers),
        )
        taken.append(len(statements))
    assert taken[0] == taken[1] > 0


async def test_a_new_termination_is_read_back_as_it_was_requested(records: SqlRecords) -> None:
    new = operation(
        1,
        "job-1",
        created_at=later(1),
        not_before=later(60),
        settle_s=7.5,
        give_up_after_s=900.0,
        on_submitted=OnSubmitted.REFUSE,
        revival_watch_s=12.5,
        escalate=False,
    )
    await created(records, new)
    (found,) = await records.terminations(after=0, limit=2)
    assert found.termination == Termination(
        id="trm_op_1_job-1",
        account=new.account,
        region=new.region,
        partition=new.partition,
        job_id="job-1",
        request=new.request,
        schedule=Schedule(next_poll_at=later(60)),
    )
