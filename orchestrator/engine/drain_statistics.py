"""Statistics of how long jobs of one partition drain, from a sample of its drains."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from orchestrator.domain.forecasting.duration_distribution import bucket, estimate
from orchestrator.domain.model.lifecycle import Event, State

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.decisions.decision import Decision
    from orchestrator.domain.forecasting.duration_distribution import Durations

FOLLOWED_MAX: Final = 512
"""Drains followed at a time. Which ones is unrelated to their duration, so the sample is fair."""
STOPPED_MAX: Final = 1024
"""At this many ended drains, the weight of all so far is halved."""
RECALCULATE_AFTER_S: Final = 5.0
"""Time for which a calculated distribution is reused."""


class DrainStatistics:
    """Durations of drains, each from the acknowledged call until a poll shows the job stopped."""

    def __init__(self) -> None:
        self._began_at: dict[str, datetime] = {}
        self._stopped: Counter[int] = Counter()
        self._durations: Durations | None = None
        self._recalculate_at: datetime | None = None

    def on_decision(self, decision: Decision) -> None:
        """Record a drain that begins or ends."""
        after, event = decision.after, decision.event
        if event is Event.CALL_ACKNOWLEDGED:
            room = len(self._began_at) < FOLLOWED_MAX or after.id in self._began_at
            if room and after.calls.acknowledged_at is not None:
                self._began_at[after.id] = after.calls.acknowledged_at
        elif after.state not in (State.SENDING, State.DRAINING):
            began_at = self._began_at.pop(after.id, None)
            if (
                event is Event.SEEN_STOPPED
                and began_at is not None
                and after.job.observed_at is not None
            ):
                self._count((after.job.observed_at - began_at).total_seconds())

    def _count(self, duration_s: float) -> None:
        self._stopped[bucket(duration_s)] += 1
        if self._stopped.total() >= STOPPED_MAX:
            self._stopped = Counter(
                {index: (jobs + 1) // 2 for index, jobs in self._stopped.items()}
            )

    def durations(self, now: datetime) -> Durations | None:
        """Return the distribution of drain durations, at most RECALCULATE_AFTER_S old.

        None: no drain has ended yet.
        """
        if self._stopped and (self._recalculate_at is None or now >= self._recalculate_at):
            ages = (now - began_at for began_at in self._began_at.values())
            draining = Counter(bucket(age.total_seconds()) for age in ages)
            self._durations = estimate(self._stopped, draining)
            self._recalculate_at = now + timedelta(seconds=RECALCULATE_AFTER_S)
        return self._durations
