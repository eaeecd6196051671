"""Tests of inspection: the forecast of a termination whose account has trouble."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.domain.forecasting.forecast import Forecast
from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.pacing.quota import Rate
from orchestrator.engine.runtime.best_effort import BestEffort
from orchestrator.services.inspection import Inspection
from orchestrator.services.ports import TerminationRecord
from tests.unit.domain.build import NOW, later, termination

TROUBLE = ErrorDetail(code="AuthFailure.SignatureFailure", message="m", advice="a")
UNUSED: Any = None


@pytest.mark.parametrize("trouble", [None, TROUBLE])
async def test_nothing_is_foretold_of_a_drain_while_calls_fail(trouble: ErrorDetail | None) -> None:
    forecast = Forecast(made_at=NOW, rate_per_s=0.6, p50_at=later(50), p90_at=later(60))
    record = TerminationRecord(
        seq=1,
        termination=termination(State.DRAINING, forecast=forecast, give_up_at=later(3600)),
        operation_ids=(),
        attempts=(),
        ahead=0,
        trouble=trouble,
        holder=None,
        allowed_per_s=None,
    )
    inspection = Inspection(
        records=UNUSED,
        unconfigured=UNUSED,
        rate=lambda *_: Rate(configured_per_s=2, allowed_per_s=2.0),
        elsewhere=lambda *_: None,
        capture_wait_s=0.0,
        now=lambda: NOW,
        best_effort=BestEffort().leaving_out,
    )
    inspected = await inspection.termination(record)
    assert (inspected.stopped, inspected.verified.p50_at is None) == (
        None if trouble else forecast,
        trouble is not None,
    )
