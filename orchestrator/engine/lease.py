"""A partition held by this replica, and until when it may act on that."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.domain.leases import Fence


@dataclass(slots=True)
class Lease:
    """``until``, by this replica's monotonic clock, nobody else takes the partition."""

    fence: Fence
    until: float

    def holds(self, now: float) -> bool:
        return now < self.until

    def lose(self) -> None:
        self.until = -math.inf
