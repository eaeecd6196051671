"""What is told of the time between two times that were stored."""

from __future__ import annotations

import pytest

from orchestrator.domain.clock_steps import elapsed_s
from tests.unit.domain.build import NOW, later


@pytest.mark.parametrize(
    ("until_s", "told"),
    [(90.5, 90.5), (0, 0.0), (-0.4, 0.0), (-2, 0.0), (-2.1, None), (-93.8, None)],
)
def test_a_clock_that_was_put_back_leaves_it_unknown(until_s: float, told: float | None) -> None:
    """Clocks that differ by less than a step do not."""
    assert elapsed_s(NOW, later(until_s)) == told
