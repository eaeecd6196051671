"""Lease of this replica on one partition."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.domain.errors import LeaseLost

if TYPE_CHECKING:
    from orchestrator.domain.leasing.leases import FencingToken


@dataclass(slots=True)
class Lease:
    """The right to act for a partition until ``until``, by this replica's monotonic clock.

    No other replica takes the partition before then.
    """

    fence: FencingToken
    until: float

    def holds(self, now: float) -> bool:
        """Return whether this replica may act for the partition at ``now`` (monotonic)."""
        return now < self.until

    def require(self, now: float) -> None:
        """Raise LeaseLost unless the lease holds at ``now`` (monotonic)."""
        if not self.holds(now):
            raise LeaseLost(
                f"the lease on partition {self.fence.partition} was not renewed in time"
            )

    def lose(self) -> None:
        """End the lease at once."""
        self.until = -math.inf
