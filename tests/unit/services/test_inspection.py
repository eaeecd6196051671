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
from orchestrator.services.ports import MachinesProgress, OperationRecord, TerminationRecord
from tests.unit.domain.build import NOW, later, termination
from tests.unit.domain.drains import progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.domain.progress.operation_forecast import Progress

TROUBLE = ErrorDetail(code="AuthFailure.SignatureFailure", message="m", advice="a")
UNUSED: Any = None
OPERATION = OperationRecord(
    seq=1,
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
    )


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


class Away:
    """Records of a database that cannot be read."""

    def __init__(self) -> None:
        self.asked = 0

    async def progress(self, _: Sequence[tuple[OperationRecord, float]]) -> dict[str, Progress]:
        self.asked += 1
        raise StoreUnavailable("it does not answer")


async def test_a_database_that_cannot_be_read_is_asked_once_for_a_list() -> None:
    """Else a page of operations would take as many timeouts as it has operations."""
    records: Any = Away()
    listed = [replace(OPERATION, seq=seq, id=f"op_{seq}") for seq in range(1, 4)]
    inspected = await replace(inspection(), records=records).operations(listed)
    assert [each.record.seq for each in inspected] == [1, 2, 3]
    assert {each.stopped for each in inspected} == {None}
    assert records.asked == 1


class Faulty:
    """Records in which a value of the second operation cannot be decoded."""

    async def progress(
        self, operations: Sequence[tuple[OperationRecord, float]]
    ) -> dict[str, Progress]:
        if any(record.seq == 2 for record, _ in operations):
            raise ValueError("noon is no time")
        return {record.id: progress(stopped_in_window=6) for record, _ in operations}


async def test_a_faulty_row_costs_only_its_own_operation_the_forecast() -> None:
    records: Any = Faulty()
    listed = [replace(OPERATION, seq=seq, id=f"op_{seq}") for seq in range(1, 4)]
    inspected = await replace(inspection(), records=records).operations(listed)
    assert [each.stopped is None for each in inspected] == [False, True, False]
