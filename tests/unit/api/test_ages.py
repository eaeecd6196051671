"""How old an observation is, in the answers of the API."""

from __future__ import annotations

import pytest

from orchestrator.api.schemas import Inspection, listed_termination
from orchestrator.domain.progress.verified_forecast import Verification
from orchestrator.services.explanation import UNEXPLAINED
from orchestrator.services.ports import TerminationRecord
from tests.unit.domain.build import NOW, later, termination


@pytest.mark.parametrize(("now_s", "age_s"), [(90.5, 90.5), (-0.1, 0.0), (-93.8, None)])
def test_no_observation_is_younger_than_now(now_s: float, age_s: float | None) -> None:
    """How old one is that was made before the clock was put back is not known."""
    record = TerminationRecord(
        seq=1,
        termination=termination(observed_at=NOW),
        operation_ids=(),
        attempts=(),
        ahead=0,
        trouble=None,
        holder=None,
        allowed_per_s=None,
    )
    told = Inspection(now=later(now_s), why=UNEXPLAINED, stopped=None, verified=Verification())
    assert listed_termination(record, told)["age_s"] == age_s
