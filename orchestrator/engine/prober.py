"""Reads one job with its instance counters, where something must be proven.

DescribeJob by default; DescribeTask for a job known to have one task, while DescribeJob's quota
is spent: its counters are then the job's, and its quota is another.
"""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta
from functools import partial
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

from orchestrator.domain.decide import CALL_AGAIN_AFTER_S, decide
from orchestrator.domain.errors import CloudError
from orchestrator.domain.jobs import JobSeen
from orchestrator.domain.lifecycle import State
from orchestrator.domain.seen import LookFailed
from orchestrator.domain.terminations import Look
from orchestrator.engine.loop import IDLE_MAX_S, Background

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from orchestrator.domain.quota import Permit
    from orchestrator.domain.terminations import Termination
    from orchestrator.engine.pacer import Pacer
    from orchestrator.engine.partition import Partition

LOOKS_PER_STEP = 16
COUNT_EVERY_S = 2.0
"""How old the counters of a watched job may grow while there is quota to spare."""
COUNT_ALL_EVERY_S = CALL_AGAIN_AFTER_S
"""And those of any other."""
CALLED = (State.SENDING, State.DRAINING, State.SETTLING)
NOT_CALLED = (State.QUEUED, State.HELD)


class Prober:
    """One partition's DescribeJob and DescribeTask calls."""

    def __init__(self, partition: Partition, *, on_change: Callable[[], None]) -> None:
        self.name = f"prober of {partition.name}"
        self._partition = partition
        self._by_job = partition.pacers["DescribeJob"]
        self._by_task = partition.pacers["DescribeTask"]
        self.wake = asyncio.Event()
        self._on_change = on_change
        self._calls = Background(f"a look of {partition.name}")
        self._under_way: set[str] = set()
        self._turns = [CALLED, NOT_CALLED]
        """Proofs and first looks take turns: many of one kind do not hold up the other."""
        self._count_all_at = 0.0

    async def step(self) -> float:
        """Start the looks that are due and may leave; returns the seconds until the next."""
        partition = self._partition
        now = partition.clock.now()
        limit = len(self._under_way) + LOOKS_PER_STEP
        planned = [
            await partition.store.planned(partition.name, Look.JOB, limit, states)
            for states in self._turns
        ]
        next_s, blocked_s, proofs_wait = math.inf, list[float](), False
        for row in _by_turns(planned):
            due_s = ((row.look_at or now) - now).total_seconds()
            pacer = min(self._pacers_for(row), key=lambda pacer: pacer.wait_s())
            if row.id in self._under_way:
                continue
            if due_s > 0:
                next_s = min(next_s, due_s)
            elif pacer.wait_s() > 0:
                blocked_s.append(pacer.wait_s())
                proofs_wait = proofs_wait or row.state in CALLED
            else:
                self._start(row, pacer)
                self._turns.sort(key=lambda states: row.state in states)
        self._tell_sweeper(proofs_wait=proofs_wait)
        if blocked_s:
            return min(blocked_s)
        if next_s == math.inf and any(len(rows) == limit for rows in planned):
            return 0.0
        return min(next_s, await self._count())

    def _start(self, row: Termination, pacer: Pacer) -> None:
        self._under_way.add(row.id)
        self._calls.start(partial(self._look, row, pacer, pacer.take()))

    def _tell_sweeper(self, *, proofs_wait: bool) -> None:
        if proofs_wait != self._partition.proofs_wait:
            self._partition.proofs_wait = proofs_wait
            self._on_change()

    async def _count(self) -> float:
        """Spend what nothing else needs on counting the instances of jobs that drain.

        Those of watched operations come first and often; the others now and then, so that a job
        that runs on untouched is seen.
        """
        if self._by_job.wait_s() > 0:
            return self._by_job.wait_s()
        partition = self._partition
        watched = partition.watched.operations()
        row = await self._uncounted(COUNT_EVERY_S, watched) if watched else None
        if row is None and partition.clock.monotonic() >= self._count_all_at:
            row = await self._uncounted(COUNT_ALL_EVERY_S, None)
            if row is None:
                self._count_all_at = partition.clock.monotonic() + IDLE_MAX_S
        if row is None:
            return COUNT_EVERY_S / 4 if watched else math.inf
        self._start(row, self._by_job)
        return 0.0

    async def _uncounted(
        self, seconds: float, operation_ids: Sequence[str] | None
    ) -> Termination | None:
        """A job whose counters are older than this, and nobody reads them now."""
        partition = self._partition
        before = partition.clock.now() - timedelta(seconds=seconds)
        rows = await partition.store.uncounted(
            partition.name, before, operation_ids, len(self._under_way) + 1
        )
        return next((row for row in rows if row.id not in self._under_way), None)

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
            async with partition.minding(row):
                now = partition.clock.now()
                decision = decide(row, seen, now, partition.policy())
                await partition.store.apply([(row, decision)], now)
            partition.count_finish(decision)
            await partition.note(seen.error if isinstance(seen, LookFailed) else None)
        finally:
            self._under_way.discard(row.id)
            self._on_change()

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


def _by_turns(planned: Sequence[Sequence[Termination]]) -> Iterator[Termination]:
    return (row for row in chain.from_iterable(zip_longest(*planned)) if row is not None)
