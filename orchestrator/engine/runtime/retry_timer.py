"""Pause after failures: of a loop, of its calls, or of one id in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.domain.pacing.backoff import backoff_s

if TYPE_CHECKING:
    from random import Random

    from orchestrator.engine.ports import Clock


class RetryTimer:
    """Backoff: the pause grows with each failure in a row, from ``base_s`` to ``max_s``."""

    def __init__(self, clock: Clock, random: Random, *, base_s: float, max_s: float) -> None:
        self._clock = clock
        self._random = random
        self._base_s = base_s
        self._max_s = max_s
        self._resume_at = 0.0
        self.failures = 0
        """In a row."""

    def wait_s(self) -> float:
        """Return the seconds until the pause is over; 0 or less: it is."""
        return self._resume_at - self._clock.monotonic()

    def failed(self, *, after_s: float = 0.0) -> float:
        """Begin a pause: ``after_s``, then the backoff; return its seconds."""
        self.failures += 1
        wait_s = after_s + backoff_s(
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
