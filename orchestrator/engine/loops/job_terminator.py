"""Sender of TerminateJob requests under the quota; each attempt is written before it is sent.

A partition is one account on one API host, the unit of quotas and leases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.domain.errors import CloudError
from orchestrator.domain.model.attempt import (
    INTERRUPTED,
    TERMINATE_JOB,
    AttemptResult,
    NewAttempt,
)
from orchestrator.domain.model.observation import (
    CallAcknowledged,
    CallFailed,
    CallInterrupted,
    CallStarted,
)
from orchestrator.engine.runtime.loop import LoopKind
from orchestrator.engine.runtime.open_attempts import OpenAttempts

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from orchestrator.domain.model.observation import Observation
    from orchestrator.domain.model.termination import Termination
    from orchestrator.engine.partition import Partition

WRITE_AHEAD_S = 0.05
"""How long before its send time an attempt is written: the write must not delay the call."""


class JobTerminator:
    """Loop that sends the TerminateJob requests of one partition."""

    kind = LoopKind.JOB_TERMINATOR

    def __init__(self, partition: Partition) -> None:
        self.name = f"job terminator of {partition.name}"
        self._partition = partition
        self._limiter = partition.limiters[TERMINATE_JOB]
        self._of_captures = [
            partition.limiters[action] for action in ("DescribeJobSubmitInfo", "DescribeTask")
        ]
        self.wake = partition.wakeups.calls
        self._attempts = OpenAttempts[str](
            f"a TerminateJob call of {partition.name}", partition.clock, self.wake, self._close
        )
        self.calls = self._attempts.calls

    async def step(self) -> float:
        """Start one TerminateJob request if one is due; return the seconds until the next one."""
        partition = self._partition
        await self._attempts.close_orphans(partition.times_resumed)
        ready_s = self._limiter.wait_s() - WRITE_AHEAD_S
        await partition.publish_health()
        if ready_s > 0:
            return ready_s
        now, wait_s = partition.clock.now(), partition.capture.wait_s
        ready, next_at = await partition.store.ready_to_terminate(
            now, 1, capture_wait_s=wait_s, captured_in_time=self._captured_in_time(wait_s)
        )
        if ready:
            await self._start(ready[0], now)
            return 0.0
        return max(0.0, (next_at - now).total_seconds()) if next_at else float("inf")

    def _captured_in_time(self, wait_s: float) -> int | None:
        """Return how many waiting jobs, from the first on, can be captured in time.

        That is ``wait_s`` after their turn at the latest. None: all of them, since captures are as
        fast as calls of TerminateJob. A capture needs a call of two actions. Job k has its turn
        k / calls_per_s and its capture k / captures_per_s seconds from now.
        """
        now = self._partition.clock.monotonic()
        captures_per_s = min(limiter.quota.allowed_per_s(now) for limiter in self._of_captures)
        calls_per_s = self._limiter.quota.allowed_per_s(now)
        if captures_per_s >= calls_per_s:
            return None
        return 1 + int(wait_s * captures_per_s * calls_per_s / (calls_per_s - captures_per_s))

    async def _close(self, under_way: Collection[str]) -> None:
        """Close the attempts that no call in flight will answer, so that their jobs are read.

        They were left by a crash, by another replica, or by a write that failed.
        """
        partition = self._partition
        result = AttemptResult(at=partition.clock.now(), outcome=INTERRUPTED)
        for termination in await partition.store.with_open_attempts():
            if termination.id not in under_way:
                async with partition.set_aside_on_error(termination.id):
                    await self._write_result(termination, CallInterrupted(), result)

    async def _write_result(
        self, before: Termination, seen: Observation, result: AttemptResult
    ) -> None:
        decision = self._partition.decide(before, seen, result.at)
        await self._partition.store.finish_attempt(before, decision, result)
        self._partition.on_decision(before, decision)

    async def _start(self, before: Termination, now: datetime) -> None:
        partition = self._partition

        async def write() -> Termination | None:
            attempt = NewAttempt(action=TERMINATE_JOB, target=before.job_id, sent_at=now)
            decision = partition.decide(before, CallStarted(), now)
            number = await partition.store.start_attempt(before, decision, attempt)
            return None if number is None else decision.after

        async def finish(
            sending: Termination, answer: str | CloudError, result: AttemptResult
        ) -> None:
            seen: Observation
            if isinstance(answer, CloudError):
                seen, error = CallFailed(answer, before), answer
            else:
                seen, error = CallAcknowledged(answer), None
            await self._write_result(sending, seen, result)
            await partition.record_result(error, self._limiter)

        await self._attempts.start(
            before.id,
            self._limiter,
            guard=partition.set_aside_on_error(before.id),
            write=write,
            send=lambda: partition.cloud.terminate_job(region=before.region, job_id=before.job_id),
            finish=finish,
        )
