"""Batch polls: the state of up to 100 jobs a call (DescribeJobs), the soonest due first."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING

from orchestrator.domain.errors import CloudError
from orchestrator.domain.model.lifecycle import PENDING_STATES, SENT_STATES
from orchestrator.domain.model.observation import BatchReadFailed, JobUnlisted
from orchestrator.domain.model.termination import PollFilter, PollKind
from orchestrator.domain.pacing.polling import batch_due_at
from orchestrator.engine.paced_calls import JOBS_PER_CALL, DescribeJobsCalls
from orchestrator.engine.runtime.faulty_ids import NextRead, SuspectJobs
from orchestrator.engine.runtime.loop import LoopKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.domain.model.termination import PlannedPoll, Termination
    from orchestrator.engine.partition import Partition

SUSPECTED_S = 60.0
"""Time for which the jobs of a failed call are kept out of the other batch polls."""
BACKOFF_MAX_S = 10.0

WAITING_FOR_CALL = PollFilter(PollKind.BATCH, PENDING_STATES)
FIRST_POLLS = PollFilter(PollKind.BATCH, PENDING_STATES, seen=False, by_turn=True)
"""Jobs without an observation yet; used if one call cannot carry all jobs of WAITING_FOR_CALL."""
KINDS = (PollFilter(PollKind.BATCH, SENT_STATES), WAITING_FOR_CALL, FIRST_POLLS)


class JobPoller:
    """Loop that makes the batch polls of one partition."""

    kind = LoopKind.JOB_POLLER

    def __init__(self, partition: Partition) -> None:
        self.name = f"job poller of {partition.name}"
        self.wake = partition.wakeups.batch_polls
        self._partition = partition
        self._calls = DescribeJobsCalls(partition, max_s=BACKOFF_MAX_S)
        self._suspects = SuspectJobs(self.name, "DescribeJobs", partition.clock)
        self._kinds: list[PollFilter | None] = [*KINDS, None]
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
        planned = await partition.store.planned_polls(partition.clock.now(), JOBS_PER_CALL, *KINDS)
        if len(planned[WAITING_FOR_CALL]) < JOBS_PER_CALL:
            planned[FIRST_POLLS] = []
        for kind in list(self._kinds):
            if kind is None:
                rows = self._suspects.next_group()
            elif (due_s := self._due_s(planned[kind])) <= 0:
                rows = await self._jobs_of_next_call(planned[kind], kind)
                next_s = 0.0
            else:
                rows, next_s = (), min(next_s, due_s)
            if rows:
                self._kinds.remove(kind)
                self._kinds.append(kind)
                return await self._poll(rows, kind)
        partition.batch_poll_due_at += next_s
        return next_s

    def _due_s(self, polls: Sequence[PlannedPoll]) -> float:
        """Return the seconds until the first of these polls is to be made."""
        if not polls:
            return math.inf
        due_at = batch_due_at(
            self._partition.poll,
            [(poll.state, poll.next_poll_at) for poll in polls],
            full=len(polls) == JOBS_PER_CALL,
            proofs_wait=self._partition.proofs_wait,
        )
        return (due_at - self._partition.clock.now()).total_seconds()

    async def _jobs_of_next_call(
        self, polls: Sequence[PlannedPoll], kind: PollFilter
    ) -> Sequence[Termination]:
        """Return the jobs to read with one call, which is for one region."""
        partition = self._partition
        ids = [poll.termination_id for poll in polls if poll.region == polls[0].region]
        rows = await partition.store.planned(self._suspects.leave_out(ids), kind)
        return [row for row in rows if not row.request.begins_after(partition.clock.now())]

    async def _poll(self, rows: Sequence[Termination], kind: PollFilter | None) -> float:
        partition = self._partition
        try:
            seen = await self._calls.states(rows)
        except CloudError as error:
            match self._suspects.failed(rows, kind, error):
                case NextRead.IN_HALVES:
                    until = partition.clock.now() + timedelta(seconds=SUSPECTED_S)
                    await partition.store.postpone([row.id for row in rows], until)
                case NextRead.SINGLY:
                    await partition.together(
                        [(row, BatchReadFailed()) for row in rows], partition.apply_observations
                    )
            return self._calls.pause_s()
        self._suspects.worked(rows, kind)
        await partition.together(
            [(row, seen.get(row.job_id) or JobUnlisted()) for row in rows],
            partition.apply_observations,
        )
        return 0.0
