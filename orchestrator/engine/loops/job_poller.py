"""Batch polls: the state of up to 100 jobs a call (DescribeJobs), the soonest due first."""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from datetime import timedelta
from typing import TYPE_CHECKING

from orchestrator.domain.errors import CloudError, CloudErrorKind
from orchestrator.domain.model.lifecycle import PENDING_STATES, SENT_STATES
from orchestrator.domain.model.observation import JobsRefused, JobUnlisted
from orchestrator.domain.model.termination import PollFilter, PollKind
from orchestrator.domain.pacing.polling import sweep_due_at
from orchestrator.engine.runtime.batch_size import (
    NOT_CAUSED_BY_IDS,
    REFUSALS,
    SUSPECT_AFTER_FAILURES,
)
from orchestrator.engine.runtime.retry_timer import RetryTimer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.domain.model.termination import Termination
    from orchestrator.engine.partition import Partition

JOBS_PER_CALL = 100
SUSPECTS_MAX = 4
"""Up to this many jobs of a refused call are read one by one with DescribeJob."""
SUSPECTED_S = 60.0
"""Time for which the jobs of a refused call are kept out of the other batch polls."""
REFUSED_MAX = 8
"""Refusals after which DescribeJobs itself counts as forbidden, unless it has ever worked."""
BACKOFF_BASE_S = 0.5
BACKOFF_MAX_S = 10.0

WORKED_RECENTLY_S = 60.0
"""If a call for one job fails, that job is the reason only if another call worked this recently."""

NOT_YET_CALLED = PollFilter(PollKind.BATCH, PENDING_STATES)
FIRST_POLLS = PollFilter(PollKind.BATCH, PENDING_STATES, seen=False, in_turn=True)
"""Jobs without an observation yet; used if one call cannot carry all jobs of NOT_YET_CALLED."""
KINDS = (PollFilter(PollKind.BATCH, SENT_STATES), NOT_YET_CALLED, FIRST_POLLS)

log = logging.getLogger(__name__)


class JobPoller:
    """Loop that makes the batch polls of one partition."""

    def __init__(self, partition: Partition) -> None:
        self.name = f"job poller of {partition.name}"
        self.wake = partition.wakeups.batch_polls
        self._partition = partition
        self._limiter = partition.limiters["DescribeJobs"]
        self._turns: list[PollFilter | None] = [*KINDS, None]
        """Order of the kinds of jobs; None: the suspects.

        They take turns, so that many jobs of one kind do not delay another kind.
        """
        self._suspects: deque[Sequence[Termination]] = deque()
        """Groups of jobs of a failed call, each polled by itself."""
        self._spoilers: deque[str] = deque(maxlen=JOBS_PER_CALL)
        """Ids of terminations whose job alone made a call fail: polled alone until that works."""
        self._works: bool | None = None
        """False: DescribeJobs is refused for every job; None: not known yet."""
        self._worked_at = -math.inf
        self._refusals = 0
        self._failures: Counter[PollFilter | None] = Counter()
        """Failures in a row, by turn."""
        self._backoff = RetryTimer(
            partition.clock, partition.random, base_s=BACKOFF_BASE_S, max_s=BACKOFF_MAX_S
        )

    async def step(self) -> float:
        """Make a batch poll if a job is due; return the seconds until the next one is."""
        partition = self._partition
        partition.batch_poll_due_at = partition.clock.monotonic()
        wait_s = max(self._limiter.wait_s(), self._backoff.wait_s())
        if wait_s > 0:
            return wait_s
        next_s = math.inf
        rows_of = await partition.store.next_polls(partition.clock.now(), JOBS_PER_CALL, *KINDS)
        if len(rows_of[NOT_YET_CALLED]) < JOBS_PER_CALL:
            rows_of[FIRST_POLLS] = []
        for turn in list(self._turns):
            rows, due_s = self._due(rows_of[turn]) if turn else self._next_suspects()
            if rows and due_s <= 0:
                self._turns.remove(turn)
                self._turns.append(turn)
                return await self._poll(rows, turn)
            next_s = min(next_s, due_s)
        partition.batch_poll_due_at += next_s
        return next_s

    def _next_suspects(self) -> tuple[Sequence[Termination], float]:
        return (self._suspects[0], 0.0) if self._suspects else ((), math.inf)

    def _due(self, rows: Sequence[Termination]) -> tuple[Sequence[Termination], float]:
        """Return the jobs to poll together, and in how many seconds."""
        partition, now = self._partition, self._partition.clock.now()
        if not rows:
            return (), math.inf
        due_at = sweep_due_at(
            partition.poll,
            [(row.state, row.schedule.next_poll_at) for row in rows if row.schedule.next_poll_at],
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
            if row.region == rows[0].region
            and row.id not in apart
            and not row.request.begins_after(now)
        ]
        return together, (due_at - now).total_seconds()

    async def _poll(self, rows: Sequence[Termination], turn: PollFilter | None) -> float:
        partition = self._partition
        try:
            seen = await self._limiter.send(
                self._limiter.take(),
                lambda: partition.cloud.describe_jobs(
                    region=rows[0].region, job_ids=[row.job_id for row in rows]
                ),
            )
        except CloudError as error:
            await partition.record_result(error, self._limiter)
            return await self._on_failure(rows, turn, error)
        await partition.record_result(None, self._limiter)
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
        """Remove a group of suspects that has been polled."""
        if self._suspects and self._suspects[0] is rows:
            self._suspects.popleft()

    async def _on_failure(
        self, rows: Sequence[Termination], turn: PollFilter | None, error: CloudError
    ) -> float:
        """Pause longer after each failure; after THROTTLED, the quota alone makes it wait."""
        if error.kind is CloudErrorKind.THROTTLED:
            return 0.0
        if error.kind in REFUSALS:
            self._answered(rows)
            return await self._on_refused(rows, error)
        if error.kind not in NOT_CAUSED_BY_IDS:
            self._failures[turn] += 1
            await self._suspect(rows, turn, error)
        return self._backoff.failed()

    async def _suspect(
        self, rows: Sequence[Termination], turn: PollFilter | None, error: CloudError
    ) -> None:
        """Halve a batch that fails repeatedly until one job fails alone while other calls work.

        That job is then read with DescribeJob. While the cloud answers no call at all, no job is
        singled out: the jobs stay kept apart. Only one search runs at a time, so they are few.
        """
        known = rows[0].id in self._spoilers
        often = self._failures[turn] >= SUSPECT_AFTER_FAILURES and not self._suspects
        if turn is not None and not known and not often:
            return
        partition = self._partition
        self._answered(rows)
        if len(rows) > 1 or partition.clock.monotonic() - self._worked_at > WORKED_RECENTLY_S:
            await self._keep_apart(rows)
            return
        if not known:
            self._spoilers.append(rows[0].id)
            log.warning(
                "%s: DescribeJobs fails for job %s, which is read with DescribeJob instead: %s",
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
        """Have each half of these polled by itself."""
        half = len(rows) // 2
        self._suspects += [part for part in (rows[:half], rows[half:]) if part]
        until = self._partition.clock.now() + timedelta(seconds=SUSPECTED_S)
        await self._partition.store.postpone([row.id for row in rows], until)

    async def _on_refused(self, rows: Sequence[Termination], error: CloudError) -> float:
        """Halve a refused batch until few jobs are left, as one job may be the reason.

        Batch authorises its actions job by job (CAM guide of Batch), so one forbidden or malformed
        id may cause the refusal of a whole call.
        """
        self._refusals += 1
        if self._works is None and self._refusals == REFUSED_MAX:
            self._works = False
            log.warning(
                "%s: DescribeJobs is refused for all jobs; they are read one by one with "
                "DescribeJob instead: %s: %s",
                self.name,
                error,
                error.advice or "",
            )
        if self._works is False or len(rows) <= SUSPECTS_MAX:
            await self._read_by_job(rows)
        else:
            await self._keep_apart(rows)
        return 0.0
