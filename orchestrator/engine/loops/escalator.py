"""Calls for instances that TerminateJob does not bring down, or for their machines, one by one."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from orchestrator.domain.decisions.escalation import RoundOver, Straggler
from orchestrator.domain.errors import CloudError, CloudErrorKind
from orchestrator.domain.model.attempt import ACCEPTED, FOR_ONE, AttemptResult
from orchestrator.engine.runtime.loop import Background
from orchestrator.engine.runtime.retry_timer import RetryTimer

if TYPE_CHECKING:
    from orchestrator.domain.pacing.quota import Permit
    from orchestrator.engine.partition import Partition
    from orchestrator.engine.runtime.rate_limiter import RateLimiter

BACKOFF_BASE_S = 1.0
BACKOFF_MAX_S = 60.0

_NOT_EXECUTED = (
    CloudErrorKind.THROTTLED,
    CloudErrorKind.NOT_SENT,
    CloudErrorKind.CREDENTIAL,
    CloudErrorKind.CLOCK_SKEW,
)
"""Failures after which the instance is called once more in the same round."""
_REFUSED = (CloudErrorKind.REFUSED, CloudErrorKind.UNAUTHORIZED)


log = logging.getLogger(__name__)


class Escalator:
    """One partition's TerminateTaskInstance and TerminateInstances calls.

    A call whose answer is lost is not read after: on an instance that is down it has no effect
    (cloud.tencent.com/document/api/599/15908), and the next round calls for those that are live.
    """

    def __init__(self, partition: Partition) -> None:
        self.name = f"escalator of {partition.name}"
        self.wake = partition.wakeups.escalations
        self._partition = partition
        self._pacers = {action: partition.limiters[action] for action in FOR_ONE}
        self._calls = Background(f"an escalation call of {partition.name}")
        self._under_way: set[Straggler] = set()
        self._may_have_lost = True
        self._backoff = RetryTimer(
            partition.clock, partition.random, base_s=BACKOFF_BASE_S, max_s=BACKOFF_MAX_S
        )
        self._logged = False
        """Whether it was logged that the calls are refused."""

    async def step(self) -> float:
        """Call for one instance if one is left; returns the seconds until the next may be."""
        partition, store = self._partition, self._partition.store.instances
        if self._may_have_lost:
            await self._recover()
        wait_s = max(
            self._backoff.wait_s(), min(limiter.wait_s() for limiter in self._pacers.values())
        )
        if wait_s > 0:
            return wait_s
        match await store.next_in_rounds():
            case Straggler() as straggler:
                if (wait_s := self._pacers[straggler.action].wait_s()) > 0:
                    return wait_s
                await self._start(straggler)
            case RoundOver() as over:
                await store.end_round(over, partition.clock.now())
            case None:
                return math.inf
        return 0.0

    async def end(self, within_s: float) -> bool:
        """Let the calls under way end; False where one had to be cut off."""
        return await self._calls.end(within_s)

    async def _recover(self) -> None:
        """Take note of attempts whose answer was never written, in an earlier process or here."""
        partition = self._partition
        self._may_have_lost = False
        try:
            await partition.store.instances.interrupted(self._under_way, partition.clock.now())
        except BaseException:
            self._may_have_lost = True
            raise

    async def _start(self, straggler: Straggler) -> None:
        limiter = self._pacers[straggler.action]
        permit = limiter.take()
        written = False
        try:
            async with self._partition.set_aside_on_error(straggler.termination_id):
                await self._partition.store.instances.start(straggler, self._partition.clock.now())
                written = True
        except BaseException:
            # What is told as failed may be committed all the same.
            self._may_have_lost = True
            raise
        finally:
            if not written:
                limiter.put_back()
        if written:
            self._under_way.add(straggler)
            self._calls.start(lambda: self._call(straggler, limiter, permit))

    async def _call(self, straggler: Straggler, limiter: RateLimiter, permit: Permit) -> None:
        partition, error = self._partition, None
        try:
            try:
                request_id = await limiter.send(permit, lambda: self._terminate(straggler))
            except CloudError as raised:
                error = raised
                answer = AttemptResult.of_error(error, partition.clock.now())
            else:
                answer = AttemptResult(
                    at=partition.clock.now(), outcome=ACCEPTED, request_id=request_id
                )
            self._back_off(error)
            self._tell(straggler, error)
            again = error is not None and error.kind in _NOT_EXECUTED
            await partition.store.instances.finish(straggler, answer, again=again)
            forbidden = error is not None and error.kind is CloudErrorKind.UNAUTHORIZED
            if forbidden and straggler.machine_id is None:
                # Batch's actions are authorised job by job: so it would be for all the others.
                over = RoundOver(straggler.termination_id)
                await partition.store.instances.end_round(over, answer.at)
            await partition.note(error, limiter)
        except BaseException:
            self._may_have_lost = True
            raise
        finally:
            self._under_way.discard(straggler)
            self.wake.set()

    async def _terminate(self, straggler: Straggler) -> str:
        cloud = self._partition.cloud
        if straggler.machine_id is not None:
            return await cloud.terminate_machine(
                region=straggler.region, machine_id=straggler.machine_id
            )
        return await cloud.terminate_task_instance(
            region=straggler.region,
            job_id=straggler.job_id,
            task_name=straggler.task,
            index=straggler.instance_index,
        )

    def _tell(self, straggler: Straggler, error: CloudError | None) -> None:
        """Log the first of the calls that are refused for good: nobody may wait for them."""
        refused = error is not None and error.kind in _REFUSED
        if refused and not self._logged:
            log.warning("%s: %s is refused: %s", self.name, straggler.action, error)
        self._logged = refused or (self._logged and error is not None)

    def _back_off(self, error: CloudError | None) -> None:
        """Wait longer after each failure; for refusals as one too many, the quota waits."""
        if error is None or error.kind not in _NOT_EXECUTED:
            self._backoff.worked()
        elif error.kind is not CloudErrorKind.THROTTLED:
            self._backoff.failed()
