"""Termination of stragglers one by one: instances that TerminateJob does not stop, or machines."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from orchestrator.domain.decisions.escalation import RoundFinished, Straggler
from orchestrator.domain.errors import NOT_EXECUTED, REFUSALS, CloudError, CloudErrorKind
from orchestrator.domain.model.attempt import ACCEPTED, PER_INSTANCE_ACTIONS, AttemptResult
from orchestrator.engine.runtime.loop import BackgroundTasks
from orchestrator.engine.runtime.retry_timer import RetryTimer

if TYPE_CHECKING:
    from orchestrator.domain.pacing.quota import Permit
    from orchestrator.engine.partition import Partition
    from orchestrator.engine.runtime.rate_limiter import RateLimiter

BACKOFF_BASE_S = 1.0
BACKOFF_MAX_S = 60.0

log = logging.getLogger(__name__)


class Escalator:
    """Loop that sends TerminateTaskInstance and TerminateInstances for one partition.

    A call whose response is lost needs no check: it has no effect on a stopped instance
    (cloud.tencent.com/document/api/599/15908), and the next round repeats it for live ones.
    """

    def __init__(self, partition: Partition) -> None:
        self.name = f"escalator of {partition.name}"
        self.wake = partition.wakeups.escalations
        self._partition = partition
        self._limiters = {action: partition.limiters[action] for action in PER_INSTANCE_ACTIONS}
        self._calls = BackgroundTasks(f"an escalation call of {partition.name}")
        self._under_way: set[Straggler] = set()
        self._may_have_orphans = True
        """True if there may be open attempts whose result nothing will write."""
        self._backoff = RetryTimer(
            partition.clock, partition.random, base_s=BACKOFF_BASE_S, max_s=BACKOFF_MAX_S
        )
        self._logged = False
        """True once it was logged that the calls are refused."""

    async def step(self) -> float:
        """Start one call if a target is left; return the seconds until the next may start."""
        partition, store = self._partition, self._partition.store.instances
        if self._may_have_orphans:
            await self._recover()
        wait_s = max(
            self._backoff.wait_s(), min(limiter.wait_s() for limiter in self._limiters.values())
        )
        if wait_s > 0:
            return wait_s
        match await store.next_escalation_target():
            case Straggler() as straggler:
                if (wait_s := self._limiters[straggler.action].wait_s()) > 0:
                    return wait_s
                await self._start(straggler)
            case RoundFinished() as finished:
                await store.end_round(finished, partition.clock.now())
            case None:
                return math.inf
        return 0.0

    async def drain(self, timeout_s: float) -> bool:
        """Wait for the calls in flight; return False if one had to be cancelled."""
        return await self._calls.drain(timeout_s)

    async def _recover(self) -> None:
        """Close the attempts whose result was never written, by an earlier process or this one."""
        partition = self._partition
        self._may_have_orphans = False
        try:
            await partition.store.instances.close_orphaned_attempts(
                self._under_way, partition.clock.now()
            )
        except BaseException:
            self._may_have_orphans = True
            raise

    async def _start(self, straggler: Straggler) -> None:
        limiter = self._limiters[straggler.action]
        permit = limiter.take()
        written = False
        try:
            async with self._partition.set_aside_on_error(straggler.termination_id):
                await self._partition.store.instances.start(straggler, self._partition.clock.now())
                written = True
        except BaseException:
            # A commit that raised may still have been applied.
            self._may_have_orphans = True
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
                answer = AttemptResult.from_error(error, partition.clock.now())
            else:
                answer = AttemptResult(
                    at=partition.clock.now(), outcome=ACCEPTED, request_id=request_id
                )
            self._back_off(error)
            self._log_refusal(straggler, error)
            again = error is not None and error.kind in NOT_EXECUTED
            await partition.store.instances.finish(straggler, answer, again=again)
            forbidden = error is not None and error.kind is CloudErrorKind.UNAUTHORIZED
            if forbidden and straggler.machine_id is None:
                # Batch authorises its actions job by job: the other instances would be refused too.
                finished = RoundFinished(straggler.termination_id)
                await partition.store.instances.end_round(finished, answer.at)
            await partition.record_result(error, limiter)
        except BaseException:
            self._may_have_orphans = True
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

    def _log_refusal(self, straggler: Straggler, error: CloudError | None) -> None:
        """Log the first permanent refusal of a series: retries will not help."""
        refused = error is not None and error.kind in REFUSALS
        if refused and not self._logged:
            log.warning(
                "%s: %s is refused for job %s: %s",
                self.name,
                straggler.action,
                straggler.job_id,
                error,
            )
        self._logged = refused or (self._logged and error is not None)

    def _back_off(self, error: CloudError | None) -> None:
        """Pause longer after each failure; after THROTTLED, the quota alone makes it wait."""
        if error is None or error.kind not in NOT_EXECUTED:
            self._backoff.worked()
        elif error.kind is not CloudErrorKind.THROTTLED:
            self._backoff.failed()
