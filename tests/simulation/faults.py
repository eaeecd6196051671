"""Faults that a seed picks, of replicas, clouds, network and database."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from orchestrator.simulator.traffic.fault_injection import Fault, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.simulation.world import Running, SimulatedWorld

FAULTS_S: Final = 4.5
IDLE_IN_TRANSACTION_S: Final = 0.3
"""Time after which the transaction of a paused replica is ended, as a server does."""
SHORT_FAULTS: Final = (Fault.NOT_FOUND, Fault.FORBIDDEN)
"""Answers about one job count once they last: then they are no fault any more."""
CLOUD_FAULTS: Final = (*(each for each in Fault if each is not Fault.HANG), *SHORT_FAULTS)
"""Faults that do not last long, which are reported more often."""
AIMS_S: Final = 2.0
"""Time for a replica to reach the point at which it dies or is paused."""
HOUR_S: Final = 3600.0
POINTS: Final = (
    "before a call",
    "a call has left",
    "an answer has come",
    "before a commit",
    "after a commit",
    "in a transaction",
)
"""Points at which a replica can be killed or paused, beside between any two callbacks."""
RARE_POINTS: Final = (
    *POINTS,
    *2 * ("before a call",),
    *2 * ("a call has left",),
    *7 * ("a TerminateJob has left",),
    *2 * ("an answer has come",),
    *2 * ("in a transaction",),
)
"""Points that a replica reaches less often, which are picked more often."""


class FaultInjection:
    """Faults of one run, picked by the world's own random numbers."""

    def __init__(self, world: SimulatedWorld) -> None:
        self._world = world
        self._loop, self._random, self._fired = world.loop, world.random, world.fired

    async def run(self) -> None:
        """Run one fault after the other, now and then several at once, for FAULTS_S."""
        shares: dict[Callable[[], Coroutine[Any, Any, None]], int] = {
            self._kill: 2,
            self._kill_at_point: 6,
            self._pause: 1,
            self._pause_at_point: 6,
            self._stop: 1,
            self._step_machine_clock: 1,
            self._step_database_clock: 6 if self._world.replicas == 1 else 0,
            self._bad_answers: 6,
            self._bad_network: 4,
            self._cloud_outage: 1,
            self._database_outage: 1,
            self._failing_commit: 2,
        }
        kinds = [kind for kind, share in shares.items() for _ in range(share)]
        ends_at = self._loop.time() + FAULTS_S
        async with asyncio.TaskGroup() as group:
            while self._loop.time() < ends_at:
                await asyncio.sleep(self._random.expovariate(3.3))
                group.create_task(self._random.choice(kinds)())

    async def _kill(self) -> None:
        found = self._world.some_life()
        if found:
            place, life = found
            await self._loop.pass_turns(self._random.randrange(40))
            if self._loop.is_alive(life.name) and not self._loop.is_paused(life.name):
                self._fired["killed"] += 1
                self._loop.kill(life.name)
            await self._start_again(place, life)

    async def _kill_at_point(self) -> None:
        found = self._world.some_life()
        if found:
            place, life = found
            life.dies_at = self._random.choice(RARE_POINTS)
            await asyncio.sleep(AIMS_S)
            life.dies_at = None
            await self._start_again(place, life)

    async def _start_again(self, place: int, life: Running) -> None:
        await asyncio.sleep(self._random.choice((0.1, 1.0, 4.0)))
        await self._world.wall_is_right.wait()
        if self._world.lives[place] is life and not self._loop.is_alive(life.name):
            self._world.start(place)

    async def _pause(self) -> None:
        found = self._world.some_life()
        if not found:
            return
        _, life = found
        await self._loop.pass_turns(self._random.randrange(40))
        if not self._loop.is_alive(life.name) or self._loop.is_paused(life.name):
            return
        beyond = self._random.random() < 0.6
        paused_s = self._random.uniform(3.0, 5.0) if beyond else self._random.uniform(0.05, 2.0)
        self._fired["paused beyond its lease" if beyond else "paused"] += 1
        self._loop.pause(life.name)
        await self._paused(life, paused_s)

    async def _pause_at_point(self) -> None:
        """Pause a replica for about its lease: another one has just taken over, or is about to."""
        found = self._world.some_life()
        if found:
            _, life = found
            life.pauses_at = self._random.choice(RARE_POINTS)
            for _ in range(20):
                await asyncio.sleep(AIMS_S / 20)
                if self._loop.is_paused(life.name):
                    break
            life.pauses_at = None
            if self._loop.is_paused(life.name):
                await self._paused(life, self._random.uniform(2.0, 4.5))

    async def _paused(self, life: Running, paused_s: float) -> None:
        await asyncio.sleep(min(paused_s, IDLE_IN_TRANSACTION_S))
        if any(each.in_transaction for each in self._world.sqlite.connections_of(life.name)):
            self._fired["paused in a transaction"] += 1
            self._world.sqlite.drop(life.name)
        await asyncio.sleep(max(0.0, paused_s - IDLE_IN_TRANSACTION_S))
        if self._loop.is_paused(life.name):
            self._loop.resume(life.name)

    async def _stop(self) -> None:
        """Stop a replica as by SIGTERM."""
        found = self._world.some_life()
        if found:
            place, life = found
            self._fired["stopped"] += 1
            life.stop.set()
            assert life.task is not None
            await asyncio.wait([life.task], timeout=10.0)
            await asyncio.sleep(self._random.choice((0.1, 2.0)))
            await self._world.wall_is_right.wait()
            if self._world.lives[place] is life:
                if self._loop.is_paused(life.name):
                    self._loop.resume(life.name)
                self._world.start(place)

    async def _step_machine_clock(self) -> None:
        """Step a machine's wall clock by an hour, and correct it later."""
        found = self._world.some_life()
        if found:
            _, life = found
            life.clock.ahead_s = self._random.choice((-HOUR_S, HOUR_S))
            self._fired[
                "clock jumped ahead" if life.clock.ahead_s > 0 else "clock jumped back"
            ] += 1
            await asyncio.sleep(self._random.uniform(0.5, 3.0))
            life.clock.ahead_s = 0.0

    async def _step_database_clock(self) -> None:
        """Step the database's clock by hours, and correct it later.

        The promise is for a daemon that runs meanwhile: one that starts takes any time for the
        right one.  So none starts then, and there is one replica, which has its machine's clock.
        """
        if not self._world.wall_is_right.is_set():
            return
        wall = self._world.wall
        self._world.wall_is_right.clear()
        wall.ahead_s = self._random.choice((-8 * HOUR_S, -60.0, 60.0, 8 * HOUR_S))
        self._fired["database's clock stepped " + ("ahead" if wall.ahead_s > 0 else "back")] += 1
        await asyncio.sleep(self._random.uniform(0.5, 4.0))
        wall.ahead_s = 0.0
        self._world.wall_is_right.set()

    async def _bad_answers(self) -> None:
        """Have a cloud answer badly for a while."""
        cloud = self._world.clouds[self._random.choice(sorted(self._world.clouds))]
        fault = self._random.choice(CLOUD_FAULTS)
        rule = Rule(fault, self._random.choice((0.5, 1.0)), after=self._random.random() < 0.5)
        cloud.faults.replace({"*": [rule]}, now=cloud.now())
        await asyncio.sleep(1.0 if fault in SHORT_FAULTS else self._random.uniform(1.0, 4.0))
        cloud.faults.replace({}, now=cloud.now())

    async def _bad_network(self) -> None:
        kind = self._random.choice(
            (
                "lost_request",
                "lost_answer",
                *4 * ("lost_termination",),
                "slow",
                "silent",
            )
        )
        setattr(self._world.network.faults, kind, self._random.choice((0.3, 0.8)))
        await asyncio.sleep(self._random.uniform(0.5, 3.0))
        setattr(self._world.network.faults, kind, 0.0)

    async def _cloud_outage(self) -> None:
        self._world.network.faults.away = True
        await asyncio.sleep(self._random.uniform(0.3, 4.0))
        self._world.network.faults.away = False

    async def _database_outage(self) -> None:
        self._world.database_is_away = True
        await asyncio.sleep(self._random.uniform(0.1, 4.0))
        self._world.database_is_away = False

    async def _failing_commit(self) -> None:
        self._world.commits_fail = self._random.choice(("before", "after", "after"))
        await asyncio.sleep(0.5)
