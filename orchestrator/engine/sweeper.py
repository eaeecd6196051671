"""Reads the state of up to 100 jobs a call (DescribeJobs), the soonest due first."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING

from orchestrator.domain.backoff import backoff_s
from orchestrator.domain.decide import decide
from orchestrator.domain.errors import CloudError, CloudErrorKind, StoreUnavailable
from orchestrator.domain.polling import sweep_due_at
from orchestrator.domain.seen import JobUnlisted
from orchestrator.domain.terminations import Look
from orchestrator.engine.loop import tell

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.domain.seen import Seen
    from orchestrator.domain.terminations import Termination
    from orchestrator.engine.partition import Partition

JOBS_PER_CALL = 100
SUSPECTS_MAX = 8
"""So many jobs, of which one at least spoilt a call for all, are read one by one."""
BACKOFF_BASE_S = 0.5
BACKOFF_MAX_S = 10.0

log = logging.getLogger(__name__)


class Sweeper:
    """One partition's DescribeJobs calls."""

    def __init__(self, partition: Partition, *, on_change: Callable[[], None]) -> None:
        self.name = f"sweeper of {partition.name}"
        self.wake = asyncio.Event()
        self._partition = partition
        self._pacer = partition.pacers["DescribeJobs"]
        self._on_change = on_change
        self._batch = JOBS_PER_CALL
        self._failures = 0
        self._resume_at = 0.0
        self._told_forbidden = False

    async def step(self) -> float:
        """Sweep if a job is due; returns the seconds until the next one is."""
        partition = self._partition
        wait_s = max(self._pacer.wait_s(), self._resume_at - partition.clock.monotonic())
        if wait_s > 0:
            return wait_s
        now = partition.clock.now()
        rows = await partition.store.planned(partition.name, Look.SWEEP, self._batch)
        if not rows:
            return math.inf
        due_at = sweep_due_at(
            partition.poll,
            [(row.state, row.look_at) for row in rows if row.look_at],
            full=len(rows) == self._batch,
            proofs_wait=partition.proofs_wait,
        )
        if due_at > now:
            return (due_at - now).total_seconds()
        return await self._sweep(
            [row for row in rows if row.region == rows[0].region and not row.begins_after(now)]
        )

    async def _sweep(self, rows: Sequence[Termination]) -> float:
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
        self._failures = 0
        self._batch = min(JOBS_PER_CALL, 2 * self._batch)
        await self._take_in([(row, seen.get(row.job_id) or JobUnlisted()) for row in rows])
        return 0.0

    async def _on_failure(self, rows: Sequence[Termination], error: CloudError) -> float:
        """Back off; where one job may have spoilt the call for all, halve until it is among few.

        Batch's actions are authorised job by job (CAM guide of Batch), so one forbidden or
        malformed id may refuse a whole call.
        """
        if error.kind not in (CloudErrorKind.UNAUTHORIZED, CloudErrorKind.REFUSED):
            self._failures += 1
            wait_s = backoff_s(
                self._failures,
                base_s=BACKOFF_BASE_S,
                max_s=BACKOFF_MAX_S,
                jitter=self._partition.random.random(),
            )
            self._resume_at = self._partition.clock.monotonic() + wait_s
            return wait_s
        if len(rows) > SUSPECTS_MAX:
            self._batch = len(rows) // 2
            return 0.0
        if error.kind is CloudErrorKind.UNAUTHORIZED and not self._told_forbidden:
            self._told_forbidden = True
            log.warning(
                "%s: DescribeJobs is refused for one at least of %s; such jobs are read by "
                "DescribeJob: %s: %s",
                self.name,
                ", ".join(row.job_id for row in rows),
                error,
                error.advice or "",
            )
        await self._take_in([(row, JobUnlisted()) for row in rows])
        return 0.0

    async def _take_in(self, seen: Sequence[tuple[Termination, Seen]]) -> None:
        """Write what follows, in one transaction, or one by one where one of them spoils it."""
        try:
            await self._decide(seen)
        except Exception:  # noqa: BLE001 - told below, for the one that it is about
            for row, its in seen:
                try:
                    async with self._partition.minding(row):
                        await self._decide([(row, its)])
                except StoreUnavailable:
                    raise
                except Exception as error:  # noqa: BLE001 - told
                    tell(error, "%s: what was seen of %s is lost", self.name, row.job_id)
        self._on_change()

    async def _decide(self, seen: Sequence[tuple[Termination, Seen]]) -> None:
        now, policy = self._partition.clock.now(), self._partition.policy()
        changes = [(row, decide(row, its, now, policy)) for row, its in seen]
        await self._partition.store.apply(changes, now)
