"""Forecast of verification: the settle window follows the last instance's stop."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.domain.forecasting.forecast import Forecast
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.progress.verified_forecast import (
    VerifiedForecast,
    of_operation,
    of_termination,
)
from tests.unit.domain.build import NOW, later, termination
from tests.unit.domain.drains import own, progress

NOTHING = Forecast(made_at=NOW)


def verification(until: float | None, p50: float | None, p90: float | None) -> VerifiedForecast:
    known = (None if seconds is None else later(seconds) for seconds in (until, p50, p90))
    return VerifiedForecast(**dict(zip(("settle_until", "p50_at", "p90_at"), known, strict=True)))


@pytest.mark.parametrize(
    ("known", "stopped", "expected"),
    [
        ({"settle_s": 30.0}, own(40, 70), (None, 70, 100)),
        ({"settle_s": 30.0, "settle_until": later(20)}, own(40, 70), (20, 70, 100)),
        # A job was submitted with a longer window.
        ({"settle_s": 30.0, "settle_until": later(90)}, own(40, 70), (90, 90, 100)),
        ({"settle_s": 30.0, "settle_until": later(-1)}, own(40, 70), (None, 70, 100)),
        ({"settle_s": 0.0}, own(40, 70), (None, 40, 70)),
        # It is not known when the other jobs have stopped.
        ({"settle_s": 30.0, "settle_until": later(20)}, NOTHING, (20, None, None)),
        # All have stopped.
        ({"settle_until": later(20)}, NOTHING, (20, 20, 20)),
        ({"settle_until": later(0)}, NOTHING, (None, None, None)),
        ({}, NOTHING, (None, None, None)),
    ],
)
def test_an_operation_is_verified_after_its_last_window(
    known: dict[str, Any], stopped: Forecast, expected: tuple[float | None, ...]
) -> None:
    assert of_operation(progress(**known), stopped, NOW) == verification(*expected)


@pytest.mark.parametrize(
    ("state", "stopped", "expected"),
    [
        (State.DRAINING, own(40, 70), (None, 70, 100)),
        (State.QUEUED, own(40, 70), (None, 70, 100)),
        (State.DRAINING, None, (None, None, None)),
        (State.SETTLING, None, (20, 20, 20)),
        (State.VERIFIED, None, (None, None, None)),
    ],
)
def test_a_job_is_verified_after_its_window(
    state: State, stopped: Forecast | None, expected: tuple[float | None, ...]
) -> None:
    known = termination(state, settle_until=later(20) if state is State.SETTLING else None)
    assert of_termination(known, stopped, NOW) == verification(*expected)
