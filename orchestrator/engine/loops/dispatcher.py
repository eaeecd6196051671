"""Sender of TerminateJob requests under the quota; each attempt is written before it is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.domain.errors import CloudError
from orchestrator.domain.model.attempt import (
    ACCEPTED,
    INTERRUPTED,
    TERMINATE_JOB,
    AttemptResult,
    NewAttempt,
)
from orchestrator.domain.model.observation import (
    CallAccepted,
    CallFailed,
    CallInterrupted,
    CallStarted,
)
from orchestrator.engine.runtime.loop import BackgroundTasks

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.decisions.transitions import Decision
    from orchestrator.domain.model.termination import Termination
    from orchestrator.domain.pacing.quota import Permit
    from orchestrator.engine.partition import Partition

WRITE_AHEAD_S = 0.05
"""Time before the permit's send time at which an attempt is written, so that it costs no quota."""


class Dispatcher:
    """Loop that sends the TerminateJob requests of one partition."""

    def __init__(self, partition: Partition) -> None:
        self.name = f"dispatcher of {partition.name}"
        self._partition = partition
        self._limiter = partition.limiters[TERMINATE_JOB]
        self._calls = BackgroundTasks(f"a TerminateJob call of {partition.name}")
        self._under_way: set[str] = set()
        self._may_have_orphans = True
        """True if there may be open attempts whose result will never be written."""
        self._taken_up = partition.taken_up
        """Value of ``partition.taken_up`` when open attempts were last searched for."""
        self.wake = partition.wakeups.calls

    async def step(self) -> float:
        """Start one TerminateJob request if one is due; return the seconds until the next one."""
        partition = self._partition
        if self._may_have_orphans or self._taken_up != partition.taken_up:
            await self._recover()
        ready_s = self._limiter.wait_s() - WRITE_AHEAD_S
        await partition.publish_health()
        if ready_s > 0:
            return ready_s
        now, wait_s = partition.clock.now(), partition.capture.wait_s
        ready, next_at = await partition.store.ready_to_terminate(now, 1, capture_wait_s=wait_s)
        if ready:
            await self._start(ready[0], now)
            return 0.0
        return max(0.0, (next_at - now).total_seconds()) if next_at else float("inf")

    async def drain(self, timeout_s: float) -> bool:
        """Wait for the requests in flight; return False if one had to be cancelled."""
        return await self._calls.drain(timeout_s)

    async def _recover(self) -> None:
        """Close the attempts whose result was never written, by an earlier process or this one."""
        partition = self._partition
        now = partition.clock.now()
        self._may_have_orphans, self._taken_up = False, partition.taken_up
        try:
            for termination in await partition.store.with_open_attempts():
                if termination.id in self._under_way:
                    continue
                async with partition.set_aside_on_error(termination.id):
                    decision = partition.decide(termination, CallInterrupted(), now)
                    answer = AttemptResult(at=now, outcome=INTERRUPTED)
                    await self._finish(termination, decision, answer)
        except BaseException:
            self._may_have_orphans = True
            raise

    async def _finish(self, before: Termination, decision: Decision, answer: AttemptResult) -> None:
        await self._partition.store.finish_attempt(before, decision, answer)
        self._partition.on_decision(before, decision)

    async def _start(self, termination: Termination, now: datetime) -> None:
        partition = self._partition
        permit = self._limiter.take()
        attempt = NewAttempt(action=TERMINATE_JOB, target=termination.job_id, sent_at=now)
        written: Decision | None = None
        try:
            async with partition.set_aside_on_error(termination.id):
                decision = partition.decide(termination, CallStarted(), now)
                if await partition.store.start_attempt(termination, decision, attempt) is not None:
                    written = decision
        except BaseException:
            # A commit that raised may still have been applied.
            self._may_have_orphans = True
            raise
        finally:
            if written is None:
                self._limiter.put_back()
        if written is not None:
            after = written.after
            self._under_way.add(termination.id)
            self._calls.start(lambda: self._call(termination, after, permit))

    async def _call(self, before: Termination, termination: Termination, permit: Permit) -> None:
        partition = self._partition
        try:
            seen: CallAccepted | CallFailed
            try:
                request_id = await self._limiter.send(
                    permit,
                    lambda: partition.cloud.terminate_job(
                        region=termination.region, job_id=termination.job_id
                    ),
                )
            except CloudError as error:
                seen = CallFailed(error, before)
                answer = AttemptResult.from_error(error, partition.clock.now())
            else:
                seen = CallAccepted(request_id)
                answer = AttemptResult(
                    at=partition.clock.now(), outcome=ACCEPTED, request_id=request_id
                )
            decision = partition.decide(termination, seen, answer.at)
            await self._finish(termination, decision, answer)
        except BaseException:
            self._may_have_orphans = True
            raise
        else:
            failed = seen.error if isinstance(seen, CallFailed) else None
            await partition.record_result(failed, self._limiter)
        finally:
            self._under_way.discard(termination.id)
            self.wake.set()
