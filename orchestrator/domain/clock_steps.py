"""How much time lies between two times that were stored, which a clock may have stepped between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

CLOCK_STEP_S: Final = 2.0
"""By how much wall time may differ from the time that passed before that counts as a step."""


def elapsed_s(since: datetime, until: datetime) -> float | None:
    """None where it is not known: the clock was put back meanwhile.

    A difference below 0 that is no step comes from clocks that do not quite agree: it is 0.
    """
    seconds = (until - since).total_seconds()
    return None if seconds < -CLOCK_STEP_S else max(0.0, seconds)
