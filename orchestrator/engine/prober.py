"""Reads one job with its instance counters, where something must be proven.

DescribeJob by default; DescribeTask for a job known to have one task, while DescribeJob's quota
is spent: its counters are then the job's, and its quota is another.
"""

from __future__ import annotations

import math
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.domain.decide import decide
from orchestrator.domain.errors import CloudError
from orchestrator.domain.jobs import JobSeen
from orchestrator.domain.lifecycle import State
from orchestrator.domain.seen import LookFailed
from orchestrator.domain.terminations import Look
from orchestrator.engine.loop import Background

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.domain.quota import Permit
    from orchestrator.domain.terminations import Termination
    from orchestrator.engine.pacer import Pacer
    from orchestrator.engine.partition import Partition

LOOKS_PER_STEP = 16
COUNT_EVERY_S = 2.0
"""How old the counters of a watched job may grow while there is quota to spare."""


class Prober:
    """One partition's DescribeJob and DescribeTask calls."""

    def __init__(self, partition: Partition, *, on_change: Callable[[], None]) -> None:
        self.name = f"prober of {partition.name}"
        self._partition = partition
        self._by_job = partition.pacers["DescribeJob"]
        self._by_task = partition.pacers["DescribeTask"]
        self._by_task.permit_returned = self._by_job.permit_returned
        self.wake = self._by_job.permit_returned
        self._on_change = on_change
        self._calls = Background(f"a look of {partition.name}")
        self._under_way: set[str] = set()

    async def step(self) -> float:
        """Start the looks that are due and may leave; returns the seconds until the next."""
        partition = self._partition
        now = partition.clock.now()
        limit = len(self._under_way) + LOOKS_PER_STEP
        rows = await partition.store.due(partition.name, Look.JOB, None, limit)
        for row in rows:
            if row.id in self._under_way or row.look_at is None:
                continue
            due_s = (row.look_at - now).total_seconds()
            if due_s > 0:
                self._tell_sweeper(proofs_wait=False)
                return min(due_s, await self._count_for_watchers())
            pacer = min(self._pacers_for(row), key=lambda pacer: pacer.wait_s())
            if pacer.wait_s() > 0:
                self._tell_sweeper(proofs_wait=True)
                return pacer.wait_s()
            self._under_way.add(row.id)
            self._calls.start(partial(self._look, row, pacer, pacer.take()))
        if len(rows) == limit:
            return 0.0
        self._tell_sweeper(proofs_wait=False)
        return await self._count_for_watchers()

    def _tell_sweeper(self, *, proofs_wait: bool) -> None:
        if proofs_wait != self._partition.proofs_wait:
            self._partition.proofs_wait = proofs_wait
            self._on_change()

    async def _count_for_watchers(self) -> float:
        """Spend what nothing else needs on the progress of operations that somebody watches."""
        partition = self._partition
        watched = partition.watched.operations()
        if not watched:
            return math.inf
        if self._by_job.wait_s() > 0:
            return self._by_job.wait_s()
        before = partition.clock.now() - timedelta(seconds=COUNT_EVERY_S)
        row = await partition.store.counted_longest_ago(partition.name, watched, before)
        if row is None or row.id in self._under_way:
            return COUNT_EVERY_S / 4
        self._under_way.add(row.id)
        self._calls.start(partial(self._look, row, self._by_job, self._by_job.take()))
        return 0.0

    async def end(self, within_s: float) -> bool:
        """Let the calls under way end; False where one had to be cut off."""
        return await self._calls.end(within_s)

    def _pacers_for(self, row: Termination) -> list[Pacer]:
        finished = row.job_state is not None and row.job_state.finished
        if row.state is State.DRAINING and finished and row.instances and len(row.tasks) == 1:
            return [self._by_job, self._by_task]
        return [self._by_job]

    async def _look(self, row: Termination, pacer: Pacer, permit: Permit) -> None:
        partition = self._partition
        try:
            seen: JobSeen | LookFailed
            try:
                read = self._describe_task if pacer is self._by_task else self._describe_job
                seen = await pacer.send(permit, partial(read, row))
            except CloudError as error:
                seen = LookFailed(error)
            now = partition.clock.now()
            decision = decide(row, seen, now, partition.policy())
            await partition.store.apply([(row, decision)], now)
            partition.count_finishes([decision])
            await partition.note(seen.error if isinstance(seen, LookFailed) else None)
        finally:
            self._under_way.discard(row.id)
            self._on_change()
            self.wake.set()

    async def _describe_job(self, row: Termination) -> JobSeen:
        return await self._partition.cloud.describe_job(region=row.region, job_id=row.job_id)

    async def _describe_task(self, row: Termination) -> JobSeen:
        """The job's counters read from its one task; its state is not read."""
        page = await self._partition.cloud.describe_task(
            region=row.region, job_id=row.job_id, task_name=row.tasks[0].name
        )
        return JobSeen(
            observed_at=page.observed_at,
            job_id=row.job_id,
            instances=page.task.instances,
            tasks=(page.task,),
        )
