"""Record of the operations that a client read through the REST API recently."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.engine.ports import Clock

RECENT_S = 10.0
"""Time for which an operation counts as recently viewed."""


class RecentlyViewed:
    """Operations that a client read through the REST API recently.

    It is a hint for spending spare quota; no decision relies on it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def record(self, operation_id: str) -> None:
        """Record that this operation is viewed now."""
        self._until[operation_id] = self._clock.monotonic() + RECENT_S

    def operations(self) -> list[str]:
        """Return the ids of the operations that were viewed in the last RECENT_S."""
        now = self._clock.monotonic()
        self._until = {key: until for key, until in self._until.items() if until > now}
        return list(self._until)
