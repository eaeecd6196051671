"""A partition held by this replica, and until when it may act on that."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.domain.errors import LeaseLost

if TYPE_CHECKING:
    from orchestrator.domain.leasing.lease import FencingToken


@dataclass(slots=True)
class Lease:
    """``until``, by this replica's monotonic clock, nobody else takes the partition."""

    fence: FencingToken
    until: float

    def holds(self, now: float) -> bool:
        return now < self.until

    def require(self, now: float) -> None:
        """Raise LeaseLost unless it holds."""
        if not self.holds(now):
            raise LeaseLost(f"the lease on {self.fence.partition} was not renewed in time")

    def lose(self) -> None:
        self.until = -math.inf
