"""Reads task instances: before jobs are called or along with it, and anew where it is asked."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.domain.decisions import capture_coverage
from orchestrator.domain.decisions.escalation import count_every_s
from orchestrator.domain.decisions.transitions import problem_of
from orchestrator.domain.errors import CloudError, CloudErrorKind, LeaseLost, StoreUnavailable
from orchestrator.domain.model import machine_capture
from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.domain.model.machine_capture import CaptureTiming
from orchestrator.domain.pacing.backoff import backoff_s
from orchestrator.engine.runtime.loop import Background

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.model.batch_job import JobSubmitted, TaskPage
    from orchestrator.domain.model.machine_capture import Capture
    from orchestrator.domain.model.termination import Termination
    from orchestrator.domain.pacing.quota import Permit
    from orchestrator.engine.partition import Partition
    from orchestrator.engine.runtime.rate_limiter import RateLimiter

AT_ONCE = 16
PAUSE_S = 5.0
BACKOFF_BASE_S = 1.0
BACKOFF_MAX_S = 60.0
ANEW_EVERY_S = 5.0
"""How old a reading of live instances is at least before it is made once more."""
ANEW_AFTER_FAILURE_S = 60.0
"""Both are shorter where the deadline is: each round of calls begins with a reading."""

_FOR_NOW = (CloudErrorKind.UNAUTHORIZED, CloudErrorKind.JOB_NOT_FOUND)
"""Refusals that end one reading of live instances; a capture is tried again, for it is made once.
"""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _ReadTask:
    """A capture, or a reading of live instances (``anew``), to go on with."""

    row: Termination
    capture: Capture
    anew: bool = False


class InstanceReader:
    """One partition's DescribeJobSubmitInfo calls, and its DescribeTask calls for instances."""

    def __init__(self, partition: Partition) -> None:
        self.name = f"capturer of {partition.name}"
        self._partition = partition
        self._tasks = partition.limiters["DescribeJobSubmitInfo"]
        self._pages = partition.limiters["DescribeTask"]
        self.wake = partition.wakeups.captures
        self._calls = Background(f"a capture of {partition.name}")
        self._under_way: set[str] = set()
        self._resume_at = 0.0

    async def step(self) -> float:
        """Start the reads that may leave; returns the seconds until the next may."""
        partition = self._partition
        paused_s = self._resume_at - partition.clock.monotonic()
        if paused_s > 0:
            return paused_s
        # What ends while the rows are read is in them as it was before.
        under_way = set(self._under_way)
        limit, now = len(under_way) + AT_ONCE, partition.clock.now()
        to_capture, to_read = await partition.store.instances.to_read(now, limit)
        if partition.capture.when is CaptureTiming.NONE:
            to_capture = []
        errands = [_ReadTask(row, capture_coverage.due(row)) for row in to_capture]
        errands += [
            _ReadTask(row, capture_coverage.reading(row, now), anew=True) for row in to_read
        ]
        blocked_s, waits = list[float](), False
        for errand in errands:
            if errand.row.id in under_way or errand.row.id in self._under_way:
                continue
            if not errand.anew and capture_coverage.too_late(errand.row):
                async with partition.set_aside_on_error(errand.row.id):
                    await self._write(errand, machine_capture.ended_too_late(errand.capture, now))
                continue
            limiter = self._pages if errand.capture.tasks else self._tasks
            if limiter.wait_s() > 0:
                blocked_s.append(limiter.wait_s())
                waits = waits or limiter is self._tasks
            else:
                self._under_way.add(errand.row.id)
                self._calls.start(partial(self._read, errand, limiter, limiter.take()))
        partition.captures_wait = waits
        if blocked_s:
            return min(blocked_s)
        return 0.0 if limit in (len(to_capture), len(to_read)) else math.inf

    async def end(self, within_s: float) -> bool:
        """Let the calls under way end; False where one had to be cut off."""
        return await self._calls.end(within_s)

    async def _read(self, errand: _ReadTask, limiter: RateLimiter, permit: Permit) -> None:
        partition = self._partition
        try:
            try:
                await self._go_on(errand, limiter, permit)
            except CloudError as error:
                await self._put_off(errand, error)
                await partition.note(error, limiter)
            else:
                await partition.note(None, limiter)
        except StoreUnavailable:
            self._resume_at = partition.clock.monotonic() + PAUSE_S
            raise
        except LeaseLost:
            raise
        except Exception:
            # It is first in line and would stay so: no other job would ever be captured.
            problem = ErrorDetail(code="Client.CaptureFailed", message="see the log of the daemon")
            ended = machine_capture.ended(errand.capture, partition.clock.now(), problem)
            async with partition.set_aside_on_error(errand.row.id):
                await self._write(errand, ended)
            raise
        finally:
            self._under_way.discard(errand.row.id)
            self.wake.set()
            partition.wakeups.calls.set()

    async def _go_on(self, errand: _ReadTask, limiter: RateLimiter, permit: Permit) -> None:
        now = self._partition.clock.now
        if not errand.capture.tasks:
            submitted = await limiter.send(permit, partial(self._describe_submit_info, errand))
            await self._write(errand, machine_capture.with_tasks(errand.capture, submitted, now()))
        else:
            page = await limiter.send(permit, partial(self._describe_task, errand))
            capture = machine_capture.with_page(errand.capture, page, now())
            senseless = capture.problem is machine_capture.TOO_MANY
            await self._write(errand, capture, None if senseless else page)
            if page.instances:
                self._partition.wakeups.machines.set()

    async def _put_off(self, errand: _ReadTask, error: CloudError) -> None:
        if error.kind is CloudErrorKind.THROTTLED:
            return  # It is due as before.
        problem = problem_of(error)
        if error.kind is CloudErrorKind.REFUSED or (errand.anew and error.kind in _FOR_NOW):
            now = self._partition.clock.now()
            if errand.anew:
                log.warning(
                    "%s: the live instances of %s cannot be read: %s",
                    self.name,
                    errand.row.job_id,
                    error,
                )
            await self._write(errand, machine_capture.ended(errand.capture, now, problem))
            return
        failed = machine_capture.failed(errand.capture, problem)
        wait_s = backoff_s(
            failed.failures,
            base_s=BACKOFF_BASE_S,
            max_s=BACKOFF_MAX_S,
            jitter=self._partition.random.random(),
        )
        await self._write(errand, failed, due_s=wait_s)

    async def _write(
        self,
        errand: _ReadTask,
        capture: Capture,
        page: TaskPage | None = None,
        *,
        due_s: float | None = None,
    ) -> None:
        partition = self._partition
        if errand.anew:
            if capture.ended_at is not None:
                due_s = ANEW_AFTER_FAILURE_S if capture.problem else ANEW_EVERY_S
                due_s = min(due_s, count_every_s(errand.row))
            await partition.store.instances.read(errand.row, capture, page, due_at=self._in(due_s))
            if capture.ended_at is not None:
                partition.wakeups.escalations.set()
            return
        await partition.store.instances.capture(
            errand.row,
            capture,
            page,
            awaits=partition.capture.call_waits(capture),
            due_at=self._in(due_s),
        )

    def _in(self, seconds: float | None) -> datetime | None:
        clock = self._partition.clock
        return None if seconds is None else clock.now() + timedelta(seconds=seconds)

    async def _describe_submit_info(self, errand: _ReadTask) -> JobSubmitted:
        row = errand.row
        return await self._partition.cloud.describe_job_submit_info(
            region=row.region, job_id=row.job_id
        )

    async def _describe_task(self, errand: _ReadTask) -> TaskPage:
        row, capture = errand.row, errand.capture
        return await self._partition.cloud.describe_task(
            region=row.region,
            job_id=row.job_id,
            task_name=capture.tasks[capture.task].name,
            offset=capture.offset,
            limit=machine_capture.PAGE_INSTANCES,
            states=machine_capture.LIVE if errand.anew else machine_capture.STATES_WITH_MACHINE,
        )
