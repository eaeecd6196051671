"""How long drains take, learnt from some of those that one partition follows."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from orchestrator.domain.forecasting.duration_distribution import bucket, learnt
from orchestrator.domain.model.lifecycle import Event, State

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.decisions.transitions import Decision
    from orchestrator.domain.forecasting.duration_distribution import Durations

FOLLOWED_MAX: Final = 512
"""So many drains are followed at a time: which ones has nothing to do with how long they take."""
STOPPED_MAX: Final = 1024
"""Once so many are down, all so far count half."""
LEARNT_FOR_S: Final = 5.0


class DrainStatistics:
    """Counts drains from the acknowledgement until they are seen down."""

    def __init__(self) -> None:
        self._began_at: dict[str, datetime] = {}
        self._stopped: Counter[int] = Counter()
        self._learnt: Durations | None = None
        self._learn_at: datetime | None = None

    def decided(self, decision: Decision) -> None:
        """Take note of a drain that begins or ends."""
        after, event = decision.after, decision.event
        if event is Event.CALL_ACCEPTED:
            room = len(self._began_at) < FOLLOWED_MAX or after.id in self._began_at
            if room and after.acknowledged_at is not None:
                self._began_at[after.id] = after.acknowledged_at
        elif after.state not in (State.SENDING, State.DRAINING):
            began_at = self._began_at.pop(after.id, None)
            if (
                event is Event.SEEN_STOPPED
                and began_at is not None
                and after.observed_at is not None
            ):
                self._count((after.observed_at - began_at).total_seconds())

    def _count(self, duration_s: float) -> None:
        self._stopped[bucket(duration_s)] += 1
        if self._stopped.total() >= STOPPED_MAX:
            self._stopped = Counter(
                {index: (jobs + 1) // 2 for index, jobs in self._stopped.items()}
            )

    def durations(self, now: datetime) -> Durations | None:
        """How long drains take, as it was learnt LEARNT_FOR_S ago at most; None: none was down."""
        if self._stopped and (self._learn_at is None or now >= self._learn_at):
            ages = (now - began_at for began_at in self._began_at.values())
            draining = Counter(bucket(age.total_seconds()) for age in ages)
            self._learnt = learnt(self._stopped, draining)
            self._learn_at = now + timedelta(seconds=LEARNT_FOR_S)
        return self._learnt
