"""Watch for revivals of stopped jobs: up to 100 jobs a DescribeJobs call.

Where DescribeJobs leaves a doubt, and once at the end of each watch, the instances are counted with
DescribeJob. Both use only quota that nothing else needs: a DescribeJobs call is made only if no
batch poll is due before its permit is back, a DescribeJob call only while no proof waits for one.
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
from orchestrator.domain.errors import REFUSALS, CloudError, CloudErrorKind
from orchestrator.domain.ids import new_id
from orchestrator.domain.pacing.quota import WINDOW_S
from orchestrator.engine.paced_calls import JOBS_PER_CALL, DescribeJobsCalls
from orchestrator.engine.runtime.faulty_ids import BatchSize
from orchestrator.engine.runtime.loop import LoopKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from orchestrator.domain.model.batch_job import JobSeen
    from orchestrator.domain.model.termination import Termination
    from orchestrator.engine.partition import Partition

BACKOFF_MAX_S = 60.0
COUNT_RETRY_S = 1.0
"""Pause before checking again whether DescribeJob has spare quota."""

log = logging.getLogger(__name__)


class RevivalWatcher:
    """Loop that polls the jobs of one partition whose terminations have ended."""

    kind = LoopKind.REVIVAL_WATCHER

    def __init__(self, partition: Partition) -> None:
        self.name = f"revival watcher of {partition.name}"
        self.wake = partition.wakeups.revivals
        self._partition = partition
        self._calls = DescribeJobsCalls(partition, max_s=BACKOFF_MAX_S)
        self._to_count: dict[str, Termination] = {}
        """Terminations to count, by id, as the last poll left them.

        They are lost with the process; the next poll after the end of the watch finds them again.
        """
        self._batch = BatchSize(JOBS_PER_CALL)
        self._logged: set[str] = set()
        """Ids of terminations whose job cannot be read, as was logged."""

    async def step(self) -> float:
        """Poll the jobs that are due; return the seconds until more may be polled."""
        partition = self._partition
        if self._to_count and self._may_count():
            return await self._count(self._to_count.pop(next(iter(self._to_count))))
        if (wait_s := self._wait_s()) > 0:
            return wait_s
        every = timedelta(seconds=partition.poll.stopped_interval_s)
        # Jobs that are due soon are polled along with the rest: fewer calls for as many jobs.
        rows = await partition.store.due_for_revival_check(
            partition.clock.now() - every / 2, self._batch.at_once
        )
        if not rows:
            return COUNT_RETRY_S if self._to_count else partition.poll.stopped_interval_s / 2
        assert rows[0].watch.checked_at is not None
        due_at = rows[0].watch.checked_at + every
        wait_s = max(self._wait_s(), (due_at - partition.clock.now()).total_seconds())
        if wait_s <= 0:
            return await self._poll(rows)
        return min(wait_s, COUNT_RETRY_S) if self._to_count else wait_s

    def _may_count(self) -> bool:
        """Return whether a DescribeJob call may be made now, and no proof waits for one."""
        partition = self._partition
        waits = partition.proofs_wait or partition.limiters["DescribeJob"].wait_s() > 0
        return not waits and self._calls.pause_s() <= 0

    def _wait_s(self) -> float:
        """Return the seconds until a DescribeJobs call takes no permit from the job poller."""
        partition = self._partition
        wait_s = self._calls.wait_s()
        batch_poll_in_s = partition.batch_poll_due_at - partition.clock.monotonic()
        return max(wait_s, WINDOW_S) if batch_poll_in_s < WINDOW_S else wait_s

    async def _poll(self, rows: Sequence[Termination]) -> float:
        partition = self._partition
        try:
            seen = await self._calls.states(rows)
        except CloudError as error:
            await self._on_failure(rows, error)
            return self._calls.pause_s() or WINDOW_S
        self._logged -= {row.id for row in rows}
        self._batch.worked()
        await partition.together([(row, seen.get(row.job_id)) for row in rows], self._apply_polls)
        return 0.0 if self._to_count and self._may_count() else WINDOW_S

    async def _apply_polls(self, seen: Sequence[tuple[Termination, JobSeen | None]]) -> None:
        now = self._partition.clock.now()
        await self._apply([check_listed(row, its, now) for row, its in seen], now)

    async def _apply(self, checks: Sequence[RevivalCheck], now: datetime) -> None:
        """Write the results of checks in one transaction; have doubtful jobs counted."""
        partition = self._partition
        await partition.store.record_revival_checks(
            checks,
            now,
            reterminate_max=partition.reterminate_max,
            new_id=lambda prefix: new_id(prefix, partition.random),
        )
        if any(check.came_back for check in checks):
            partition.wakeups.batch_polls.set()
        for check in checks:
            termination = check.termination
            if check.count:
                self._to_count[termination.id] = replace(
                    termination, watch=replace(termination.watch, checked_at=now)
                )
            elif check.ends:
                self._to_count.pop(termination.id, None)

    async def _count(self, termination: Termination) -> float:
        """Count the instances of one job; after a failure it is polled and counted again later."""
        partition = self._partition
        try:
            seen = await self._calls.send_other(
                "DescribeJob",
                lambda: partition.cloud.describe_job(
                    region=termination.region, job_id=termination.job_id
                ),
            )
            check = partial(check_counted, termination, seen)
        except CloudError as error:
            if error.kind is CloudErrorKind.JOB_NOT_FOUND:
                check = partial(check_counted, termination, None)
            elif error.kind in REFUSALS:
                check = partial(check_refused, termination)
            else:
                self._calls.failed(error)
                return 0.0
        await self._apply_one(termination, check)
        return 0.0

    async def _apply_one(
        self, termination: Termination, check: Callable[[datetime], RevivalCheck]
    ) -> None:
        """Apply the check of one job, which ``check`` makes from the current time."""
        now = self._partition.clock.now()
        async with self._partition.set_aside_on_error(termination.id):
            await self._apply([check(now)], now)

    async def _on_failure(self, rows: Sequence[Termination], error: CloudError) -> None:
        """Ask for fewer jobs if one of them may be why the call failed.

        A job that alone is refused is polled again until its watch ends; a job that alone fails is
        counted with DescribeJob, and polled again later.
        """
        if not self._batch.failed(len(rows), error):
            return
        (row,) = rows
        if row.id not in self._logged:
            self._logged.add(row.id)
            log.warning(
                "%s: stopped job %s cannot be watched for a revival: %s",
                self.name,
                row.job_id,
                error.with_advice,
            )
        if error.kind in REFUSALS:
            await self._apply_one(row, partial(check_refused, row))
        else:
            await self._apply_one(row, lambda _: RevivalCheck(termination=row, count=True))
