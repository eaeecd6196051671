"""Batch polls: the state of up to 100 jobs a call (DescribeJobs), the soonest due first."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING

from orchestrator.domain.errors import CloudError
from orchestrator.domain.model.lifecycle import PENDING_STATES, SENT_STATES
from orchestrator.domain.model.observation import JobsRefused, JobUnlisted
from orchestrator.domain.model.termination import PollFilter, PollKind
from orchestrator.domain.pacing.polling import batch_due_at
from orchestrator.engine.paced_calls import JOBS_PER_CALL, DescribeJobsCalls
from orchestrator.engine.runtime.faulty_ids import Blame, SuspectJobs
from orchestrator.engine.runtime.loop import LoopKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.domain.model.termination import Termination
    from orchestrator.engine.partition import Partition

SUSPECTED_S = 60.0
"""Time for which the jobs of a failed call are kept out of the other batch polls."""
BACKOFF_MAX_S = 10.0

NOT_YET_CALLED = PollFilter(PollKind.BATCH, PENDING_STATES)
FIRST_POLLS = PollFilter(PollKind.BATCH, PENDING_STATES, seen=False, in_turn=True)
"""Jobs without an observation yet; used if one call cannot carry all jobs of NOT_YET_CALLED."""
KINDS = (PollFilter(PollKind.BATCH, SENT_STATES), NOT_YET_CALLED, FIRST_POLLS)


class JobPoller:
    """Loop that makes the batch polls of one partition."""

    kind = LoopKind.JOB_POLLER

    def __init__(self, partition: Partition) -> None:
        self.name = f"job poller of {partition.name}"
        self.wake = partition.wakeups.batch_polls
        self._partition = partition
        self._calls = DescribeJobsCalls(partition, max_s=BACKOFF_MAX_S)
        self._suspects = SuspectJobs(self.name, "DescribeJobs", partition.clock)
        self._turns: list[PollFilter | None] = [*KINDS, None]
        """Order of the kinds of jobs; None: the suspects.

        They take turns, so that many jobs of one kind do not delay another kind.
        """

    async def step(self) -> float:
        """Make a batch poll if a job is due; return the seconds until the next one is."""
        partition = self._partition
        partition.batch_poll_due_at = partition.clock.monotonic()
        if (wait_s := self._calls.wait_s()) > 0:
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
        rows = self._suspects.next_group()
        return rows, 0.0 if rows else math.inf

    def _due(self, rows: Sequence[Termination]) -> tuple[Sequence[Termination], float]:
        """Return the jobs to poll together, and in how many seconds."""
        partition, now = self._partition, self._partition.clock.now()
        if not rows:
            return (), math.inf
        due_at = batch_due_at(
            partition.poll,
            [(row.state, row.schedule.next_poll_at) for row in rows if row.schedule.next_poll_at],
            full=len(rows) == JOBS_PER_CALL,
            proofs_wait=partition.proofs_wait,
        )
        together = [
            row
            for row in self._suspects.leave_out(rows)
            if row.region == rows[0].region and not row.request.begins_after(now)
        ]
        return together, (due_at - now).total_seconds()

    async def _poll(self, rows: Sequence[Termination], turn: PollFilter | None) -> float:
        partition = self._partition
        try:
            seen = await self._calls.states(rows)
        except CloudError as error:
            match self._suspects.failed(rows, turn, error):
                case Blame.APART:
                    until = partition.clock.now() + timedelta(seconds=SUSPECTED_S)
                    await partition.store.postpone([row.id for row in rows], until)
                case Blame.BLAMED:
                    await partition.together(
                        [(row, JobsRefused()) for row in rows], partition.apply_observations
                    )
            return self._calls.pause_s()
        self._suspects.worked(rows, turn)
        await partition.together(
            [(row, seen.get(row.job_id) or JobUnlisted()) for row in rows],
            partition.apply_observations,
        )
        return 0.0
