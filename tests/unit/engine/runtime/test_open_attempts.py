"""Attempts under way, and those whose result nothing will write."""

from __future__ import annotations

import asyncio
import math
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

from orchestrator.cloud import error_codes
from orchestrator.domain.errors import CloudError, StoreUnavailable
from orchestrator.domain.leasing.leases import FencingToken
from orchestrator.domain.pacing.quota import Quota
from orchestrator.engine.lease_guard import Lease
from orchestrator.engine.runtime.open_attempts import OpenAttempts
from orchestrator.engine.runtime.rate_limiter import RateLimiter
from tests.support import HANG_S
from tests.support.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Collection

    from orchestrator.domain.model.attempt import AttemptResult

FULL = StoreUnavailable("full")
THROTTLED = error_codes.error("RequestLimitExceeded", "too many")


class Loop:
    """Sender of attempts under a quota of two, whose writes and request a test may fail."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.clock.advance(1.0)
        lease = Lease(FencingToken("p", 1), math.inf)
        quota = Quota(2, now=0.0, spread=False)
        self.limiter = RateLimiter("an action", quota, self.clock, lease)
        self.closed: list[set[str]] = []
        """What was under way at each search for orphans."""
        self.fails: dict[str, Exception] = {}
        self.answered = asyncio.Event()
        self.answered.set()
        self.finished: list[tuple[str, str]] = []
        self.attempts = OpenAttempts[str]("a call", self.clock, asyncio.Event(), self._close)

    async def _close(self, under_way: Collection[str]) -> None:
        self.closed.append(set(under_way))
        self._fail("close")

    def _fail(self, at: str) -> None:
        if at in self.fails:
            raise self.fails[at]

    async def start(self, key: str, written: str | None = "written") -> None:
        async def write() -> str | None:
            self._fail("write")
            return written

        async def send() -> str:
            await self.answered.wait()
            self._fail("send")
            return "request-1"

        async def finish(written: str, answer: str | CloudError, result: AttemptResult) -> None:
            self._fail("finish")
            assert result.request_id == (answer if isinstance(answer, str) else None)
            self.finished.append((written, result.outcome))

        await self.attempts.start(
            key, self.limiter, guard=nullcontext(), write=write, send=send, finish=finish
        )

    async def ended(self) -> None:
        assert await self.attempts.calls.drain(HANG_S)


async def test_orphans_are_closed_once_at_the_start_and_when_terminations_are_given_back() -> None:
    loop = Loop()
    for times_resumed in (0, 0, 1, 1):
        await loop.attempts.close_orphans(times_resumed)
    assert len(loop.closed) == 2


async def test_what_could_not_be_closed_is_tried_again() -> None:
    loop = Loop()
    loop.fails["close"] = FULL
    with pytest.raises(StoreUnavailable):
        await loop.attempts.close_orphans(0)
    loop.fails.clear()
    await loop.attempts.close_orphans(0)
    await loop.attempts.close_orphans(0)
    assert len(loop.closed) == 2


@pytest.mark.parametrize(("failure", "outcome"), [(None, "accepted"), (THROTTLED, "throttled")])
async def test_a_request_that_is_answered_leaves_no_orphan(
    failure: CloudError | None, outcome: str
) -> None:
    loop = Loop()
    await loop.attempts.close_orphans(0)
    if failure is not None:
        loop.fails["send"] = failure
    await loop.start("job-1")
    await loop.ended()
    assert loop.finished == [("written", outcome)]
    await loop.attempts.close_orphans(0)
    assert len(loop.closed) == 1


@pytest.mark.parametrize("at", ["send", "finish"])
async def test_a_result_that_was_not_written_leaves_an_orphan_and_other_requests_go_on(
    at: str,
) -> None:
    loop = Loop()
    await loop.attempts.close_orphans(0)
    loop.fails[at] = FULL
    await loop.start("job-1")
    await loop.ended()
    loop.fails.clear()
    loop.answered.clear()
    await loop.start("job-2")
    await loop.attempts.close_orphans(0)
    assert loop.closed == [set(), {"job-2"}]
    loop.answered.set()
    await loop.ended()
    assert loop.finished == [("written", "accepted")]


async def test_a_write_that_raised_may_have_left_an_orphan_and_costs_no_permit() -> None:
    loop = Loop()
    await loop.attempts.close_orphans(0)
    loop.fails["write"] = FULL
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await loop.start("job-1")
    assert loop.limiter.wait_s() == 0
    await loop.attempts.close_orphans(0)
    assert loop.closed == [set(), set()]


async def test_where_there_is_nothing_to_send_nothing_is_sent_and_no_permit_spent() -> None:
    loop = Loop()
    await loop.attempts.close_orphans(0)
    for _ in range(3):
        await loop.start("job-1", written=None)
    assert loop.limiter.wait_s() == 0
    assert (loop.attempts.calls.under_way, loop.finished) == (set(), [])
    await loop.attempts.close_orphans(0)
    assert len(loop.closed) == 1
