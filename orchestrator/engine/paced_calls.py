"""Calls that a loop makes itself, one after the other: paced, paused after failures, recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from orchestrator.domain.errors import REFUSALS, CloudError, CloudErrorKind
from orchestrator.engine.runtime.retry_timer import RetryTimer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from orchestrator.domain.model.batch_job import JobSeen
    from orchestrator.domain.model.termination import Termination
    from orchestrator.engine.partition import Partition

JOBS_PER_CALL = 100
"""Most jobs in a DescribeJobs call."""
BACKOFF_BASE_S = 0.5
"""First pause after a DescribeJobs call that failed."""

T = TypeVar("T")


class PacedCalls:
    """Calls of one action by one loop.

    A loop pauses after failures, longer after each in a row. After THROTTLED the quota alone makes
    it wait. A refusal concerns ids of the call, so a call with others is made at once.
    """

    def __init__(self, partition: Partition, action: str, *, base_s: float, max_s: float) -> None:
        self._partition = partition
        self._action = action
        self._retry = RetryTimer(partition.clock, partition.random, base_s=base_s, max_s=max_s)

    def wait_s(self) -> float:
        """Return the seconds until a call may be made; 0 or less means now."""
        return max(self._partition.limiters[self._action].wait_s(), self._retry.wait_s())

    def pause_s(self) -> float:
        """Return the seconds that are left of a pause after a failure."""
        return max(0.0, self._retry.wait_s())

    async def send(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call on the next permit and record its result; raise what it raises."""
        try:
            result = await self.send_other(self._action, call)
        except CloudError as error:
            self.failed(error)
            raise
        self._retry.worked()
        return result

    async def send_other(self, action: str, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call of another action, which ends no pause; ``failed`` begins one after it."""
        limiter = self._partition.limiters[action]
        try:
            result = await limiter.send(limiter.take(), call)
        except CloudError as error:
            await self._partition.record_result(error, limiter)
            raise
        await self._partition.record_result(None, limiter)
        return result

    def failed(self, error: CloudError) -> None:
        """Begin a pause, unless this failure calls for none."""
        if error.kind is not CloudErrorKind.THROTTLED and error.kind not in REFUSALS:
            self._retry.failed()


class DescribeJobsCalls(PacedCalls):
    """DescribeJobs calls of one loop."""

    def __init__(self, partition: Partition, *, max_s: float) -> None:
        super().__init__(partition, "DescribeJobs", base_s=BACKOFF_BASE_S, max_s=max_s)

    async def states(self, rows: Sequence[Termination]) -> Mapping[str, JobSeen]:
        """Read the states of up to JOBS_PER_CALL jobs of one region."""
        return await self.send(
            lambda: self._partition.cloud.describe_jobs(
                region=rows[0].region, job_ids=[row.job_id for row in rows]
            )
        )
