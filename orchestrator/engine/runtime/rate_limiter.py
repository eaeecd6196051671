"""Sends one action's calls under its quota."""

from __future__ import annotations

import logging
import math
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from orchestrator.domain.errors import CloudError, CloudErrorKind
from orchestrator.domain.model.attempt import ACCEPTED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orchestrator.domain.pacing.quota import Permit, Quota
    from orchestrator.engine.lease import Lease
    from orchestrator.engine.ports import Clock

T = TypeVar("T")

TELL_EVERY_S = 600.0

log = logging.getLogger(__name__)

_UNANSWERED = (CloudErrorKind.NOT_SENT, CloudErrorKind.OUTCOME_UNKNOWN)


@dataclass(slots=True)
class _Departure:
    """A call that is to leave, under a lease, and since when it is under way (monotonic)."""

    lease: Lease
    clock: Clock
    sent_at: float

    def require(self) -> None:
        now = self.clock.monotonic()
        self.lease.require(now)
        self.sent_at = now


_departure: ContextVar[_Departure] = ContextVar("departure")


def may_leave() -> None:
    """Take note that the call of this task leaves now, on an open connection.

    Raises LeaseLost where another replica may spend the same quota now.
    """
    _departure.get().require()


class RateLimiter:
    """The quota of one action on one host, its clock, and the lease under which it is spent."""

    def __init__(
        self,
        name: str,
        quota: Quota,
        clock: Clock,
        lease: Lease,
        count: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``count`` is told how each call ended: ``accepted``, or the kind of its error."""
        self.name = name
        self._count = count
        self.quota = quota
        self._clock = clock
        self._lease = lease
        self._tell_at = clock.monotonic()

    def wait_s(self) -> float:
        """Seconds until a call may leave; infinite while every permit is out, or nobody knows."""
        now = self._clock.monotonic()
        return max(0.0, self.quota.ready_at() - now) if self._lease.holds(now) else math.inf

    def take(self) -> Permit:
        return self.quota.take(self._clock.monotonic())

    def put_back(self) -> None:
        """Put back a permit on which nothing was sent."""
        self.quota.put_back_unused(self._clock.monotonic())

    async def send(self, permit: Permit, call: Callable[[], Awaitable[T]]) -> T:
        """Make ``call`` when its permit says; raises what it raises.

        Raises LeaseLost, and calls nobody, where another replica may spend the same quota now.
        """
        await self._clock.sleep(max(0.0, permit.send_at - self._clock.monotonic()))
        departure = _Departure(self._lease, self._clock, self._clock.monotonic())
        before = _departure.set(departure)
        try:
            departure.require()
            result = await self._counted(call)
        except BaseException as error:
            self._put_back_failed(error, departure.sent_at)
            raise
        finally:
            _departure.reset(before)
        self.quota.put_back_answered(sent_at=departure.sent_at, answered_at=self._clock.monotonic())
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
            self._tell(error, now)

    def _tell(self, error: CloudError, now: float) -> None:
        """Log that the learnt rate fell, at most once in ten minutes."""
        if now >= self._tell_at:
            self._tell_at = now + TELL_EVERY_S
            log.warning(
                "%s: the cloud refuses calls (%s); %.1f of %d a second are made for now: if it "
                "goes on, configure a lower quota, or see who else calls with this credential",
                self.name,
                error,
                self.quota.learnt_per_s(now),
                self.quota.rate_per_s,
            )
