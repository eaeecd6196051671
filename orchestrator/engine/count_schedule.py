"""Schedule of instance counts for jobs with a short deadline: more often than for other jobs."""

from __future__ import annotations

import heapq
import math
from datetime import timedelta
from typing import TYPE_CHECKING

from orchestrator.domain.decisions.escalation import count_due_at, count_every_s

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.model.termination import Termination


class CountSchedule:
    """Time of the next instance count of each draining job with a short deadline.

    It is kept in memory only; after a start, the first poll of each job restores its entry.
    """

    def __init__(self) -> None:
        self._due_at: dict[str, datetime] = {}

    def on_decision(self, after: Termination) -> bool:
        """Update the schedule after a decision; return whether the termination's entry changed."""
        due_at, known = count_due_at(after), self._due_at.get(after.id)
        if due_at is None:
            self._due_at.pop(after.id, None)
            return False
        # Never sooner: a poll without counters must not bring forward a count that has started.
        self._due_at[after.id] = max(due_at, known or due_at)
        return self._due_at[after.id] != known

    def started(self, termination: Termination, now: datetime) -> None:
        """Schedule the next count after one has started, in case its response has no counters."""
        if termination.id in self._due_at:
            self._due_at[termination.id] = now + timedelta(seconds=count_every_s(termination))

    def forget(self, termination_id: str) -> None:
        """Remove a termination that is no longer draining."""
        self._due_at.pop(termination_id, None)

    def due(self, now: datetime, limit: int) -> list[str]:
        """Return the ids of terminations to count now, the longest due first."""
        overdue = ((at, id_) for id_, at in self._due_at.items() if at <= now)
        return [id_ for _, id_ in heapq.nsmallest(limit, overdue)]

    def wait_s(self, now: datetime) -> float:
        """Return the seconds until another count is due, ignoring those that are due now."""
        later = (at for at in self._due_at.values() if at > now)
        return min(((at - now).total_seconds() for at in later), default=math.inf)
