"""Reads which machines jobs run on, before they are called or along with it."""

from __future__ import annotations

import math
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.domain import captures, coverage
from orchestrator.domain.backoff import backoff_s
from orchestrator.domain.decisions import problem_of
from orchestrator.domain.errors import CloudError, CloudErrorKind, LeaseLost, StoreUnavailable
from orchestrator.domain.problems import Problem
from orchestrator.engine.loop import Background

if TYPE_CHECKING:
    from orchestrator.domain.captures import Capture
    from orchestrator.domain.jobs import JobSubmitted, TaskPage
    from orchestrator.domain.quota import Permit
    from orchestrator.domain.terminations import Termination
    from orchestrator.engine.pacer import Pacer
    from orchestrator.engine.partition import Partition

AT_ONCE = 16
PAUSE_S = 5.0
BACKOFF_BASE_S = 1.0
BACKOFF_MAX_S = 60.0

_FOR_GOOD = (CloudErrorKind.REFUSED, CloudErrorKind.UNAUTHORIZED, CloudErrorKind.JOB_NOT_FOUND)


class Capturer:
    """One partition's DescribeJobSubmitInfo calls, and its DescribeTask calls for machines."""

    def __init__(self, partition: Partition) -> None:
        self.name = f"capturer of {partition.name}"
        self._partition = partition
        self._tasks = partition.pacers["DescribeJobSubmitInfo"]
        self._pages = partition.pacers["DescribeTask"]
        self.wake = partition.wakes.captures
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
        limit = len(under_way) + AT_ONCE
        rows = await partition.store.instances.to_capture(partition.clock.now(), limit)
        blocked_s = list[float]()
        for row in rows:
            if row.id in under_way:
                continue
            capture = coverage.due(row)
            if coverage.too_late(row):
                await self._write(row, captures.ended_too_late(capture, partition.clock.now()))
                continue
            pacer = self._pages if capture.tasks else self._tasks
            if pacer.wait_s() > 0:
                blocked_s.append(pacer.wait_s())
            else:
                self._under_way.add(row.id)
                self._calls.start(partial(self._read, row, capture, pacer, pacer.take()))
        if blocked_s:
            return min(blocked_s)
        return 0.0 if len(rows) == limit else math.inf

    async def end(self, within_s: float) -> bool:
        """Let the calls under way end; False where one had to be cut off."""
        return await self._calls.end(within_s)

    async def _read(self, row: Termination, capture: Capture, pacer: Pacer, permit: Permit) -> None:
        partition = self._partition
        try:
            try:
                await self._go_on(row, capture, pacer, permit)
            except CloudError as error:
                await self._put_off(row, capture, error)
                await partition.note(error)
            else:
                await partition.note(None)
        except StoreUnavailable:
            self._resume_at = partition.clock.monotonic() + PAUSE_S
            raise
        except LeaseLost:
            raise
        except Exception:
            # It is first in line and would stay so: no other job would ever be captured.
            problem = Problem(code="Client.CaptureFailed", message="see the log of the daemon")
            await self._write(row, captures.ended(capture, partition.clock.now(), problem))
            raise
        finally:
            self._under_way.discard(row.id)
            self.wake.set()
            partition.wakes.calls.set()

    async def _go_on(
        self, row: Termination, capture: Capture, pacer: Pacer, permit: Permit
    ) -> None:
        now = self._partition.clock.now
        if not capture.tasks:
            submitted = await pacer.send(permit, partial(self._describe_submit_info, row))
            await self._write(row, captures.with_tasks(capture, submitted, now()))
        else:
            page = await pacer.send(permit, partial(self._describe_task, row, capture))
            await self._write(row, captures.with_page(capture, page, now()), page)
            if page.instances:
                self._partition.wakes.machines.set()

    async def _put_off(self, row: Termination, capture: Capture, error: CloudError) -> None:
        now = self._partition.clock.now()
        problem = problem_of(error)
        if error.kind in _FOR_GOOD:
            await self._write(row, captures.ended(capture, now, problem))
            return
        failed = captures.failed(capture, problem)
        wait_s = backoff_s(
            failed.failures,
            base_s=BACKOFF_BASE_S,
            max_s=BACKOFF_MAX_S,
            jitter=self._partition.random.random(),
        )
        await self._write(row, failed, due_s=wait_s)

    async def _write(
        self,
        row: Termination,
        capture: Capture,
        page: TaskPage | None = None,
        *,
        due_s: float | None = None,
    ) -> None:
        partition = self._partition
        await partition.store.instances.capture(
            row,
            capture,
            page,
            awaits=partition.capture.call_waits(capture),
            due_at=None if due_s is None else partition.clock.now() + timedelta(seconds=due_s),
        )

    async def _describe_submit_info(self, row: Termination) -> JobSubmitted:
        return await self._partition.cloud.describe_job_submit_info(
            region=row.region, job_id=row.job_id
        )

    async def _describe_task(self, row: Termination, capture: Capture) -> TaskPage:
        return await self._partition.cloud.describe_task(
            region=row.region,
            job_id=row.job_id,
            task_name=capture.tasks[capture.task].name,
            offset=capture.offset,
            limit=captures.PAGE_INSTANCES,
            states=captures.OCCUPYING,
        )
