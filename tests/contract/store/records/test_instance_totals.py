"""Instance totals of an operation: each database's sums equal the domain's."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

from sqlalchemy import update

from orchestrator.domain.model.batch_job import InstanceCounters, JobState
from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.domain.model.instance_scan import InstanceScan
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.termination import Revival
from orchestrator.domain.progress.instance_totals import InstanceGroup, Left, tally
from orchestrator.store.mapping.termination_rows import revival_to_row, scan_to_row
from orchestrator.store.schema import terminations
from tests.support.operation_records import operation_record
from tests.support.stored_operations import submit
from tests.support.termination_fields import store_fields
from tests.unit.domain.build import LIVE, NOW, STOPPED

if TYPE_CHECKING:
    from orchestrator.store.database.database import Database
    from orchestrator.store.database.transaction import Transaction
    from orchestrator.store.records.queries import SqlRecords

CAPTURED = InstanceScan(run=1, occupying=5, waiting=2, captured=5, counted_at=NOW, ended_at=NOW)
REVIVAL = Revival(at=NOW, job_state=JobState.RUNNING)
FAILED = replace(CAPTURED, problem=ErrorDetail(code="C", message="m"))


async def known(database: Database, records: SqlRecords, *jobs: dict[str, Any]) -> str:
    """Create an operation with one job for each of these, and store this about them."""
    ids = [f"job-{number}" for number in range(len(jobs))]
    operation_id = await submit(records, 1, *ids)
    for found in await records.terminations(after=0, limit=10_000):
        before = found.termination
        values = dict(jobs[ids.index(before.job_id)])
        others = {
            "capture": scan_to_row(values.pop("capture")) if "capture" in values else None,
            "revival": revival_to_row(values.pop("revival")) if "revival" in values else None,
        }
        if State(values.get("state", before.state)).final:
            values |= {"finished_at": NOW, "next_poll_at": None}
        await store_fields(database, before, **values)
        await change(database, before.id, others)
    return operation_id


async def change(database: Database, termination_id: str, values: dict[str, Any]) -> None:
    async def work(transaction: Transaction) -> None:
        its = update(terminations).where(terminations.c.id == termination_id)
        await transaction.execute(its.values(values))

    await database.write(work)


async def test_the_sums_equal_those_of_the_domain_for_every_kind_of_termination(
    database: Database, records: SqlRecords
) -> None:
    counts = (None, LIVE, STOPPED)
    every = list(product(State, range(6), (None, NOW), (None, REVIVAL), counts))
    jobs = [
        {
            "state": state,
            "evidence": evidence,
            "observed_at": seen_at,
            "instances": counters,
            "instances_observed_at": counters and NOW,
        }
        | ({"revival": revival} if revival else {})
        for state, evidence, seen_at, revival, counters in every
    ]
    operation = await operation_record(records, await known(database, records, *jobs))
    assert operation is not None
    assert operation.instances == tally(
        InstanceGroup(
            state=state,
            evidence=evidence,
            seen=seen_at is not None,
            revived=revival is not None,
            jobs=1,
            total=counters.total if counters else None,
            live=counters.live if counters else None,
        )
        for state, evidence, seen_at, revival, counters in every
    )
    assert operation.jobs_by_state == dict.fromkeys(State, len(every) // len(State))
    assert operation.revived == len(every) // 2
    assert operation.observed_at == NOW


async def test_instances_that_only_a_capture_showed_are_live(
    database: Database, records: SqlRecords
) -> None:
    """Only after the capture has ended. A count takes precedence; none live proves nothing."""
    refused = {"state": State.REFUSED, "observed_at": NOW}
    counted = {"instances": InstanceCounters(running=1, failed=9), "instances_observed_at": NOW}
    operation_id = await known(
        database,
        records,
        refused | {"capture": CAPTURED},
        refused | {"capture": CAPTURED} | counted,
        refused | {"capture": replace(CAPTURED, ended_at=None)},
        refused | {"capture": FAILED},
        refused | {"capture": replace(CAPTURED, occupying=0, waiting=0)},
        refused,
    )
    operation = await operation_record(records, operation_id)
    assert operation is not None
    found = operation.instances
    assert (found.total, found.live, found.stopped, found.jobs_not_counted) == (17, 8, 9, 4)
    assert found.left_by_final_state == {
        State.REFUSED: Left(jobs_live=2, live=8, jobs_not_counted=4)
    }
