"""Bounds of every stored value: a value outside them is an error of its source."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(2100, 1, 1, tzinfo=UTC)
"""Adding a duration to a time between these two, or subtracting it, never overflows."""
SECONDS_MAX: Final = 100 * 366 * 86_400.0
"""The longest duration in seconds, and the highest rate per second."""
COUNT_MAX: Final = 10**9
"""The largest count of task instances: sums of several such counts fit into 63 bits."""
INDEX_MAX: Final = 2**31 - 1
NAME_MAX: Final = 255
"""Characters of a name that is part of a key: a PostgreSQL index entry holds 2,700 bytes."""
TEXT_MAX: Final = 4000


def possible(at: datetime) -> bool:
    """Return whether an aware time lies between EARLIEST and LATEST."""
    return EARLIEST <= at <= LATEST


def storable(text: str) -> str:
    """Return the text in a form that every database can store.

    It is cut to TEXT_MAX characters. Lone surrogates and NUL are replaced by ``?``.
    """
    return text[:TEXT_MAX].encode(errors="replace").decode().replace("\0", "?")
