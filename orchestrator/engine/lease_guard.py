"""Lease of this replica on one partition, checked again when a call is sent."""

from __future__ import annotations

import math
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.domain.errors import LeaseLost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.domain.leasing.leases import FencingToken
    from orchestrator.engine.ports import Clock


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


@dataclass(slots=True)
class PendingSend:
    """A call about to be sent under a lease, and when it was sent (monotonic)."""

    lease: Lease
    clock: Clock
    sent_at: float

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make this the call that ``before_send`` is about; raise LeaseLost as it does."""
        before = _pending_send.set(self)
        try:
            self.require()
            yield
        finally:
            _pending_send.reset(before)

    def require(self) -> None:
        """Record that the call is sent now; raise LeaseLost unless the lease holds."""
        now = self.clock.monotonic()
        self.lease.require(now)
        self.sent_at = now


_pending_send: ContextVar[PendingSend] = ContextVar("pending_send")


def before_send() -> None:
    """Record that the call of this task is sent now, on an open connection.

    Raise LeaseLost, so that nothing is sent, if another replica may be using the same quota.
    """
    _pending_send.get().require()
