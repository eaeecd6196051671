"""Reads the state of up to 100 jobs a call (DescribeJobs), the soonest due first."""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from datetime import timedelta
from typing import TYPE_CHECKING

from orchestrator.domain.errors import CloudError, CloudErrorKind
from orchestrator.domain.model.lifecycle import CALLED, NOT_CALLED
from orchestrator.domain.model.observation import JobsRefused, JobUnlisted
from orchestrator.domain.model.termination import PollFilter, PollKind
from orchestrator.domain.pacing.polling import sweep_due_at
from orchestrator.engine.runtime.batch_size import (
    FAILURES_THAT_ARE_SUSPECT,
    NOT_OF_ITS_IDS,
    REFUSALS,
)
from orchestrator.engine.runtime.retry_timer import RetryTimer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.domain.model.termination import Termination
    from orchestrator.engine.partition import Partition

JOBS_PER_CALL = 100
SUSPECTS_MAX = 4
"""So many jobs, of which one at least spoilt a call for all, are read one by one."""
SUSPECTED_S = 60.0
"""How long the jobs of a call that was refused are kept from the other sweeps."""
REFUSED_MAX = 8
"""Refusals after which DescribeJobs itself counts as forbidden, if it has never worked."""
BACKOFF_BASE_S = 0.5
BACKOFF_MAX_S = 10.0

WORKS_LATELY_S = 60.0
"""A job that fails alone is its own failure only if a call for others has worked since then."""

NOT_YET_CALLED = PollFilter(PollKind.BATCH, NOT_CALLED)
FIRST_POLLS = PollFilter(PollKind.BATCH, NOT_CALLED, seen=False, in_turn=True)
"""Jobs that no poll has shown yet, where one call does not carry all that are not called."""
KINDS = (PollFilter(PollKind.BATCH, CALLED), NOT_YET_CALLED, FIRST_POLLS)

log = logging.getLogger(__name__)


class JobPoller:
    """One partition's DescribeJobs calls."""

    def __init__(self, partition: Partition) -> None:
        self.name = f"sweeper of {partition.name}"
        self.wake = partition.wakeups.sweeps
        self._partition = partition
        self._limiter = partition.limiters["DescribeJobs"]
        self._turns: list[PollFilter | None] = [*KINDS, None]
        """They take turns, with the suspects: many of one kind do not hold up another."""
        self._suspects: deque[Sequence[Termination]] = deque()
        self._spoilers: deque[str] = deque(maxlen=JOBS_PER_CALL)
        """Terminations of the jobs that made a call fail alone: asked for alone until it works."""
        self._works: bool | None = None
        self._worked_at = -math.inf
        self._refusals = 0
        self._failures: Counter[PollFilter | None] = Counter()
        """In a row, of the calls of each turn."""
        self._backoff = RetryTimer(
            partition.clock, partition.random, base_s=BACKOFF_BASE_S, max_s=BACKOFF_MAX_S
        )

    async def step(self) -> float:
        """Sweep if a job is due; returns the seconds until the next one is."""
        partition = self._partition
        partition.sweep_due_at = partition.clock.monotonic()
        wait_s = max(self._limiter.wait_s(), self._backoff.wait_s())
        if wait_s > 0:
            return wait_s
        next_s = math.inf
        rows_of = await partition.store.planned(partition.clock.now(), JOBS_PER_CALL, *KINDS)
        if len(rows_of[NOT_YET_CALLED]) < JOBS_PER_CALL:
            rows_of[FIRST_POLLS] = []
        for turn in list(self._turns):
            rows, due_s = self._due(rows_of[turn]) if turn else self._next_suspects()
            if rows and due_s <= 0:
                self._turns.remove(turn)
                self._turns.append(turn)
                return await self._sweep(rows, turn)
            next_s = min(next_s, due_s)
        partition.sweep_due_at += next_s
        return next_s

    def _next_suspects(self) -> tuple[Sequence[Termination], float]:
        return (self._suspects[0], 0.0) if self._suspects else ((), math.inf)

    def _due(self, rows: Sequence[Termination]) -> tuple[Sequence[Termination], float]:
        """The jobs to sweep together, and in how many seconds."""
        partition, now = self._partition, self._partition.clock.now()
        if not rows:
            return (), math.inf
        due_at = sweep_due_at(
            partition.poll,
            [(row.state, row.next_poll_at) for row in rows if row.next_poll_at],
            full=len(rows) == JOBS_PER_CALL,
            proofs_wait=partition.proofs_wait,
        )
        apart = {row.id for group in self._suspects for row in group}
        if rows[0].id in self._spoilers and rows[0].id not in apart:
            rows = rows[:1]
        else:
            apart.update(self._spoilers)
        together = [
            row
            for row in rows
            if row.region == rows[0].region and row.id not in apart and not row.begins_after(now)
        ]
        return together, (due_at - now).total_seconds()

    async def _sweep(self, rows: Sequence[Termination], turn: PollFilter | None) -> float:
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
            return await self._on_failure(rows, turn, error)
        await partition.note(None, self._limiter)
        self._answered(rows)
        self._backoff.worked()
        self._refusals, self._works, self._worked_at = 0, True, partition.clock.monotonic()
        del self._failures[turn]
        if rows[0].id in self._spoilers:
            self._spoilers.remove(rows[0].id)
        await partition.together(
            [(row, seen.get(row.job_id) or JobUnlisted()) for row in rows],
            partition.apply_observations,
        )
        return 0.0

    def _answered(self, rows: Sequence[Termination]) -> None:
        if self._suspects and self._suspects[0] is rows:
            self._suspects.popleft()

    async def _on_failure(
        self, rows: Sequence[Termination], turn: PollFilter | None, error: CloudError
    ) -> float:
        """Wait longer after each failure; for refusals as one too many, the quota waits."""
        if error.kind is CloudErrorKind.THROTTLED:
            return 0.0
        if error.kind in REFUSALS:
            self._answered(rows)
            return await self._on_refused(rows, error)
        if error.kind not in NOT_OF_ITS_IDS:
            self._failures[turn] += 1
            await self._suspect(rows, turn, error)
        return self._backoff.failed()

    async def _suspect(
        self, rows: Sequence[Termination], turn: PollFilter | None, error: CloudError
    ) -> None:
        """Halve what fails again and again until one job fails alone, while others are read.

        That one is read by DescribeJob.  While the cloud answers no call, none is: the jobs stay
        kept apart, and one search at a time keeps them few.
        """
        known = rows[0].id in self._spoilers
        often = self._failures[turn] >= FAILURES_THAT_ARE_SUSPECT and not self._suspects
        if turn is not None and not known and not often:
            return
        partition = self._partition
        self._answered(rows)
        if len(rows) > 1 or partition.clock.monotonic() - self._worked_at > WORKS_LATELY_S:
            await self._keep_apart(rows)
            return
        if not known:
            self._spoilers.append(rows[0].id)
            log.warning(
                "%s: DescribeJobs fails for %s, which is read by DescribeJob: %s",
                self.name,
                rows[0].job_id,
                error,
            )
        await self._read_by_job(rows)

    async def _read_by_job(self, rows: Sequence[Termination]) -> None:
        partition = self._partition
        await partition.together(
            [(row, JobsRefused()) for row in rows], partition.apply_observations
        )

    async def _keep_apart(self, rows: Sequence[Termination]) -> None:
        """Sweep each half of these by itself."""
        half = len(rows) // 2
        self._suspects += [part for part in (rows[:half], rows[half:]) if part]
        until = self._partition.clock.now() + timedelta(seconds=SUSPECTED_S)
        await self._partition.store.postpone([row.id for row in rows], until)

    async def _on_refused(self, rows: Sequence[Termination], error: CloudError) -> float:
        """Where one job may have spoilt the call for all, halve until it is among few.

        Batch's actions are authorised job by job (CAM guide of Batch), so one forbidden or
        malformed id may refuse a whole call.
        """
        self._refusals += 1
        if self._works is None and self._refusals == REFUSED_MAX:
            self._works = False
            log.warning(
                "%s: DescribeJobs is refused whatever it is asked; jobs are read by DescribeJob: "
                "%s: %s",
                self.name,
                error,
                error.advice or "",
            )
        if self._works is False or len(rows) <= SUSPECTS_MAX:
            await self._read_by_job(rows)
        else:
            await self._keep_apart(rows)
        return 0.0
