"""When jobs whose deadline is short are to be counted: more often than all that drain."""

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
    """The next count of each draining job with a short deadline.

    It is kept in memory alone: after a start, the first poll of each job brings it back.
    """

    def __init__(self) -> None:
        self._due_at: dict[str, datetime] = {}

    def decided(self, after: Termination) -> bool:
        """Take note of what was decided; returns whether another count is due because of it."""
        due_at, known = count_due_at(after), self._due_at.get(after.id)
        if due_at is None:
            self._due_at.pop(after.id, None)
            return False
        # Never sooner: a poll that brings no count changes nothing about one that was started.
        self._due_at[after.id] = max(due_at, known or due_at)
        return self._due_at[after.id] != known

    def started(self, row: Termination, now: datetime) -> None:
        """Expect its count; where the answer brings none, it is due again as much later."""
        if row.id in self._due_at:
            self._due_at[row.id] = now + timedelta(seconds=count_every_s(row))

    def forget(self, termination_id: str) -> None:
        """Drop one that drains no longer."""
        self._due_at.pop(termination_id, None)

    def due(self, now: datetime, limit: int) -> list[str]:
        """The ids of those to count now, the longest due first."""
        overdue = ((at, id_) for id_, at in self._due_at.items() if at <= now)
        return [id_ for _, id_ in heapq.nsmallest(limit, overdue)]

    def wait_s(self, now: datetime) -> float:
        """The seconds until one more is due, beside those that are due now."""
        later = (at for at in self._due_at.values() if at > now)
        return min(((at - now).total_seconds() for at in later), default=math.inf)
