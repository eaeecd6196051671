"""Elapsed time between two stored times, between which the clock may have stepped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

CLOCK_STEP_S: Final = 2.0
"""A difference between wall time and elapsed time counts as a clock step above this value."""


def elapsed_s(since: datetime, until: datetime) -> float | None:
    """Return the seconds between two stored times; None if the clock was set back in between.

    A negative difference smaller than a step comes from clocks that differ slightly: return 0.
    """
    seconds = (until - since).total_seconds()
    return None if seconds < -CLOCK_STEP_S else max(0.0, seconds)
