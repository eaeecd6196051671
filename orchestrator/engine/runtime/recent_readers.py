"""Which operations somebody is watching now."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.engine.ports import Clock

WATCHED_FOR_S = 10.0
"""An operation counts as watched for this long after it was asked for."""


class RecentReaders:
    """Remembers who was asked for of late; a hint for spending, never relied on."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def note(self, operation_id: str) -> None:
        self._until[operation_id] = self._clock.monotonic() + WATCHED_FOR_S

    def operations(self) -> list[str]:
        now = self._clock.monotonic()
        self._until = {key: until for key, until in self._until.items() if until > now}
        return list(self._until)
