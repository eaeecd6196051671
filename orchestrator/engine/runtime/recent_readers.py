"""Record of the operations that somebody is watching now."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.engine.ports import Clock

WATCHED_FOR_S = 10.0
"""Time for which an operation counts as watched after it was read through the API."""


class RecentReaders:
    """Operations that were read through the API recently.

    It is a hint for spending spare quota; no decision relies on it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def record(self, operation_id: str) -> None:
        """Count this operation as watched from now on, for WATCHED_FOR_S."""
        self._until[operation_id] = self._clock.monotonic() + WATCHED_FOR_S

    def operations(self) -> list[str]:
        """Return the ids of the operations that are watched now."""
        now = self._clock.monotonic()
        self._until = {key: until for key, until in self._until.items() if until > now}
        return list(self._until)
