"""Sends one action's calls under its quota."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from orchestrator.domain.errors import CloudError, CloudErrorKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orchestrator.domain.quota import Permit, Quota
    from orchestrator.engine.ports import Clock

T = TypeVar("T")

_UNANSWERED = (CloudErrorKind.NOT_SENT, CloudErrorKind.OUTCOME_UNKNOWN)


class Pacer:
    """The quota of one action on one host, and the clock it runs on."""

    def __init__(self, quota: Quota, clock: Clock) -> None:
        self.quota = quota
        self._clock = clock
        self.permit_returned = asyncio.Event()

    def wait_s(self) -> float:
        """Seconds until a call may leave; infinite while every permit is out."""
        now = self._clock.monotonic()
        return max(0.0, self.quota.ready_at(now) - now)

    def take(self) -> Permit:
        return self.quota.take(self._clock.monotonic())

    def put_back(self) -> None:
        """Put back a permit on which nothing was sent."""
        self.quota.put_back_unused(self._clock.monotonic())

    async def send(self, permit: Permit, call: Callable[[], Awaitable[T]]) -> T:
        """Make ``call`` when its permit says; raises what it raises."""
        await self._clock.sleep(max(0.0, permit.send_at - self._clock.monotonic()))
        sent_at = self._clock.monotonic()
        answered = False
        try:
            result = await call()
            answered = True
        except CloudError as error:
            answered = error.kind not in _UNANSWERED
            if error.kind is CloudErrorKind.THROTTLED:
                now = self._clock.monotonic()
                self.quota.throttled(now, ceiling_per_s=error.quota_ceiling)
            raise
        else:
            return result
        finally:
            now = self._clock.monotonic()
            if answered:
                self.quota.put_back_answered(sent_at=sent_at, answered_at=now)
            else:
                self.quota.put_back_unanswered(now)
            self.permit_returned.set()
