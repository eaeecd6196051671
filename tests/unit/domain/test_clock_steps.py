"""Elapsed time between two stored times."""

from __future__ import annotations

import pytest

from orchestrator.domain.clock_steps import elapsed_s
from tests.unit.domain.build import NOW, later


@pytest.mark.parametrize(
    ("until_s", "expected_s"),
    [(90.5, 90.5), (0, 0.0), (-0.4, 0.0), (-2, 0.0), (-2.1, None), (-93.8, None)],
)
def test_a_clock_that_was_set_back_leaves_the_time_unknown(
    until_s: float, expected_s: float | None
) -> None:
    """Clocks that differ by less than a step have no effect."""
    assert elapsed_s(NOW, later(until_s)) == expected_s
