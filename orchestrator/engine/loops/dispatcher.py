"""Sends TerminateJob under the quota; the attempt is written before the call leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.domain.decisions.decide import decide
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
from orchestrator.engine.runtime.loop import Background

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.decisions.transitions import Decision
    from orchestrator.domain.model.termination import Termination
    from orchestrator.domain.pacing.quota import Permit
    from orchestrator.engine.partition import Partition

WRITE_AHEAD_S = 0.05
"""How long before its permit's time an attempt is taken up, so that writing it costs no quota."""


class Dispatcher:
    """One partition's TerminateJob calls."""

    def __init__(self, partition: Partition) -> None:
        self.name = f"dispatcher of {partition.name}"
        self._partition = partition
        self._limiter = partition.limiters[TERMINATE_JOB]
        self._calls = Background(f"a TerminateJob call of {partition.name}")
        self._under_way: set[str] = set()
        self._may_have_lost = True
        self._taken_up = partition.taken_up
        """As it was when unanswered attempts were last looked for."""
        self.wake = partition.wakeups.calls

    async def step(self) -> float:
        """Take up one job if one may be called; returns the seconds until the next may be."""
        partition = self._partition
        if self._may_have_lost or self._taken_up != partition.taken_up:
            await self._recover()
        ready_s = self._limiter.wait_s() - WRITE_AHEAD_S
        await partition.tell_condition()
        if ready_s > 0:
            return ready_s
        now, wait_s = partition.clock.now(), partition.capture.wait_s
        ready, next_at = await partition.store.callable(now, 1, capture_wait_s=wait_s)
        if ready:
            await self._start(ready[0], now)
            return 0.0
        return max(0.0, (next_at - now).total_seconds()) if next_at else float("inf")

    async def end(self, within_s: float) -> bool:
        """Let the calls under way end; False where one had to be cut off."""
        return await self._calls.end(within_s)

    async def _recover(self) -> None:
        """Take note of attempts whose answer was never written, in an earlier process or here."""
        partition = self._partition
        now = partition.clock.now()
        self._may_have_lost, self._taken_up = False, partition.taken_up
        try:
            for termination in await partition.store.unanswered():
                if termination.id in self._under_way:
                    continue
                async with partition.set_aside_on_error(termination.id):
                    decision = decide(termination, CallInterrupted(), now, partition.policy())
                    answer = AttemptResult(at=now, outcome=INTERRUPTED)
                    await self._finish(termination, decision, answer)
        except BaseException:
            self._may_have_lost = True
            raise

    async def _finish(self, before: Termination, decision: Decision, answer: AttemptResult) -> None:
        await self._partition.store.finish_attempt(before, decision, answer)
        self._partition.decided(before, decision)

    async def _start(self, termination: Termination, now: datetime) -> None:
        partition = self._partition
        permit = self._limiter.take()
        attempt = NewAttempt(action=TERMINATE_JOB, target=termination.job_id, sent_at=now)
        written: Decision | None = None
        try:
            async with partition.set_aside_on_error(termination.id):
                decision = decide(termination, CallStarted(), now, partition.policy())
                if await partition.store.start_attempt(termination, decision, attempt) is not None:
                    written = decision
        except BaseException:
            # What is told as failed may be committed all the same.
            self._may_have_lost = True
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
                answer = AttemptResult.of_error(error, partition.clock.now())
            else:
                seen = CallAccepted(request_id)
                answer = AttemptResult(
                    at=partition.clock.now(), outcome=ACCEPTED, request_id=request_id
                )
            decision = decide(termination, seen, answer.at, partition.policy())
            await self._finish(termination, decision, answer)
        except BaseException:
            self._may_have_lost = True
            raise
        else:
            failed = seen.error if isinstance(seen, CallFailed) else None
            await partition.note(failed, self._limiter)
        finally:
            self._under_way.discard(termination.id)
            self.wake.set()
