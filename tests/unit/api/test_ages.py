"""Tests of ``age_s``: the age of an observation in the responses of the API."""

from __future__ import annotations

import pytest

from orchestrator.api.schemas import listed_termination
from orchestrator.domain.progress.verified_forecast import VerifiedForecast
from orchestrator.services.explanation.values import UNEXPLAINED
from orchestrator.services.inspection import InspectedTermination
from orchestrator.services.ports import TerminationRecord
from tests.unit.domain.build import NOW, later, termination


@pytest.mark.parametrize(("now_s", "age_s"), [(90.5, 90.5), (-0.1, 0.0), (-93.8, None)])
def test_no_observation_is_younger_than_now(now_s: float, age_s: float | None) -> None:
    """The age is null if the clock was set back since the observation."""
    record = TerminationRecord(
        seq=1,
        termination=termination(observed_at=NOW),
        operation_ids=(),
        attempts=(),
        jobs_ahead=0,
        trouble=None,
        holder=None,
        allowed_per_s=None,
    )
    inspected = InspectedTermination(
        record=record,
        now=later(now_s),
        explanation=UNEXPLAINED,
        stopped=None,
        verified=VerifiedForecast(),
    )
    assert listed_termination(inspected)["age_s"] == age_s
