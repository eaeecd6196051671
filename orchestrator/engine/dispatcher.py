"""Sends TerminateJob under the quota; the attempt is written before the call leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.domain.attempts import ACCEPTED, INTERRUPTED, TERMINATE_JOB, Answer, NewAttempt
from orchestrator.domain.decide import decide
from orchestrator.domain.errors import CloudError
from orchestrator.domain.seen import CallAccepted, CallFailed, CallInterrupted, CallStarted
from orchestrator.engine.loop import Background

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.decisions import Decision
    from orchestrator.domain.quota import Permit
    from orchestrator.domain.terminations import Termination
    from orchestrator.engine.partition import Partition

WRITE_AHEAD_S = 0.05
"""How long before its permit's time an attempt is taken up, so that writing it costs no quota."""


class Dispatcher:
    """One partition's TerminateJob calls."""

    def __init__(self, partition: Partition) -> None:
        self.name = f"dispatcher of {partition.name}"
        self._partition = partition
        self._pacer = partition.pacers[TERMINATE_JOB]
        self._calls = Background(f"a TerminateJob call of {partition.name}")
        self._under_way: set[str] = set()
        self._may_have_lost = True
        self.wake = partition.wakes.calls

    async def step(self) -> float:
        """Take up one job if one may be called; returns the seconds until the next may be."""
        partition = self._partition
        if self._may_have_lost:
            await self._recover()
        ready_s = self._pacer.wait_s() - WRITE_AHEAD_S
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
        self._may_have_lost = False
        try:
            for termination in await partition.store.unanswered():
                if termination.id not in self._under_way:
                    decision = decide(termination, CallInterrupted(), now, partition.policy())
                    answer = Answer(at=now, outcome=INTERRUPTED)
                    await self._finish(termination, decision, answer)
        except BaseException:
            self._may_have_lost = True
            raise

    async def _finish(self, before: Termination, decision: Decision, answer: Answer) -> None:
        await self._partition.store.finish_attempt(before, decision, answer)
        self._partition.decided(before, decision)

    async def _start(self, termination: Termination, now: datetime) -> None:
        partition = self._partition
        permit = self._pacer.take()
        attempt = NewAttempt(action=TERMINATE_JOB, target=termination.job_id, sent_at=now)
        written = False
        try:
            async with partition.minding(termination):
                decision = decide(termination, CallStarted(), now, partition.policy())
                number = await partition.store.start_attempt(termination, decision, attempt)
            written = number is not None
        except BaseException:
            # What is told as failed may be committed all the same.
            self._may_have_lost = True
            raise
        finally:
            if not written:
                self._pacer.put_back()
        if written:
            self._under_way.add(termination.id)
            self._calls.start(lambda: self._call(termination, decision.after, permit))

    async def _call(self, before: Termination, termination: Termination, permit: Permit) -> None:
        partition = self._partition
        try:
            seen: CallAccepted | CallFailed
            try:
                request_id = await self._pacer.send(
                    permit,
                    lambda: partition.cloud.terminate_job(
                        region=termination.region, job_id=termination.job_id
                    ),
                )
            except CloudError as error:
                seen = CallFailed(error, before)
                answer = Answer.of_error(error, partition.clock.now())
            else:
                seen = CallAccepted(request_id)
                answer = Answer(at=partition.clock.now(), outcome=ACCEPTED, request_id=request_id)
            decision = decide(termination, seen, answer.at, partition.policy())
            await self._finish(termination, decision, answer)
        except BaseException:
            self._may_have_lost = True
            raise
        else:
            failed = seen.error if isinstance(seen, CallFailed) else None
            await partition.note(failed, self._pacer)
        finally:
            self._under_way.discard(termination.id)
            self.wake.set()
