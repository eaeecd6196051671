"""Which partitions this replica drives: its fair share of those that live replicas can drive."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.domain.clock_steps import CLOCK_STEP_S
from orchestrator.domain.errors import NotDriving, StoreUnavailable
from orchestrator.domain.leasing.assignment import share
from orchestrator.domain.leasing.lease import FencingToken
from orchestrator.engine.lease import Lease
from orchestrator.engine.runtime.loop import run_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection
    from random import Random

    from orchestrator.domain.leasing.lease import LeasePolicy, LeaseSnapshot
    from orchestrator.engine.ports import LeaseStore
    from orchestrator.engine.replica.partition_runner import PartitionRunner
    from orchestrator.engine.runtime.shared_clock import SharedClock

LEAVE_S = 0.5
"""How long a step, and giving back, may take at a stop; what is not given back expires."""
BRIEF_MAX = 200
"""Characters of an error that an answer repeats."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunningPartition:
    """A partition that this replica drives."""

    lease: Lease
    loops: PartitionRunner


class LeaseManager:
    """Renews what this replica holds, takes what is its share, and gives back what is not.

    Every step decides anew from what the database says, so a step that failed halfway is made
    good by the next.
    """

    def __init__(
        self,
        store: LeaseStore,
        policy: LeasePolicy,
        names: Collection[str],
        *,
        drive: Callable[[Lease], PartitionRunner],
        new_id: Callable[[], str],
        clock: SharedClock,
    ) -> None:
        self.name = "leases"
        self.wake = asyncio.Event()
        self.driven: dict[str, RunningPartition] = {}
        self._store = store
        self._policy = policy
        self._names = names
        self._drive = drive
        self._new_id = new_id
        self._clock = clock
        self._replica = ""
        self._joined = False
        self._follows = False
        """Whether it goes by the database's clock yet, so that a step of that can be told."""
        self._clock_read_at = 0.0
        """When that clock was read last (monotonic)."""
        self._off_s = 0.0
        """By how much that may be wrong."""
        self._stop_requested = asyncio.Event()
        self._failing: dict[str, Exception] = {}
        self._ending: set[str] = set()
        """Partitions that were lost, of which calls may still be under way."""

    def require_driving(self) -> None:
        """Raise NotDriving where nothing of what this replica should drive can be driven."""
        if self._failing and not self._holds_any():
            raise NotDriving(f"the leases cannot be kept: {_brief(self._failing[self.name])}")
        if self.driven and all(driven.loops.undriven for driven in self.driven.values()):
            first, *others = self.failing().values()
            more = f"; as bad in {len(others)} more partitions" if others else ""
            raise NotDriving(f"{first}{more}")

    def failing(self) -> dict[str, str]:
        """Which loops of the partitions that are driven fail again and again, and why."""
        return {
            name: "; ".join(f"{loop} fails: {_brief(error)}" for loop, error in failing.items())
            for name, driven in self.driven.items()
            if (failing := driven.loops.failing)
        }

    def _holds_any(self) -> bool:
        now = self._clock.monotonic()
        return any(driven.lease.holds(now) for driven in self.driven.values())

    def notice(self, name: str) -> None:
        """Something new concerns this partition; without a name, it concerns the leases."""
        if not name:
            self.wake.set()
        elif name in self.driven:
            self.driven[name].loops.wake()

    def stop(self) -> None:
        """From now on no call starts any more, and what is held is given back."""
        self._stop_requested.set()
        for each in self.driven.values():
            each.loops.stop()

    async def run(self, random: Random) -> None:
        """Drive partitions until ``stop``; one whose loops die takes the others with it."""
        async with asyncio.TaskGroup() as self._tasks:
            renewing = self._tasks.create_task(
                run_until(self._stop_requested, self, self._clock, random, self._failing),
                name=self.name,
            )
            await self._stop_requested.wait()
            # Whatever it takes after that falls with ``leave``, which is written after it.
            await asyncio.wait([renewing], timeout=LEAVE_S)
            renewing.cancel()
        if self._replica:
            with suppress(StoreUnavailable, TimeoutError):
                async with asyncio.timeout(LEAVE_S):
                    await self._store.leave(self._replica)

    async def step(self) -> float:
        """Renew the leases and do what follows; returns the seconds until the next renewal."""
        policy, asked_at = self._policy, self._clock.monotonic()
        standing = await self._standing()
        if standing is None:
            return 0.0
        if await self._noted_step(standing, asked_at):
            return 0.0
        self._keep(standing, until=asked_at + policy.renewal_deadline_s)
        await self._go_by(standing)
        wanted = share(standing.holders, standing.candidates)
        mine = {name for name, replica in wanted.items() if replica == self._replica}
        for name, driven in self.driven.items():
            if name not in mine:
                driven.loops.stop()
        free = {
            name: standing.epochs[name]
            for name in mine - self.driven.keys() - self._ending
            if standing.holders[name] in (None, self._replica)
        }
        if free:
            for fence in await self._store.take(self._replica, free):
                self._start(fence, until=asked_at + policy.renewal_deadline_s)
        for name, holder in standing.holders.items():
            if holder == self._replica and name not in mine | self.driven.keys():
                await self._store.release(FencingToken(name, standing.epochs[name]))
        return min(policy.retry_s, standing.next_expiry_s)

    async def _noted_step(self, standing: LeaseSnapshot, asked_at: float) -> bool:
        """Note a step of the database's clock, so that all replicas follow it; False: it made none.

        The clock was read at some moment while the renewal was under way, now and the last time.
        """
        off_s = (self._clock.monotonic() - asked_at) / 2
        read_at = asked_at + off_s
        stepped_s = self._clock.step_s(standing.now, read_at=read_at, steps_s=standing.steps_s)
        if not self._follows or abs(stepped_s) <= CLOCK_STEP_S + off_s + self._off_s:
            self._clock_read_at, self._off_s = read_at, off_s
            return False
        log.warning(
            "the database's clock stepped by %+.0f s: deadlines, settle windows and watches move "
            "along",
            stepped_s,
        )
        await self._store.note_step(standing.steps_s, round(stepped_s))
        return True

    async def _go_by(self, standing: LeaseSnapshot) -> None:
        """Go by the database's clock, and by the times that are stored for its partitions.

        Where these are to be moved along with a step, a new epoch keeps out what was decided by the
        time before.  Such a partition is driven again once its calls under way have ended.
        """
        behind = {
            name: driven.lease.fence.epoch
            for name, driven in self.driven.items()
            if standing.followed_s.get(name) != standing.steps_s
        }
        fences = await self._store.take(self._replica, behind) if behind else []
        self._clock.set(standing.now, read_at=self._clock_read_at, steps_s=standing.steps_s)
        self._follows = True
        for fence in fences:
            self._lose(fence.partition)

    async def _standing(self) -> LeaseSnapshot | None:
        """What a renewal says; None where this replica had counted as dead and begins anew."""
        if self._replica:
            standing = await self._store.renew(self._replica, self._policy.duration_s)
            if standing is not None:
                self._joined = True
                return standing
            if self._joined:
                log.error("the leases of %s have expired: it begins anew", self._replica)
            for name in list(self.driven):
                self._lose(name)
        self._replica, self._joined, self._follows = self._new_id(), False, False
        await self._store.join(self._replica, self._names, self._policy.duration_s)
        self._joined = True
        return None

    def _keep(self, standing: LeaseSnapshot, *, until: float) -> None:
        for name, driven in list(self.driven.items()):
            epoch = driven.lease.fence.epoch
            if standing.holders.get(name) == self._replica and standing.epochs[name] == epoch:
                lapsed = not driven.lease.holds(self._clock.monotonic())
                driven.lease.until = until
                if lapsed:
                    driven.loops.wake()
            else:
                if not driven.loops.stopping:
                    log.error("another replica has taken %s", name)
                self._lose(name)

    def _lose(self, name: str) -> None:
        driven = self.driven.pop(name)
        driven.lease.lose()
        driven.loops.stop()
        # Its calls under way count against the quotas that it has when it is taken again.
        self._ending.add(name)

    def _start(self, fence: FencingToken, *, until: float) -> None:
        lease = Lease(fence, until)
        driven = RunningPartition(lease, self._drive(lease))
        self.driven[fence.partition] = driven
        if self._stop_requested.is_set():
            driven.loops.stop()
        log.info("drives %s under epoch %d", fence.partition, fence.epoch)
        self._tasks.create_task(self._run(driven), name=fence.partition)

    async def _run(self, driven: RunningPartition) -> None:
        fence = driven.lease.fence
        await driven.loops.run()
        if self.driven.get(fence.partition) is not driven:
            self._ending.discard(fence.partition)
            self.wake.set()
            return
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await self._store.release(fence)
                log.info("gave back %s", fence.partition)
        driven.lease.lose()
        # A step may have found it lost meanwhile.
        self._ending.discard(fence.partition)
        if self.driven.get(fence.partition) is driven:
            del self.driven[fence.partition]
        self.wake.set()


def _brief(error: Exception) -> str:
    """Of a statement that failed, what the database says, and not the statement."""
    message = str(error).strip() or type(error).__name__
    return message.splitlines()[0][:BRIEF_MAX]


@asynccontextmanager
async def running(leases: LeaseManager, random: Random) -> AsyncIterator[None]:
    """Drive partitions; what dies of it takes the block with it."""
    async with asyncio.TaskGroup() as group:
        group.create_task(leases.run(random), name=leases.name)
        try:
            yield
        finally:
            leases.stop()
