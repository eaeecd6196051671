"""Reads of task instances: the capture of a job's machines, and rescans of its live instances."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.domain.decisions import capture_coverage
from orchestrator.domain.decisions.decision import problem_of
from orchestrator.domain.decisions.escalation import count_every_s
from orchestrator.domain.errors import CloudError, CloudErrorKind, LeaseLost, StoreUnavailable
from orchestrator.domain.model import instance_scan
from orchestrator.domain.model.error_detail import ClientCode, ErrorDetail
from orchestrator.domain.model.instance_scan import CaptureTiming
from orchestrator.domain.pacing.backoff import backoff_s
from orchestrator.engine.runtime.loop import BackgroundTasks, LoopKind

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.model.batch_job import JobSubmitted, TaskPage
    from orchestrator.domain.model.instance_scan import InstanceScan
    from orchestrator.domain.model.termination import Termination
    from orchestrator.domain.pacing.quota import Permit
    from orchestrator.engine.partition import Partition
    from orchestrator.engine.runtime.rate_limiter import RateLimiter

CONCURRENCY_MAX = 16
BACKOFF_BASE_S = 1.0
BACKOFF_MAX_S = 60.0
RESCAN_INTERVAL_S = 5.0
"""Time between the end of a rescan of a job's live instances and the next one."""
RESCAN_AFTER_FAILURE_S = 60.0
"""The same after a rescan that failed.

Both are shorter for jobs with a short deadline: each escalation round begins with a rescan.
"""

_END_RESCAN = (CloudErrorKind.UNAUTHORIZED, CloudErrorKind.JOB_NOT_FOUND)
"""Refusals that end a rescan, since another one follows.

They do not end a capture: there is only one in a run.
"""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _InstanceRead:
    """A capture to continue, or a rescan of live instances (``rescan``)."""

    termination: Termination
    scan: InstanceScan
    rescan: bool = False


class InstanceReader:
    """Loop that reads task instances: DescribeJobSubmitInfo, then DescribeTask page by page."""

    kind = LoopKind.INSTANCE_READER

    def __init__(self, partition: Partition) -> None:
        self.name = f"instance reader of {partition.name}"
        self._partition = partition
        self._submit_info_limiter = partition.limiters["DescribeJobSubmitInfo"]
        self._task_limiter = partition.limiters["DescribeTask"]
        self.wake = partition.wakeups.captures
        self.calls = BackgroundTasks[str](
            f"an instance read of {partition.name}", partition.clock, self.wake
        )

    async def step(self) -> float:
        """Start the reads that are due and have a permit; return the seconds until the next."""
        partition = self._partition
        if (paused_s := self.calls.pause_s()) > 0:
            return paused_s
        blocked_s = [self._submit_info_limiter.wait_s(), self._task_limiter.wait_s()]
        if min(blocked_s) > 0:
            return min(blocked_s)
        # Copied first: a read that ends during the query may be in its rows as it was before.
        under_way = set(self.calls.under_way)
        limit, now = len(under_way) + CONCURRENCY_MAX, partition.clock.now()
        to_capture, to_rescan = await partition.store.instances.to_read(now, limit)
        if partition.capture.when is CaptureTiming.NONE:
            to_capture = []
        reads = [
            _InstanceRead(termination, capture_coverage.capture_to_continue(termination))
            for termination in to_capture
        ]
        reads += [
            _InstanceRead(termination, capture_coverage.rescan(termination, now), rescan=True)
            for termination in to_rescan
        ]
        blocked_s, waits = list[float](), False
        for read in reads:
            id_ = read.termination.id
            if id_ in under_way or id_ in self.calls.under_way:
                continue
            if not read.rescan and capture_coverage.too_late(read.termination):
                async with partition.set_aside_on_error(id_):
                    await self._write(read, instance_scan.ended_too_late(read.scan, now))
                continue
            limiter = self._task_limiter if read.scan.tasks else self._submit_info_limiter
            if limiter.wait_s() > 0:
                blocked_s.append(limiter.wait_s())
                waits = waits or limiter is self._submit_info_limiter
            else:
                self.calls.start(id_, partial(self._read, read, limiter, limiter.take()))
        partition.captures_lack_quota = waits
        if blocked_s:
            return min(blocked_s)
        return 0.0 if limit in (len(to_capture), len(to_rescan)) else math.inf

    async def _read(self, read: _InstanceRead, limiter: RateLimiter, permit: Permit) -> None:
        partition = self._partition
        try:
            try:
                await self._read_next_page(read, limiter, permit)
            except CloudError as error:
                await self._retry_later(read, error)
                await partition.record_result(error, limiter)
            else:
                await partition.record_result(None, limiter)
        except (StoreUnavailable, LeaseLost):
            raise
        except Exception:
            # Otherwise it would stay the first one due, and no other job would be captured.
            problem = ErrorDetail(
                code=ClientCode.CAPTURE_FAILED, message="internal error; see the log of the daemon"
            )
            ended = instance_scan.ended(read.scan, partition.clock.now(), problem)
            async with partition.set_aside_on_error(read.termination.id):
                await self._write(read, ended)
            raise
        finally:
            partition.wakeups.calls.set()

    async def _read_next_page(
        self, read: _InstanceRead, limiter: RateLimiter, permit: Permit
    ) -> None:
        now = self._partition.clock.now
        if not read.scan.tasks:
            submitted = await limiter.send(permit, partial(self._describe_submit_info, read))
            await self._write(read, instance_scan.with_tasks(read.scan, submitted, now()))
        else:
            page = await limiter.send(permit, partial(self._describe_task, read))
            scan = instance_scan.with_page(read.scan, page, now())
            unusable = scan.problem is instance_scan.TOO_MANY
            await self._write(read, scan, None if unusable else page)
            if page.instances:
                self._partition.wakeups.machines.set()

    async def _retry_later(self, read: _InstanceRead, error: CloudError) -> None:
        if error.kind is CloudErrorKind.THROTTLED:
            return  # It stays due.
        problem = problem_of(error)
        if error.kind is CloudErrorKind.REFUSED or (read.rescan and error.kind in _END_RESCAN):
            now = self._partition.clock.now()
            if read.rescan:
                log.warning(
                    "%s: the live instances of job %s cannot be read: %s",
                    self.name,
                    read.termination.job_id,
                    error.with_advice,
                )
            await self._write(read, instance_scan.ended(read.scan, now, problem))
            return
        failed = instance_scan.failed(read.scan, problem)
        wait_s = backoff_s(
            failed.failures,
            base_s=BACKOFF_BASE_S,
            max_s=BACKOFF_MAX_S,
            jitter=self._partition.random.random(),
        )
        await self._write(read, failed, due_s=wait_s)

    async def _write(
        self,
        read: _InstanceRead,
        scan: InstanceScan,
        page: TaskPage | None = None,
        *,
        due_s: float | None = None,
    ) -> None:
        partition = self._partition
        if read.rescan:
            if scan.ended_at is not None:
                due_s = RESCAN_AFTER_FAILURE_S if scan.problem else RESCAN_INTERVAL_S
                due_s = min(due_s, count_every_s(read.termination))
            await partition.store.instances.write_rescan(
                read.termination, scan, page, due_at=self._in(due_s)
            )
            if scan.ended_at is not None:
                partition.wakeups.escalations.set()
            return
        await partition.store.instances.write_capture(
            read.termination,
            scan,
            page,
            awaits=partition.capture.call_waits(scan),
            due_at=self._in(due_s),
        )

    def _in(self, seconds: float | None) -> datetime | None:
        clock = self._partition.clock
        return None if seconds is None else clock.now() + timedelta(seconds=seconds)

    async def _describe_submit_info(self, read: _InstanceRead) -> JobSubmitted:
        termination = read.termination
        return await self._partition.cloud.describe_job_submit_info(
            region=termination.region, job_id=termination.job_id
        )

    async def _describe_task(self, read: _InstanceRead) -> TaskPage:
        termination, scan = read.termination, read.scan
        return await self._partition.cloud.describe_task(
            region=termination.region,
            job_id=termination.job_id,
            task_name=scan.tasks[scan.task].name,
            offset=scan.offset,
            limit=instance_scan.PAGE_INSTANCES,
            states=instance_scan.LIVE if read.rescan else instance_scan.STATES_WITH_MACHINE,
        )
