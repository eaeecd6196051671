"""Termination of stragglers one by one: instances that TerminateJob does not stop, or machines."""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.domain.decisions.escalation import ROUND_ACTIONS, RoundFinished, Straggler
from orchestrator.domain.errors import NOT_EXECUTED, REFUSALS, CloudError, CloudErrorKind
from orchestrator.engine.runtime.loop import LoopKind
from orchestrator.engine.runtime.open_attempts import OpenAttempts
from orchestrator.engine.runtime.retry_timer import RetryTimer

if TYPE_CHECKING:
    from collections.abc import Collection

    from orchestrator.domain.model.attempt import AttemptResult
    from orchestrator.engine.partition import Partition

BACKOFF_BASE_S = 1.0
BACKOFF_MAX_S = 60.0

log = logging.getLogger(__name__)


class Escalator:
    """Loop that sends TerminateTaskInstance and TerminateInstances for one partition.

    A call whose response is lost is not repeated in its round. Nothing is done about it: it has no
    effect on a stopped instance (cloud.tencent.com/document/api/599/15908), and what stays live is
    the business of the next round or level.
    """

    kind = LoopKind.ESCALATOR

    def __init__(self, partition: Partition) -> None:
        self.name = f"escalator of {partition.name}"
        self.wake = partition.wakeups.escalations
        self._partition = partition
        self._limiters = {action: partition.limiters[action] for action in ROUND_ACTIONS.values()}
        self._attempts = OpenAttempts[Straggler](
            f"an escalation call of {partition.name}", partition.clock, self.wake, self._close
        )
        self.calls = self._attempts.calls
        self._backoff = RetryTimer(
            partition.clock, partition.random, base_s=BACKOFF_BASE_S, max_s=BACKOFF_MAX_S
        )
        self._logged = False
        """True once it was logged that the calls are refused."""

    async def step(self) -> float:
        """Start one call if a target is left; return the seconds until the next may start.

        A level whose action has no permit does not delay the other one.
        """
        partition, store = self._partition, self._partition.store.instances
        await self._attempts.close_orphans(partition.times_resumed)
        if (wait_s := self._backoff.wait_s()) > 0:
            return wait_s
        waits_s = {level: self._limiters[name].wait_s() for level, name in ROUND_ACTIONS.items()}
        match await store.next_escalation_target([each for each in waits_s if waits_s[each] <= 0]):
            case Straggler() as straggler:
                await self._start(straggler)
            case RoundFinished() as finished:
                await store.end_round(finished, partition.clock.now())
            case None:
                return min((wait_s for wait_s in waits_s.values() if wait_s > 0), default=math.inf)
        return 0.0

    async def _close(self, under_way: Collection[Straggler]) -> None:
        """Close the open attempts for all targets but these."""
        partition = self._partition
        await partition.store.instances.close_orphaned_attempts(under_way, partition.clock.now())

    async def _start(self, straggler: Straggler) -> None:
        await self._attempts.start(
            straggler,
            self._limiters[straggler.action],
            guard=self._partition.set_aside_on_error(straggler.termination_id),
            write=partial(self._write, straggler),
            send=partial(self._terminate, straggler),
            finish=self._finish,
        )

    async def _write(self, straggler: Straggler) -> Straggler | None:
        partition = self._partition
        opened = await partition.store.instances.open_attempt(straggler, partition.clock.now())
        return straggler if opened else None

    async def _finish(
        self, straggler: Straggler, answer: str | CloudError, result: AttemptResult
    ) -> None:
        partition, store = self._partition, self._partition.store.instances
        error = answer if isinstance(answer, CloudError) else None
        self._back_off(error)
        self._log_refusal(straggler, error)
        await store.close_attempt(
            straggler, result, again=error is not None and error.kind in NOT_EXECUTED
        )
        forbidden = error is not None and error.kind is CloudErrorKind.UNAUTHORIZED
        if forbidden and straggler.machine_id is None:
            # Batch authorises its actions job by job: the other instances would be refused too.
            await store.end_round(RoundFinished(straggler.termination_id), result.at)
        await partition.record_result(error, self._limiters[straggler.action])

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
        if error is not None and refused and not self._logged:
            log.warning(
                "%s: %s is refused for job %s: %s",
                self.name,
                straggler.action,
                straggler.job_id,
                error.with_advice,
            )
        self._logged = refused or (self._logged and error is not None)

    def _back_off(self, error: CloudError | None) -> None:
        """Pause after a failure without effect, unless the rate limiter waits because of it."""
        if error is None or error.kind not in NOT_EXECUTED:
            self._backoff.worked()
        elif error.kind is not CloudErrorKind.THROTTLED:
            self._backoff.failed()
