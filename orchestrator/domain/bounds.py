"""Which values are possible at all: beyond these, a value is a mistake of whoever gave it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(2100, 1, 1, tzinfo=UTC)
"""Times in between can be added to and subtracted from without an overflow."""
SECONDS_MAX: Final = 100 * 366 * 86_400.0
"""The longest duration, and the highest rate a second."""
COUNT_MAX: Final = 10**9
"""The most task instances: sums of several such counts fit into 63 bits."""
INDEX_MAX: Final = 2**31 - 1
NAME_MAX: Final = 255
"""Characters of a name that is part of a key: PostgreSQL's index entries hold 2,700 bytes."""
TEXT_MAX: Final = 4000


def possible(at: datetime) -> bool:
    """Whether an aware time is one that this program can meet."""
    return EARLIEST <= at <= LATEST


def storable(text: str) -> str:
    """The text as a database can hold it: cut, with ``?`` for lone surrogates and for NUL."""
    return text[:TEXT_MAX].encode(errors="replace").decode().replace("\0", "?")
