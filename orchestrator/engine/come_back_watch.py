"""Looks at jobs that are down, up to 100 a call (DescribeJobs), for one that came back.

It spends what the sweeper leaves: a call is made only where no sweep is due before its permit is
back, and one at a time.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING

from orchestrator.domain.backoff import backoff_s
from orchestrator.domain.come_back import WatchLook, watch_look
from orchestrator.domain.errors import CloudError, CloudErrorKind
from orchestrator.domain.ids import new_id
from orchestrator.domain.quota import WINDOW_S
from orchestrator.engine.sweeper import BACKOFF_BASE_S, JOBS_PER_CALL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.domain.terminations import Termination
    from orchestrator.engine.partition import Partition

BACKOFF_MAX_S = 60.0

log = logging.getLogger(__name__)


class ComeBackWatch:
    """One partition's DescribeJobs calls for jobs whose terminations have ended."""

    def __init__(self, partition: Partition) -> None:
        self.name = f"come-back watch of {partition.name}"
        self.wake = partition.wakes.come_backs
        self._partition = partition
        self._pacer = partition.pacers["DescribeJobs"]
        self._at_once = JOBS_PER_CALL
        self._failures = 0
        self._resume_at = 0.0
        self._told = False

    async def step(self) -> float:
        """Look at those that are due; returns the seconds until more may be."""
        partition = self._partition
        if (wait_s := self._wait_s()) > 0:
            return wait_s
        every = timedelta(seconds=partition.poll.down_s)
        # One that is due soon goes along: fewer calls for as many jobs.
        rows = await partition.store.to_watch(partition.clock.now() - every / 2, self._at_once)
        if not rows:
            return partition.poll.down_s / 2
        assert rows[0].come_back_watched_at is not None
        due_at = rows[0].come_back_watched_at + every
        wait_s = max(self._wait_s(), (due_at - partition.clock.now()).total_seconds())
        return wait_s if wait_s > 0 else await self._look(rows)

    def _wait_s(self) -> float:
        """Seconds until a call may leave that takes no permit from the sweeper."""
        partition = self._partition
        now = partition.clock.monotonic()
        wait_s = max(self._pacer.wait_s(), self._resume_at - now)
        return max(wait_s, WINDOW_S) if partition.sweep_due_at < now + WINDOW_S else wait_s

    async def _look(self, rows: Sequence[Termination]) -> float:
        partition = self._partition
        try:
            seen = await self._pacer.send(
                self._pacer.take(),
                lambda: partition.cloud.describe_jobs(
                    region=rows[0].region, job_ids=[row.job_id for row in rows]
                ),
            )
        except CloudError as error:
            await partition.note(error)
            return await self._on_failure(rows, error)
        await partition.note(None)
        self._failures, self._told = 0, False
        self._at_once = min(JOBS_PER_CALL, 2 * self._at_once)
        await self._write([watch_look(row, seen.get(row.job_id)) for row in rows])
        return WINDOW_S

    async def _write(self, looks: Sequence[WatchLook]) -> None:
        partition = self._partition
        await partition.store.watch(
            looks,
            partition.clock.now(),
            keep_down_max=partition.keep_down_max,
            new_id=lambda prefix: new_id(prefix, partition.random),
        )
        if any(look.came_back for look in looks):
            partition.wakes.sweeps.set()

    async def _on_failure(self, rows: Sequence[Termination], error: CloudError) -> float:
        """Back off; where one job may have spoilt the call for all, ask for fewer.

        One that alone is refused is watched no longer.
        """
        partition = self._partition
        if error.kind is CloudErrorKind.THROTTLED:
            return WINDOW_S
        if error.kind not in (CloudErrorKind.UNAUTHORIZED, CloudErrorKind.REFUSED):
            self._failures += 1
            wait_s = backoff_s(
                self._failures,
                base_s=BACKOFF_BASE_S,
                max_s=BACKOFF_MAX_S,
                jitter=partition.random.random(),
            )
            self._resume_at = partition.clock.monotonic() + wait_s
            return wait_s
        self._at_once = max(1, len(rows) // 2)
        if len(rows) == 1:
            if not self._told:
                log.warning("%s: %s is watched no longer: %s", self.name, rows[0].job_id, error)
            self._told = True
            await self._write([WatchLook(termination=rows[0], ends=True)])
        return WINDOW_S
