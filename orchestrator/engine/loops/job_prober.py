"""Reads one job with its instance counters, where something must be proven.

DescribeJob by default; DescribeTask for a job known to have one task, while DescribeJob's quota
is spent: its counters are then the job's, and its quota is another.
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

from orchestrator.domain.decisions.escalation import COUNTED_EVERY_S
from orchestrator.domain.errors import CloudError, CloudErrorKind, StoreUnavailable
from orchestrator.domain.model.batch_job import JobSeen, JobSubmitted
from orchestrator.domain.model.lifecycle import CALLED, NOT_CALLED, State
from orchestrator.domain.model.observation import ReadFailed
from orchestrator.domain.model.termination import PollFilter, PollKind
from orchestrator.engine.runtime.loop import IDLE_MAX_S, Background

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from orchestrator.domain.model.termination import Termination
    from orchestrator.domain.pacing.quota import Permit
    from orchestrator.engine.partition import Partition
    from orchestrator.engine.runtime.rate_limiter import RateLimiter

LOOKS_PER_STEP = 16
PAUSE_S = 5.0
COUNT_EVERY_S = 2.0
"""How old the counters of a watched job may grow while there is quota to spare."""
COUNT_ALL_EVERY_S = COUNTED_EVERY_S
"""And those of any other; sooner where its deadline is short (``counting``)."""

PROOFS = PollFilter(
    PollKind.SINGLE, tuple(state for state in CALLED if state is not State.SETTLING)
)
"""Jobs that were called, to be proven down or found out about."""
LAST_COUNTS = PollFilter(PollKind.SINGLE, (State.SETTLING,))
"""Jobs that were proven down, to be counted once more at the end of their settle window."""
LAST_COUNT_WAITS_S = 60.0
"""How much longer than a proof such a count waits for quota."""
FIRST_LOOKS = PollFilter(PollKind.SINGLE, NOT_CALLED, seen=True)
"""Jobs that a sweep has shown to exist."""
UNLISTED = PollFilter(PollKind.SINGLE, NOT_CALLED, seen=False)
"""Jobs that no sweep has shown; those that are due go in turn."""
UNLISTED_IN_TURN = replace(UNLISTED, in_turn=True)
SUBMISSIONS = PollFilter(PollKind.SUBMIT_INFO)
"""Jobs that read finished before any call, to be compared with what they were submitted as."""
LONG_UNCOUNTED = PollFilter(PollKind.BATCH, (State.DRAINING,))
"""Jobs that drain, whoever watches them: one that runs on untouched must be seen."""
PLANNED = (PROOFS, LAST_COUNTS, FIRST_LOOKS, UNLISTED, SUBMISSIONS)


class JobProber:
    """One partition's DescribeJob and DescribeTask calls."""

    def __init__(self, partition: Partition) -> None:
        self.name = f"prober of {partition.name}"
        self._partition = partition
        self._by_job = partition.limiters["DescribeJob"]
        self._by_task = partition.limiters["DescribeTask"]
        self._by_submission = partition.limiters["DescribeJobSubmitInfo"]
        self.wake = partition.wakeups.looks
        self._calls = Background(f"a look of {partition.name}")
        self._under_way: set[str] = set()
        self._turns = [PROOFS, FIRST_LOOKS, UNLISTED, SUBMISSIONS, LONG_UNCOUNTED]
        """They take turns: many of one kind do not hold up another."""
        self._looked_at: dict[str, float] = {}
        """When a look at a termination's job was last started, of those of late."""
        self._count_all_at = 0.0
        self._resume_at = 0.0

    async def step(self) -> float:
        """Start the looks that are due and may leave; returns the seconds until the next."""
        paused_s = self._resume_at - self._partition.clock.monotonic()
        if paused_s > 0:
            return paused_s
        now = self._partition.clock.now()
        # What ends while the rows are read is in them as it was before.
        under_way = set(self._under_way)
        limit = len(under_way) + LOOKS_PER_STEP
        rows_of = await self._partition.store.planned(now, limit, *PLANNED, UNLISTED_IN_TURN)
        rows_of[UNLISTED] = rows_of.pop(UNLISTED_IN_TURN) + rows_of[UNLISTED]
        rows_of[PROOFS] = sorted(rows_of[PROOFS] + rows_of.pop(LAST_COUNTS), key=_wanted_at)
        next_s, blocked_s, proofs_wait = math.inf, list[float](), False
        rows_of[LONG_UNCOUNTED] = []
        overdue = self._partition.counts.due(now, LOOKS_PER_STEP)
        if overdue or self._partition.clock.monotonic() >= self._count_all_at:
            if self._by_job.wait_s() > 0:
                blocked_s.append(self._by_job.wait_s())
            else:
                rows_of[LONG_UNCOUNTED] = await self._to_count(overdue)
        found = [(kind, rows_of[kind]) for kind in self._turns]
        for kind, row in _by_turns(found):
            if row.id in under_way or row.id in self._under_way:
                continue
            due_s = 0.0 if kind is LONG_UNCOUNTED else _seconds_until(row.next_poll_at, now)
            limiter = min(self._pacers_for(row), key=lambda limiter: limiter.wait_s())
            if due_s > 0:
                next_s = min(next_s, due_s)
            elif limiter.wait_s() > 0:
                blocked_s.append(limiter.wait_s())
                proofs_wait = proofs_wait or (kind is PROOFS and row.state is not State.SETTLING)
            else:
                self._start(row, limiter)
                self._turns.remove(kind)
                self._turns.append(kind)
        self._tell_sweeper(proofs_wait=proofs_wait)
        counts_s = self._partition.counts.wait_s(now)
        if blocked_s:
            return min(*blocked_s, next_s, counts_s)
        if next_s == math.inf and any(len(rows) >= limit for _, rows in found):
            return 0.0
        return min(next_s, counts_s, await self._count_for_watchers())

    async def _to_count(self, overdue: Sequence[str]) -> list[Termination]:
        """Jobs that drain and are to be counted, those with a short deadline first."""
        partition = self._partition
        rows = await partition.store.draining(overdue) if overdue else []
        for id_ in set(overdue) - {row.id for row in rows}:
            partition.counts.forget(id_)
        if partition.clock.monotonic() < self._count_all_at:
            return rows
        known = {row.id for row in rows}
        return rows + [row for row in await self._long_uncounted() if row.id not in known]

    async def _long_uncounted(self) -> list[Termination]:
        rows = await self._uncounted(None, COUNT_ALL_EVERY_S, LOOKS_PER_STEP)
        if not rows:
            self._count_all_at = self._partition.clock.monotonic() + IDLE_MAX_S
        return rows

    async def _uncounted(
        self, operation_ids: Sequence[str] | None, every_s: float, limit: int
    ) -> list[Termination]:
        """Jobs not counted for so long, nor looked at: some answers lack the counters."""
        partition, now = self._partition, self._partition.clock.monotonic()
        for id_, at in list(self._looked_at.items()):
            if at <= now - COUNT_ALL_EVERY_S:
                del self._looked_at[id_]
        lately = {id_ for id_, at in self._looked_at.items() if at > now - every_s}
        lately |= self._under_way
        before = partition.clock.now() - timedelta(seconds=every_s)
        rows = await partition.store.uncounted(before, operation_ids, limit + len(lately))
        return [row for row in rows if row.id not in lately][:limit]

    def _start(self, row: Termination, limiter: RateLimiter) -> None:
        self._under_way.add(row.id)
        self._looked_at[row.id] = self._partition.clock.monotonic()
        self._partition.counts.started(row, self._partition.clock.now())
        self._calls.start(partial(self._look, row, limiter, limiter.take()))

    def _tell_sweeper(self, *, proofs_wait: bool) -> None:
        if proofs_wait != self._partition.proofs_wait:
            self._partition.proofs_wait = proofs_wait
            self._partition.wakeups.sweeps.set()

    async def _count_for_watchers(self) -> float:
        """Spend what nothing else needs on the progress of operations that somebody watches."""
        partition = self._partition
        watched = partition.watched.operations()
        if not watched:
            return math.inf
        if self._by_job.wait_s() > 0:
            return self._by_job.wait_s()
        for row in await self._uncounted(watched, COUNT_EVERY_S, 1):
            self._start(row, self._by_job)
            return 0.0
        return COUNT_EVERY_S / 4

    async def end(self, within_s: float) -> bool:
        """Let the calls under way end; False where one had to be cut off."""
        return await self._calls.end(within_s)

    def _pacers_for(self, row: Termination) -> list[RateLimiter]:
        if row.poll_kind is PollKind.SUBMIT_INFO:
            return [self._by_submission]
        finished = row.job_state is not None and row.job_state.finished
        followed = row.state in (State.DRAINING, State.SETTLING)
        if followed and finished and _only_task(row) is not None:
            forbidden = self._partition.forbids("DescribeJob")
            return [self._by_task] if forbidden else [self._by_job, self._by_task]
        return [self._by_job]

    async def _look(self, row: Termination, limiter: RateLimiter, permit: Permit) -> None:
        partition = self._partition
        try:
            seen: JobSeen | JobSubmitted | ReadFailed
            try:
                seen = await limiter.send(permit, partial(self._read, row, limiter))
            except CloudError as error:
                seen = ReadFailed(error)
            async with partition.set_aside_on_error(row.id):
                await partition.apply_observations([(row, seen)])
            failure = seen.error if isinstance(seen, ReadFailed) else None
            if failure is not None and failure.kind is CloudErrorKind.THROTTLED:
                # Nothing was read: it may be read again at once.
                self._looked_at.pop(row.id, None)
            await partition.note(failure, limiter)
        except StoreUnavailable:
            # What is read while nothing can be written is read in vain.
            self._resume_at = partition.clock.monotonic() + PAUSE_S
            raise
        finally:
            self._under_way.discard(row.id)
            self.wake.set()

    async def _read(self, row: Termination, limiter: RateLimiter) -> JobSeen | JobSubmitted:
        cloud = self._partition.cloud
        if limiter is self._by_task:
            return await self._describe_task(row)
        if limiter is self._by_submission:
            return await cloud.describe_job_submit_info(region=row.region, job_id=row.job_id)
        return await cloud.describe_job(region=row.region, job_id=row.job_id)

    async def _describe_task(self, row: Termination) -> JobSeen:
        """The job's counters read from its one task; its state is not read."""
        name = _only_task(row)
        assert name is not None
        page = await self._partition.cloud.describe_task(
            region=row.region, job_id=row.job_id, task_name=name
        )
        return JobSeen(
            observed_at=page.observed_at,
            job_id=row.job_id,
            instances=page.task.instances,
            tasks=(page.task,),
        )


def _by_turns(
    found: Sequence[tuple[PollFilter, Sequence[Termination]]],
) -> Iterator[tuple[PollFilter, Termination]]:
    """One row of each kind after the other."""
    columns = ([(kind, row) for row in rows] for kind, rows in found)
    return (each for each in chain.from_iterable(zip_longest(*columns)) if each is not None)


def _only_task(row: Termination) -> str | None:
    """The name of a job's one task, as a count or its capture showed it; None: it is not known."""
    tasks = row.tasks or (row.capture.tasks if row.capture is not None else ())
    return tasks[0].name if len(tasks) == 1 else None


def _wanted_at(row: Termination) -> datetime:
    """When a count that is due is to be made where there is quota for some of them only."""
    assert row.next_poll_at is not None
    waits_s = LAST_COUNT_WAITS_S if row.state is State.SETTLING else 0.0
    return row.next_poll_at + timedelta(seconds=waits_s)


def _seconds_until(time: datetime | None, now: datetime) -> float:
    return (time - now).total_seconds() if time else 0.0
