"""Rate limiter of one API action: each call needs a permit of the quota, and a valid lease."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, TypeVar

from orchestrator.domain.errors import CloudError, CloudErrorKind
from orchestrator.domain.model.attempt import ACCEPTED
from orchestrator.engine.lease_guard import PendingSend

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orchestrator.domain.pacing.quota import Permit, Quota
    from orchestrator.engine.lease_guard import Lease
    from orchestrator.engine.ports import Clock

T = TypeVar("T")

LOG_INTERVAL_S = 600.0
"""Shortest time between two warnings that the cloud refuses calls as too many."""

log = logging.getLogger(__name__)

_UNANSWERED = (CloudErrorKind.NOT_SENT, CloudErrorKind.OUTCOME_UNKNOWN)


class RateLimiter:
    """Gate before each call of one action to one host.

    It waits for a permit of the quota (``domain.pacing.quota``), and refuses to send once another
    replica may hold the lease.
    """

    def __init__(
        self,
        name: str,
        quota: Quota,
        clock: Clock,
        lease: Lease,
        count: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Take a quota; ``count`` gets the outcome of each call: ``accepted`` or an error kind."""
        self.name = name
        self._count = count
        self.quota = quota
        self._clock = clock
        self._lease = lease
        self._log_after = clock.monotonic()

    def wait_s(self) -> float:
        """Return the seconds until a permit is available.

        Infinite while every permit is in use, and while the lease does not hold.
        """
        now = self._clock.monotonic()
        return max(0.0, self.quota.ready_at() - now) if self._lease.holds(now) else math.inf

    def take(self) -> Permit:
        """Take a permit; the caller sends on it or puts it back."""
        return self.quota.take(self._clock.monotonic())

    def put_back(self) -> None:
        """Return a permit on which nothing was sent."""
        self.quota.put_back_unused(self._clock.monotonic())

    async def send(self, permit: Permit, call: Callable[[], Awaitable[T]]) -> T:
        """Wait for the time of the permit, then make ``call``; raise what it raises.

        Raise LeaseLost, and send nothing, if another replica may be using the same quota.
        """
        await self._clock.sleep(max(0.0, permit.send_at - self._clock.monotonic()))
        pending = PendingSend(self._lease, self._clock, self._clock.monotonic())
        try:
            with pending.current():
                result = await self._counted(call)
        except BaseException as error:
            self._put_back_failed(error, pending.sent_at)
            raise
        self.quota.put_back_answered(sent_at=pending.sent_at, answered_at=self._clock.monotonic())
        return result

    async def _counted(self, call: Callable[[], Awaitable[T]]) -> T:
        try:
            result = await call()
        except CloudError as error:
            self._count(error.kind)
            raise
        self._count(ACCEPTED)
        return result

    def _put_back_failed(self, error: BaseException, sent_at: float) -> None:
        now = self._clock.monotonic()
        if not isinstance(error, CloudError) or error.kind in _UNANSWERED:
            self.quota.put_back_unanswered(now)
        elif error.kind is not CloudErrorKind.THROTTLED:
            self.quota.put_back_answered(sent_at=sent_at, answered_at=now)
        elif self.quota.put_back_refused(
            sent_at=sent_at, answered_at=now, ceiling_per_s=error.quota_ceiling
        ):
            self._log_lower_rate(error, now)

    def _log_lower_rate(self, error: CloudError, now: float) -> None:
        """Log that the allowed rate fell, at most once in LOG_INTERVAL_S."""
        if now >= self._log_after:
            self._log_after = now + LOG_INTERVAL_S
            log.warning(
                "%s: the cloud refuses calls (%s); the rate is now %.1f of %d calls a second. If "
                "it stays low, configure a lower quota, or find out who else uses this credential",
                self.name,
                error,
                self.quota.allowed_per_s(now),
                self.quota.rate_per_s,
            )
