"""Watches jobs that were stopped for a revival: up to 100 a DescribeJobs call.

Where DescribeJobs cannot tell, and once at the end of each watch, the instances are counted
(DescribeJob).  Both spend only quota that nothing else needs: a DescribeJobs call is made only
where no sweep is due before its permit is back, a DescribeJob call only while no proof waits for
one.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.domain.decisions.revival import (
    RevivalCheck,
    check_counted,
    check_listed,
    check_refused,
)
from orchestrator.domain.errors import CloudError, CloudErrorKind
from orchestrator.domain.ids import new_id
from orchestrator.domain.pacing.quota import WINDOW_S
from orchestrator.engine.loops.job_poller import BACKOFF_BASE_S, JOBS_PER_CALL
from orchestrator.engine.runtime.batch_size import REFUSALS, BatchSize
from orchestrator.engine.runtime.retry_timer import RetryTimer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from orchestrator.domain.model.batch_job import JobSeen
    from orchestrator.domain.model.termination import Termination
    from orchestrator.engine.partition import Partition

BACKOFF_MAX_S = 60.0
COUNT_RETRY_S = 1.0
"""How soon to see again whether DescribeJob has quota to spare."""

log = logging.getLogger(__name__)


class RevivalWatcher:
    """One partition's DescribeJobs calls for jobs whose terminations have ended."""

    def __init__(self, partition: Partition) -> None:
        self.name = f"come-back watch of {partition.name}"
        self.wake = partition.wakeups.revivals
        self._partition = partition
        self._limiter = partition.limiters["DescribeJobs"]
        self._by_job = partition.limiters["DescribeJob"]
        self._to_count: dict[str, Termination] = {}
        """By id, as the last sweep left each.  Lost with the process: the next sweep after the end
        of the watch finds them again.
        """
        self._batch = BatchSize(JOBS_PER_CALL)
        self._backoff = RetryTimer(
            partition.clock, partition.random, base_s=BACKOFF_BASE_S, max_s=BACKOFF_MAX_S
        )
        self._logged: set[str] = set()
        """Those that may not be read."""

    async def step(self) -> float:
        """Read those that are due; returns the seconds until more may be."""
        partition = self._partition
        if self._to_count and self._may_count():
            return await self._count(self._to_count.pop(next(iter(self._to_count))))
        if (wait_s := self._wait_s()) > 0:
            return wait_s
        every = timedelta(seconds=partition.poll.stopped_s)
        # One that is due soon goes along: fewer calls for as many jobs.
        rows = await partition.store.to_watch(
            partition.clock.now() - every / 2, self._batch.at_once
        )
        if not rows:
            return COUNT_RETRY_S if self._to_count else partition.poll.stopped_s / 2
        assert rows[0].revival_checked_at is not None
        due_at = rows[0].revival_checked_at + every
        wait_s = max(self._wait_s(), (due_at - partition.clock.now()).total_seconds())
        if wait_s <= 0:
            return await self._look(rows)
        return min(wait_s, COUNT_RETRY_S) if self._to_count else wait_s

    def _may_count(self) -> bool:
        """Whether a DescribeJob call takes no permit from the prober."""
        partition = self._partition
        paused = self._backoff.wait_s() > 0
        return not paused and not partition.proofs_wait and self._by_job.wait_s() <= 0

    def _wait_s(self) -> float:
        """Seconds until a call may leave that takes no permit from the sweeper."""
        partition = self._partition
        wait_s = max(self._limiter.wait_s(), self._backoff.wait_s())
        sweep_in_s = partition.sweep_due_at - partition.clock.monotonic()
        return max(wait_s, WINDOW_S) if sweep_in_s < WINDOW_S else wait_s

    async def _look(self, rows: Sequence[Termination]) -> float:
        partition = self._partition
        try:
            seen = await self._limiter.send(
                self._limiter.take(),
                lambda: partition.cloud.describe_jobs(
                    region=rows[0].region, job_ids=[row.job_id for row in rows]
                ),
            )
        except CloudError as error:
            await partition.note(error, self._limiter)
            return await self._on_failure(rows, error)
        await partition.note(None, self._limiter)
        self._backoff.worked()
        self._logged -= {row.id for row in rows}
        self._batch.worked()
        await partition.together([(row, seen.get(row.job_id)) for row in rows], self._take_in)
        return 0.0 if self._to_count and self._may_count() else WINDOW_S

    async def _take_in(self, seen: Sequence[tuple[Termination, JobSeen | None]]) -> None:
        """Write what these looks showed, in one transaction, and count what they leave in doubt."""
        now = self._partition.clock.now()
        await self._take_in_looks([check_listed(row, its, now) for row, its in seen], now)

    async def _take_in_looks(self, looks: Sequence[RevivalCheck], now: datetime) -> None:
        await self._write(looks, now)
        for poll_kind in looks:
            row = poll_kind.termination
            if poll_kind.count:
                self._to_count[row.id] = replace(row, revival_checked_at=now)
            elif poll_kind.ends:
                self._to_count.pop(row.id, None)

    async def _count(self, row: Termination) -> float:
        """Count the instances of one job; one that fails is swept, and counted, again later."""
        partition = self._partition
        try:
            seen = await self._by_job.send(
                self._by_job.take(),
                lambda: partition.cloud.describe_job(region=row.region, job_id=row.job_id),
            )
        except CloudError as error:
            await partition.note(error, self._by_job)
            if error.kind is CloudErrorKind.JOB_NOT_FOUND:
                await self._write_one(row, partial(check_counted, row, None))
            elif error.kind in REFUSALS:
                await self._write_one(row, partial(check_refused, row))
            else:
                self._backoff.failed()
            return 0.0
        await partition.note(None, self._by_job)
        await self._write_one(row, partial(check_counted, row, seen))
        return 0.0

    async def _write_one(
        self, row: Termination, poll_kind: Callable[[datetime], RevivalCheck]
    ) -> None:
        """Write what was read of one job; ``poll_kind`` makes it of the time."""
        now = self._partition.clock.now()
        async with self._partition.set_aside_on_error(row.id):
            await self._write([poll_kind(now)], now)

    async def _write(self, looks: Sequence[RevivalCheck], now: datetime) -> None:
        partition = self._partition
        await partition.store.watch(
            looks,
            now,
            reterminate_max=partition.reterminate_max,
            new_id=lambda prefix: new_id(prefix, partition.random),
        )
        if any(poll_kind.came_back for poll_kind in looks):
            partition.wakeups.sweeps.set()

    async def _on_failure(self, rows: Sequence[Termination], error: CloudError) -> float:
        """Back off; where one job may have spoilt the call for all, ask for fewer.

        One that alone is refused is asked for again until its watch ends; one that alone fails is
        counted (DescribeJob), and asked for again later.
        """
        if error.kind is CloudErrorKind.THROTTLED:
            return WINDOW_S
        refused = error.kind in REFUSALS
        alone = self._batch.failed(len(rows), error)
        if alone and rows[0].id not in self._logged:
            log.warning("%s: %s cannot be watched: %s", self.name, rows[0].job_id, error)
            self._logged.add(rows[0].id)
        if not refused:
            if alone:
                async with self._partition.set_aside_on_error(rows[0].id):
                    poll_kind = RevivalCheck(termination=rows[0], count=True)
                    await self._take_in_looks([poll_kind], self._partition.clock.now())
            return self._backoff.failed()
        if alone:
            await self._write_one(rows[0], partial(check_refused, rows[0]))
        return WINDOW_S
