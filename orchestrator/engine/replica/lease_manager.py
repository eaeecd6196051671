"""Leases of one replica: their renewal, its share of the partitions, and the loops of these.

A partition is one account on one API host. Only the holder of its lease uses its quotas.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.domain.clock_steps import CLOCK_STEP_S
from orchestrator.domain.errors import NotDriving, StoreUnavailable
from orchestrator.domain.leasing.assignment import assign_partitions
from orchestrator.domain.leasing.leases import FencingToken
from orchestrator.engine.lease_guard import Lease
from orchestrator.engine.runtime.loop import LoopKind, log_failure, run_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection
    from random import Random

    from orchestrator.domain.leasing.leases import LeasePolicy, LeaseSnapshot
    from orchestrator.engine.ports import LeaseStore
    from orchestrator.engine.replica.partition_runner import PartitionRunner
    from orchestrator.engine.runtime.loop import OnStep
    from orchestrator.engine.runtime.shared_clock import SharedClock

LEAVE_S = 0.5
"""At a stop: time for the current step, and for each release. A lease that was not released expires
by itself."""
WORK_QUERY_S = 1.0
"""Time to wait for the query of partitions with work: it must not delay the next renewal."""
BRIEF_MAX = 200
"""Length in characters to which an error is cut for ``/readyz``."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunningPartition:
    """A partition that this replica holds, with the runner of its loops."""

    lease: Lease
    runner: PartitionRunner


class LeaseManager:
    """Loop that renews the leases of this replica and starts and stops its partitions.

    Each step decides from what the database says, and keeps no plan of its own. The step after one
    that failed halfway therefore completes it.
    """

    kind = LoopKind.LEASE_MANAGER

    def __init__(
        self,
        store: LeaseStore,
        policy: LeasePolicy,
        names: Collection[str],
        *,
        make_runner: Callable[[Lease], PartitionRunner],
        new_id: Callable[[], str],
        clock: SharedClock,
        on_step: OnStep = lambda *_: None,
    ) -> None:
        self.name = "lease manager"
        self.wake = asyncio.Event()
        self.running: dict[str, RunningPartition] = {}
        self._store = store
        self._policy = policy
        self._names = names
        self._make_runner = make_runner
        self._new_id = new_id
        self._clock = clock
        self._on_step = on_step
        self._replica = ""
        self._joined = False
        self._follows_clock = False
        """True once the shared clock follows the database's, so clock steps can be detected."""
        self._clock_read_at = 0.0
        """Time of the last read of the database's clock (monotonic)."""
        self._clock_error_s = 0.0
        """Greatest error of that time."""
        self._stop_requested = asyncio.Event()
        self._failing: dict[str, Exception] = {}
        self._work_query: tuple[dict[str, int], asyncio.Task[set[str] | None]] | None = None
        """The query that runs, with the wake-ups of each partition before it."""
        self._winding_down: set[str] = set()
        """Lost partitions whose calls may still be in flight."""

    def require_driving(self) -> None:
        """Raise NotDriving if this replica cannot work on any of its partitions."""
        if self._failing and not self._holds_any():
            raise NotDriving(f"the leases cannot be renewed: {_brief(self._failing[self.name])}")
        at_work = [each.runner for each in self.running.values() if each.runner.has_work]
        if at_work and all(runner.cannot_terminate for runner in at_work):
            first, *others = self.failing().values()
            more = f"; loops of {len(others)} more partitions fail too" if others else ""
            raise NotDriving(f"{first}{more}")

    def failing(self) -> dict[str, str]:
        """Return for each running partition whose loops fail repeatedly which ones, and why."""
        return {
            name: "; ".join(f"{loop} fails: {_brief(error)}" for loop, error in failing.items())
            for name, partition in self.running.items()
            if (failing := partition.runner.failing)
        }

    def _holds_any(self) -> bool:
        now = self._clock.monotonic()
        return any(partition.lease.holds(now) for partition in self.running.values())

    def on_notification(self, name: str) -> None:
        """Take up a request for the partition ``name``; with an empty name, renew the leases."""
        if not name:
            self.wake.set()
        elif name in self.running:
            self.running[name].runner.on_request()

    def stop(self) -> None:
        """Start no more calls, and begin to release all partitions."""
        self._stop_requested.set()
        for partition in self.running.values():
            partition.runner.stop()

    async def run(self, random: Random) -> None:
        """Hold and run partitions until ``stop``; if a runner dies, stop all of them and raise."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                renewing = self._tasks.create_task(
                    run_until(
                        self._stop_requested,
                        self,
                        self._clock,
                        random,
                        self._failing,
                        on_step=self._on_step,
                    ),
                    name=self.name,
                )
                await self._stop_requested.wait()
                # ``leave`` is written after this step, so it also releases what the step took.
                await asyncio.wait([renewing], timeout=LEAVE_S)
                renewing.cancel()
        finally:
            if self._work_query is not None:
                # A connection whose opening is cancelled would not be closed.
                await asyncio.wait([self._work_query[1]], timeout=LEAVE_S)
                self._work_query[1].cancel()
        if self._replica:
            with suppress(StoreUnavailable, TimeoutError):
                async with asyncio.timeout(LEAVE_S):
                    await self._store.leave(self._replica)

    async def step(self) -> float:
        """Renew the leases, start and stop partitions; return the seconds until the next step."""
        policy, asked_at = self._policy, self._clock.monotonic()
        snapshot = await self._renew()
        if await self._recorded_clock_step(snapshot, asked_at):
            return 0.0
        until = asked_at + policy.renewal_deadline_s
        self._extend_leases(snapshot, until=until)
        await self._follow_clock(snapshot)
        try:
            await self._take_and_release(snapshot, until=until)
        finally:
            if not self._stop_requested.is_set():
                await self._update_work()
        return max(0.0, min(policy.retry_s, snapshot.next_expiry_s))

    async def _take_and_release(self, snapshot: LeaseSnapshot, *, until: float) -> None:
        wanted = assign_partitions(snapshot.holders, snapshot.candidates)
        mine = {name for name, replica in wanted.items() if replica == self._replica}
        for name, partition in self.running.items():
            if name not in mine:
                partition.runner.stop()
        free = {
            name: snapshot.epochs[name]
            for name in mine - self.running.keys() - self._winding_down
            if snapshot.holders[name] in (None, self._replica)
        }
        if free:
            for fence in await self._store.take(self._replica, free):
                self._start_partition(fence, until=until)
        for name, holder in snapshot.holders.items():
            if holder == self._replica and name not in mine | self.running.keys():
                await self._store.release(FencingToken(name, snapshot.epochs[name]))

    async def _update_work(self) -> None:
        """Have the loops of partitions with work run, and those of the others wait.

        One query finds the work of all partitions; notifications of new work only come earlier. If
        it fails, what is known stays, and a partition of which nothing is known may have work.
        """
        if self._work_query is None:
            asked = {name: each.runner.times_woken for name, each in self.running.items()}
            query = self._store.with_work(list(asked))
            self._work_query = asked, asyncio.create_task(_answer(query), name="work query")
        asked, task = self._work_query
        await asyncio.wait([task], timeout=WORK_QUERY_S)
        with_work = None
        if task.done():
            self._work_query, with_work = None, task.result()
        for name, partition in self.running.items():
            if with_work is not None and name in asked:
                partition.runner.update_work(has_work=name in with_work, times_woken=asked[name])
            elif partition.runner.has_work is None:
                partition.runner.wake()

    async def _recorded_clock_step(self, snapshot: LeaseSnapshot, asked_at: float) -> bool:
        """Record a step of the database's clock for all replicas; return whether there was one.

        The database's clock was read at an unknown moment during the renewal, this time and the
        last time. A step is longer than CLOCK_STEP_S and the sum of both errors.
        """
        error_s = (self._clock.monotonic() - asked_at) / 2
        read_at = asked_at + error_s
        stepped_s = self._clock.step_s(snapshot.now, read_at=read_at, steps_s=snapshot.steps_s)
        tolerance_s = CLOCK_STEP_S + error_s + self._clock_error_s
        if not self._follows_clock or abs(stepped_s) <= tolerance_s:
            self._clock_read_at, self._clock_error_s = read_at, error_s
            return False
        log.warning(
            "the database's clock stepped by %+.0f s: deadlines, settle windows and revival "
            "watches move with it; check the time synchronization of its host",
            stepped_s,
        )
        await self._store.note_step(snapshot.steps_s, round(stepped_s))
        return True

    async def _follow_clock(self, snapshot: LeaseSnapshot) -> None:
        """Set the shared clock to the database's, and move the stored times of held partitions.

        A partition whose stored times have not followed all clock steps is taken again: the new
        epoch has the writes of decisions rejected that were made by the old times. It runs again
        once its calls in flight have ended.
        """
        behind = {
            name: partition.lease.fence.epoch
            for name, partition in self.running.items()
            if snapshot.followed_s.get(name) != snapshot.steps_s
        }
        fences = await self._store.take(self._replica, behind) if behind else []
        self._clock.set(snapshot.now, read_at=self._clock_read_at, steps_s=snapshot.steps_s)
        self._follows_clock = True
        for fence in fences:
            self._lose(fence.partition)

    async def _renew(self) -> LeaseSnapshot:
        """Renew all leases; join if this replica has not yet, or again if it had expired."""
        if self._joined:
            snapshot = await self._store.renew(self._replica, self._policy.duration_s)
            if snapshot is not None:
                return snapshot
            log.error(
                "replica %s did not renew its leases in time and sends no more API calls; it joins "
                "again with a new id; if this repeats, check the load of this host and the latency "
                "of the database",
                self._replica,
            )
            for name in list(self.running):
                self._lose(name)
            self._replica, self._joined, self._follows_clock = "", False, False
        self._replica = self._replica or self._new_id()
        snapshot = await self._store.join(self._replica, self._names, self._policy.duration_s)
        self._joined = True
        return snapshot

    def _extend_leases(self, snapshot: LeaseSnapshot, *, until: float) -> None:
        """Extend the leases that the snapshot confirms; stop the partitions that it does not."""
        for name, partition in list(self.running.items()):
            epoch = partition.lease.fence.epoch
            if snapshot.holders.get(name) == self._replica and snapshot.epochs[name] == epoch:
                lapsed = not partition.lease.holds(self._clock.monotonic())
                partition.lease.until = until
                if lapsed and partition.runner.has_work:
                    partition.runner.wake()
            else:
                if not partition.runner.stopping:
                    log.error(
                        "another replica takes over partition %s (lease epoch %d is lost): this "
                        "one stops its calls for it; nothing is lost; if this repeats, check the "
                        "load of this host and the latency of the database",
                        name,
                        epoch,
                    )
                self._lose(name)

    def _lose(self, name: str) -> None:
        partition = self.running.pop(name)
        partition.lease.lose()
        partition.runner.stop()
        # Its calls in flight count against its quotas, so it is not taken again before they end.
        self._winding_down.add(name)

    def _start_partition(self, fence: FencingToken, *, until: float) -> None:
        lease = Lease(fence, until)
        partition = RunningPartition(lease, self._make_runner(lease))
        self.running[fence.partition] = partition
        if self._stop_requested.is_set():
            partition.runner.stop()
        log.info("this replica runs partition %s, lease epoch %d", fence.partition, fence.epoch)
        self._tasks.create_task(self._run_partition(partition), name=fence.partition)

    async def _run_partition(self, partition: RunningPartition) -> None:
        fence = partition.lease.fence
        await partition.runner.run()
        if self.running.get(fence.partition) is not partition:
            self._winding_down.discard(fence.partition)
            self.wake.set()
            return
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await self._store.release(fence)
                log.info("released partition %s", fence.partition)
        partition.lease.lose()
        # A step may have found the partition lost in the meantime.
        self._winding_down.discard(fence.partition)
        if self.running.get(fence.partition) is partition:
            del self.running[fence.partition]
        self.wake.set()


async def _answer(query: Awaitable[set[str]]) -> set[str] | None:
    """Return what the query returns; None if it fails."""
    try:
        return await query
    except StoreUnavailable:
        return None
    except Exception as error:  # noqa: BLE001 - logged
        log_failure(error, "the work of partitions cannot be read; report this traceback")
        return None


def _brief(error: Exception) -> str:
    """Return the first line of an error: the database's message, without the failed statement."""
    message = str(error).strip() or type(error).__name__
    return message.splitlines()[0][:BRIEF_MAX]


@asynccontextmanager
async def running(leases: LeaseManager, random: Random) -> AsyncIterator[None]:
    """Run the lease manager during the block; an error of it cancels the block."""
    async with asyncio.TaskGroup() as group:
        group.create_task(leases.run(random), name=leases.name)
        try:
            yield
        finally:
            leases.stop()
