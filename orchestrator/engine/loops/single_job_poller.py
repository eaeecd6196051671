"""Polls of one job with its instance counters, where something must be proven.

Most use DescribeJob. A draining or settling job that reads finished, and is known to have one
task, may be read with DescribeTask instead, which has a quota of its own: the counters of the task
are those of the job. DescribeJobSubmitInfo shows how many instances a job was submitted with.
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

from orchestrator.domain.decisions.escalation import COUNTED_EVERY_S
from orchestrator.domain.errors import CloudError, CloudErrorKind
from orchestrator.domain.model.batch_job import JobSeen, JobSubmitted
from orchestrator.domain.model.lifecycle import PENDING_STATES, SENT_STATES, State
from orchestrator.domain.model.observation import ReadFailed
from orchestrator.domain.model.termination import PollFilter, PollKind
from orchestrator.engine.runtime.loop import IDLE_MAX_S, BackgroundTasks, LoopKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from orchestrator.domain.model.termination import Termination
    from orchestrator.domain.pacing.quota import Permit
    from orchestrator.engine.partition import Partition
    from orchestrator.engine.runtime.rate_limiter import RateLimiter

READS_PER_STEP = 16
RECENTLY_VIEWED_COUNT_EVERY_S = 2.0
"""Greatest age of the counters of jobs of a recently viewed operation, if quota is left."""
COUNT_ALL_EVERY_S = COUNTED_EVERY_S
"""The same for every other draining job; sooner with a short deadline (``count_schedule``)."""

PROOFS = PollFilter(
    PollKind.SINGLE, tuple(state for state in SENT_STATES if state is not State.SETTLING)
)
"""Jobs after their TerminateJob call, to prove that they stopped or to resolve a doubt."""
LAST_COUNTS = PollFilter(PollKind.SINGLE, (State.SETTLING,))
"""Jobs proven as stopped, to be counted once more at the end of their settle window."""
LAST_COUNT_WAITS_S = 60.0
"""How much longer than a proof such a count may wait for quota."""
READ_BEFORE = PollFilter(PollKind.SINGLE, PENDING_STATES, seen=True)
"""Jobs that were read before."""
NEVER_READ = PollFilter(PollKind.SINGLE, PENDING_STATES, seen=False)
"""Jobs that were never read; those that are due are read in turn."""
NEVER_READ_BY_TURN = replace(NEVER_READ, by_turn=True)
SUBMIT_INFOS = PollFilter(PollKind.SUBMIT_INFO)
"""Jobs to compare with their submit info: those that read as finished before any TerminateJob call,
and those that settle with an unknown number of instances."""
TO_COUNT = PollFilter(PollKind.BATCH, (State.DRAINING,))
"""Draining jobs of any operation: a job that ignores its termination must be noticed.

A label only: no query selects them by it.
"""
PLANNED = (PROOFS, LAST_COUNTS, READ_BEFORE, NEVER_READ, SUBMIT_INFOS)


class SingleJobPoller:
    """Loop that polls single jobs of one partition (DescribeJob, DescribeTask)."""

    kind = LoopKind.SINGLE_JOB_POLLER

    def __init__(self, partition: Partition) -> None:
        self.name = f"single-job poller of {partition.name}"
        self._partition = partition
        self._job_limiter = partition.limiters["DescribeJob"]
        self._task_limiter = partition.limiters["DescribeTask"]
        self._submission_limiter = partition.limiters["DescribeJobSubmitInfo"]
        self.wake = partition.wakeups.single_polls
        self.calls = BackgroundTasks[str](
            f"a poll of one job of {partition.name}", partition.clock, self.wake
        )
        self._kinds = [PROOFS, READ_BEFORE, NEVER_READ, SUBMIT_INFOS, TO_COUNT]
        """Order of the kinds of jobs. They take turns: many of one kind do not delay another."""
        self._started_at: dict[str, float] = {}
        """Start of the last poll (monotonic), by termination id; kept for COUNT_ALL_EVERY_S."""
        self._count_all_at = 0.0

    async def step(self) -> float:
        """Start the polls that are due and have a permit; return the seconds until the next."""
        if (paused_s := self.calls.pause_s()) > 0:
            return paused_s
        now = self._partition.clock.now()
        # Copied first: a poll that ends during the query may be in its rows as it was before.
        under_way = set(self.calls.under_way)
        limit = len(under_way) + READS_PER_STEP
        rows_of = await self._partition.store.next_polls(now, limit, *PLANNED, NEVER_READ_BY_TURN)
        by_turn = rows_of.pop(NEVER_READ_BY_TURN)
        once = {row.id: row for row in by_turn + rows_of[NEVER_READ]}
        rows_of[NEVER_READ] = list(once.values())
        rows_of[PROOFS] = sorted(rows_of[PROOFS] + rows_of.pop(LAST_COUNTS), key=_wanted_at)
        next_s, blocked_s, proofs_wait = math.inf, list[float](), False
        rows_of[TO_COUNT] = []
        counts_due = self._partition.counts.due(now, READS_PER_STEP)
        if counts_due or self._partition.clock.monotonic() >= self._count_all_at:
            if self._job_limiter.wait_s() > 0:
                blocked_s.append(self._job_limiter.wait_s())
            else:
                rows_of[TO_COUNT] = await self._to_count(counts_due)
        found = [(kind, rows_of[kind]) for kind in self._kinds]
        for kind, row in _interleaved(found):
            if row.id in under_way or row.id in self.calls.under_way:
                continue
            due_s = 0.0 if kind is TO_COUNT else _seconds_until(row.schedule.next_poll_at, now)
            limiter = min(self._limiters_for(row), key=lambda limiter: limiter.wait_s())
            if due_s > 0:
                next_s = min(next_s, due_s)
            elif limiter.wait_s() > 0:
                blocked_s.append(limiter.wait_s())
                proofs_wait = proofs_wait or (kind is PROOFS and row.state is not State.SETTLING)
            else:
                self._start(row, limiter)
                self._kinds.remove(kind)
                self._kinds.append(kind)
        self._set_proofs_wait(proofs_wait=proofs_wait)
        counts_s = self._partition.counts.wait_s(now)
        if blocked_s:
            return min(*blocked_s, next_s, counts_s)
        if next_s == math.inf and any(len(rows) >= limit for _, rows in found):
            return 0.0
        return min(next_s, counts_s, await self._count_recently_viewed())

    async def _to_count(self, counts_due: Sequence[str]) -> list[Termination]:
        """Return the draining jobs to count, those of the count schedule first."""
        partition = self._partition
        rows = await partition.store.draining(counts_due) if counts_due else []
        for id_ in set(counts_due) - {row.id for row in rows}:
            partition.counts.forget(id_)
        if partition.clock.monotonic() < self._count_all_at:
            return rows
        known = {row.id for row in rows}
        return rows + [row for row in await self._long_uncounted() if row.id not in known]

    async def _long_uncounted(self) -> list[Termination]:
        rows = await self._with_stale_counters(None, COUNT_ALL_EVERY_S, READS_PER_STEP)
        if not rows:
            self._count_all_at = self._partition.clock.monotonic() + IDLE_MAX_S
        return rows

    async def _with_stale_counters(
        self, operation_ids: Sequence[str] | None, every_s: float, limit: int
    ) -> list[Termination]:
        """Return jobs neither counted nor polled for ``every_s``: some responses lack counters."""
        partition, now = self._partition, self._partition.clock.monotonic()
        for id_, at in list(self._started_at.items()):
            if at <= now - COUNT_ALL_EVERY_S:
                del self._started_at[id_]
        recent = {id_ for id_, at in self._started_at.items() if at > now - every_s}
        recent |= self.calls.under_way
        before = partition.clock.now() - timedelta(seconds=every_s)
        rows = await partition.store.with_stale_counters(before, operation_ids, limit + len(recent))
        return [row for row in rows if row.id not in recent][:limit]

    def _start(self, termination: Termination, limiter: RateLimiter) -> None:
        self._started_at[termination.id] = self._partition.clock.monotonic()
        self._partition.counts.started(termination, self._partition.clock.now())
        poll = partial(self._poll, termination, limiter, limiter.take())
        self.calls.start(termination.id, poll)

    def _set_proofs_wait(self, *, proofs_wait: bool) -> None:
        """Have the job poller go slower while proofs wait for quota, and faster afterwards."""
        if proofs_wait != self._partition.proofs_wait:
            self._partition.proofs_wait = proofs_wait
            self._partition.wakeups.batch_polls.set()

    async def _count_recently_viewed(self) -> float:
        """Spend spare quota on fresh counters of recently viewed operations.

        Return the seconds until the next such count may start.
        """
        partition = self._partition
        operation_ids = partition.recently_viewed.operations()
        if not operation_ids:
            return math.inf
        if self._job_limiter.wait_s() > 0:
            return self._job_limiter.wait_s()
        for row in await self._with_stale_counters(operation_ids, RECENTLY_VIEWED_COUNT_EVERY_S, 1):
            self._start(row, self._job_limiter)
            return 0.0
        return RECENTLY_VIEWED_COUNT_EVERY_S / 4

    def _limiters_for(self, termination: Termination) -> list[RateLimiter]:
        if termination.schedule.poll_kind is PollKind.SUBMIT_INFO:
            return [self._submission_limiter]
        finished = termination.job.finished
        followed = termination.state in (State.DRAINING, State.SETTLING)
        if followed and finished and _only_task(termination) is not None:
            forbidden = self._partition.forbids("DescribeJob")
            return [self._task_limiter] if forbidden else [self._job_limiter, self._task_limiter]
        return [self._job_limiter]

    async def _poll(self, termination: Termination, limiter: RateLimiter, permit: Permit) -> None:
        partition = self._partition
        seen: JobSeen | JobSubmitted | ReadFailed
        try:
            seen = await limiter.send(permit, partial(self._read, termination, limiter))
        except CloudError as error:
            seen = ReadFailed(error)
        async with partition.set_aside_on_error(termination.id):
            await partition.apply_observations([(termination, seen)])
        failure = seen.error if isinstance(seen, ReadFailed) else None
        if failure is not None and failure.kind is CloudErrorKind.THROTTLED:
            # Nothing was read, so the job may be polled again at once.
            self._started_at.pop(termination.id, None)
        await partition.record_result(failure, limiter)

    async def _read(self, termination: Termination, limiter: RateLimiter) -> JobSeen | JobSubmitted:
        cloud = self._partition.cloud
        if limiter is self._task_limiter:
            return await self._describe_task(termination)
        if limiter is self._submission_limiter:
            return await cloud.describe_job_submit_info(
                region=termination.region, job_id=termination.job_id
            )
        return await cloud.describe_job(region=termination.region, job_id=termination.job_id)

    async def _describe_task(self, termination: Termination) -> JobSeen:
        """Read the job's counters from its only task; the job's state is not read."""
        name = _only_task(termination)
        assert name is not None
        page = await self._partition.cloud.describe_task(
            region=termination.region, job_id=termination.job_id, task_name=name
        )
        return JobSeen(
            observed_at=page.observed_at,
            job_id=termination.job_id,
            instances=page.task.instances,
            tasks=(page.task,),
        )


def _interleaved(
    found: Sequence[tuple[PollFilter, Sequence[Termination]]],
) -> Iterator[tuple[PollFilter, Termination]]:
    """Return one row of each kind after the other, until there are none left."""
    columns = ([(kind, row) for row in rows] for kind, rows in found)
    return (each for each in chain.from_iterable(zip_longest(*columns)) if each is not None)


def _only_task(termination: Termination) -> str | None:
    """Return the name of the job's only task, from a count or its capture; None: not known."""
    tasks = termination.drain.tasks or (
        termination.captures.machines.tasks if termination.captures.machines is not None else ()
    )
    return tasks[0].name if len(tasks) == 1 else None


def _wanted_at(termination: Termination) -> datetime:
    """Return the time by which due counts are ordered while there is not quota for all of them."""
    assert termination.schedule.next_poll_at is not None
    waits_s = LAST_COUNT_WAITS_S if termination.state is State.SETTLING else 0.0
    return termination.schedule.next_poll_at + timedelta(seconds=waits_s)


def _seconds_until(time: datetime | None, now: datetime) -> float:
    return (time - now).total_seconds() if time else 0.0
