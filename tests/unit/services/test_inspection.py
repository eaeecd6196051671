"""Tests of inspection: what is left out of operations and terminations, and when."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.domain.errors import StoreUnavailable
from orchestrator.domain.forecasting.forecast import Forecast
from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.progress.instance_totals import Tally
from orchestrator.engine.runtime.best_effort import BestEffort
from orchestrator.services.inspection import Inspection
from orchestrator.services.partitions import Partitions
from orchestrator.services.ports import (
    FoundOperation,
    MachinesProgress,
    OperationRecord,
    TerminationRecord,
)
from tests.unit.domain.build import NOW, later, termination
from tests.unit.domain.drains import progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.domain.progress.operation_forecast import Progress

TROUBLE = ErrorDetail(code="AuthFailure.SignatureFailure", message="m", advice="a")
UNUSED: Any = None
OPERATION = OperationRecord(
    id="op_1",
    account="main",
    region="ap-guangzhou",
    reason="budget",
    requested_by="me",
    duplicates_merged=0,
    outcome=None,
    created_at=NOW,
    finished_at=None,
    jobs_by_state={State.DRAINING: 1},
    instances=Tally(),
    machines=MachinesProgress(total=0, up=0, gone=0),
    revived=0,
    observed_at=None,
    partition="main@host",
    calls_per_s=0.0,
    allowed_per_s=None,
    trouble=None,
    reterminate_for_s=None,
    reterminates_for=None,
)


def inspection() -> Inspection:
    return Inspection(
        records=UNUSED,
        unconfigured=UNUSED,
        partitions=Partitions({"main@host": 2}, running={"main@host"}),
        capture_wait_s=0.0,
        now=lambda: NOW,
        best_effort=BestEffort().leaving_out,
        monotonic=lambda: 0.0,
    )


def found(*numbers: int, finished: bool = False) -> list[FoundOperation]:
    return [FoundOperation(seq=seq, id=f"op_{seq}", finished=finished) for seq in numbers]


class Counts:
    """Records that count the jobs of operations whenever they are asked."""

    now_s = 0.0

    def __init__(self, **changes: Any) -> None:
        self.counted: list[str] = []
        self.changes = changes

    async def operations(self, ids: Sequence[str]) -> list[OperationRecord]:
        self.counted += ids
        return [replace(OPERATION, id=id_, **self.changes) for id_ in sorted(ids, reverse=True)]

    async def progress(
        self, operations: Sequence[tuple[OperationRecord, float]]
    ) -> dict[str, Progress]:
        return {record.id: progress(stopped_in_window=6) for record, _ in operations}


def inspection_of(records: Counts) -> Inspection:
    as_records: Any = records
    return replace(inspection(), records=as_records, monotonic=lambda: records.now_s)


async def ids_of(inspection: Inspection, page: Sequence[FoundOperation]) -> list[str]:
    return [each.record.id for each in await inspection.operations(page)]


@pytest.mark.parametrize(
    ("jobs", "reused_s"), [(1, 1e-4), (100, 0.01), (10_000, 1.0), (50_000, 1.0)]
)
async def test_a_count_is_used_again_for_a_time_that_grows_with_its_jobs(
    jobs: int, reused_s: float
) -> None:
    records = Counts(jobs_by_state={State.DRAINING: jobs})
    inspected = inspection_of(records)
    assert await ids_of(inspected, found(1)) == ["op_1"]
    records.now_s = 0.99 * reused_s
    assert await ids_of(inspected, found(1)) == ["op_1"]
    assert records.counted == ["op_1"]
    records.now_s = 1.01 * reused_s
    assert await ids_of(inspected, found(1)) == ["op_1"]
    assert records.counted == ["op_1", "op_1"]


async def test_of_a_page_only_what_is_not_known_is_counted() -> None:
    records = Counts(jobs_by_state={State.DRAINING: 10_000})
    inspected = inspection_of(records)
    assert await ids_of(inspected, found(3, 1)) == ["op_3", "op_1"]
    assert await ids_of(inspected, found(4, 3, 2, 1)) == ["op_4", "op_3", "op_2", "op_1"]
    assert records.counted == ["op_3", "op_1", "op_4", "op_2"]


async def test_an_operation_that_has_ended_is_counted_again() -> None:
    """Else it would be listed as finished with jobs that are not."""
    records = Counts(jobs_by_state={State.DRAINING: 10_000})
    inspected = inspection_of(records)
    await inspected.operations(found(1))
    records.changes = {"finished_at": NOW, "jobs_by_state": {State.VERIFIED: 10_000}}
    (ended,) = await inspected.operations(found(1, finished=True))
    assert ended.record.finished_at == NOW
    assert ended.record.jobs_by_state == {State.VERIFIED: 10_000}


class SlowCounts(Counts):
    """A count that takes two seconds, in which the same is asked again."""

    again: Inspection | None = None

    async def operations(self, ids: Sequence[str]) -> list[OperationRecord]:
        self.now_s += 2.0
        if self.again is not None:
            again, self.again = self.again, None
            await again.operations(found(9))
        return await super().operations(ids)


async def test_what_expires_as_others_are_counted_stays_in_its_page() -> None:
    records = SlowCounts(jobs_by_state={State.DRAINING: 10_000})
    inspected = inspection_of(records)
    await inspected.operations(found(1))
    records.again = inspected
    assert await ids_of(inspected, found(2, 1)) == ["op_2", "op_1"]


@pytest.mark.parametrize("trouble", [None, TROUBLE])
async def test_no_drain_has_a_forecast_while_calls_fail(trouble: ErrorDetail | None) -> None:
    forecast = Forecast(made_at=NOW, rate_per_s=0.6, p50_at=later(50), p90_at=later(60))
    record = TerminationRecord(
        seq=1,
        termination=termination(State.DRAINING, forecast=forecast, give_up_at=later(3600)),
        operation_ids=(),
        attempts=(),
        jobs_ahead=0,
        trouble=trouble,
        holder=None,
        allowed_per_s=None,
    )
    inspected = await inspection().termination(record)
    assert (inspected.stopped, inspected.verified.p50_at is None) == (
        None if trouble else forecast,
        trouble is not None,
    )


class Away(Counts):
    """Records of a database that cannot be read a second time."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def progress(self, _: Sequence[tuple[OperationRecord, float]]) -> dict[str, Progress]:
        self.asked += 1
        raise StoreUnavailable("it does not answer")


async def test_a_database_that_cannot_be_read_is_asked_once_for_a_list() -> None:
    """Else a page of operations would take as many timeouts as it has operations."""
    records = Away()
    inspected = await inspection_of(records).operations(found(3, 2, 1))
    assert [each.record.id for each in inspected] == ["op_3", "op_2", "op_1"]
    assert {each.stopped for each in inspected} == {None}
    assert records.asked == 1


class Faulty(Counts):
    """Records in which a value of the second operation cannot be decoded."""

    async def progress(
        self, operations: Sequence[tuple[OperationRecord, float]]
    ) -> dict[str, Progress]:
        if any(record.id == "op_2" for record, _ in operations):
            raise ValueError("noon is no time")
        return {record.id: progress(stopped_in_window=6) for record, _ in operations}


async def test_a_faulty_row_costs_only_its_own_operation_the_forecast() -> None:
    inspected = await inspection_of(Faulty()).operations(found(3, 2, 1))
    assert [each.stopped is None for each in inspected] == [False, True, False]
