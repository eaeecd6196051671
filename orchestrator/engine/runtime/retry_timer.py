"""Pause that a loop makes after failed calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.domain.pacing.backoff import backoff_s

if TYPE_CHECKING:
    from random import Random

    from orchestrator.engine.ports import Clock


class RetryTimer:
    """Backoff of one loop: the pause grows with each failure in a row, ``base_s`` to ``max_s``."""

    def __init__(self, clock: Clock, random: Random, *, base_s: float, max_s: float) -> None:
        self._clock = clock
        self._random = random
        self._base_s = base_s
        self._max_s = max_s
        self._resume_at = 0.0
        self.failures = 0
        """In a row."""

    def wait_s(self) -> float:
        """Return the seconds until the loop may call again; 0 or less means now."""
        return self._resume_at - self._clock.monotonic()

    def failed(self) -> float:
        """Begin a pause; return its seconds."""
        self.failures += 1
        wait_s = backoff_s(
            self.failures,
            base_s=self._base_s,
            max_s=self._max_s,
            jitter=self._random.random(),
        )
        self._resume_at = self._clock.monotonic() + wait_s
        return wait_s

    def worked(self) -> None:
        """Make the next pause the shortest one again."""
        self.failures = 0
