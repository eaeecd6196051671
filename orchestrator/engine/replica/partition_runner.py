"""Runs the loops of a partition until they are told to stop."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.engine.loops.dispatcher import Dispatcher
from orchestrator.engine.loops.escalator import Escalator
from orchestrator.engine.loops.instance_reader import Capturer
from orchestrator.engine.loops.job_poller import Sweeper
from orchestrator.engine.loops.job_prober import Prober
from orchestrator.engine.loops.machine_poller import MachineSweeper
from orchestrator.engine.loops.postponed import SetAside
from orchestrator.engine.loops.revival_watcher import ComeBackWatch
from orchestrator.engine.runtime.loop import run_until

if TYPE_CHECKING:
    from orchestrator.engine.partition import Partition
    from orchestrator.engine.runtime.loop import Steps

DRAIN_S = 3.0
"""Time that calls under way have to end at a stop; what is left is read first at the next start."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class PartitionLoops:
    """The loops of one partition."""

    partition: Partition
    dispatcher: Dispatcher = field(init=False)
    sweeper: Sweeper = field(init=False)
    prober: Prober = field(init=False)
    capturer: Capturer = field(init=False)
    machine_sweeper: MachineSweeper = field(init=False)
    escalator: Escalator = field(init=False)
    come_back_watch: ComeBackWatch = field(init=False)
    set_aside: SetAside = field(init=False)
    failing: dict[str, Exception] = field(init=False, default_factory=dict)
    """The last error of each loop that fails again and again."""
    _told_to_stop: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.dispatcher = Dispatcher(self.partition)
        self.sweeper = Sweeper(self.partition)
        self.prober = Prober(self.partition)
        self.capturer = Capturer(self.partition)
        self.machine_sweeper = MachineSweeper(self.partition)
        self.escalator = Escalator(self.partition)
        self.come_back_watch = ComeBackWatch(self.partition)
        self.set_aside = SetAside(self.partition)

    @property
    def loops(self) -> tuple[Steps, ...]:
        return (
            self.dispatcher,
            self.sweeper,
            self.prober,
            self.capturer,
            self.machine_sweeper,
            self.escalator,
            self.come_back_watch,
            self.set_aside,
        )

    @property
    def undriven(self) -> bool:
        """Whether one fails again and again without which no job comes down."""
        needed = (self.dispatcher, self.sweeper, self.prober)
        return any(loop.name in self.failing for loop in needed)

    def wake(self) -> None:
        self.partition.wakes.all()

    @property
    def stopping(self) -> bool:
        return self._told_to_stop.is_set()

    def stop(self) -> None:
        """From now on no call starts any more; those under way may end within DRAIN_S."""
        self._told_to_stop.set()

    async def run(self) -> None:
        """Run the loops until ``stop``; cancelled, it cuts off what is under way."""
        partition, time = self.partition, asyncio.get_running_loop().time
        late: set[asyncio.Task[None]] = set()
        until = time()
        try:
            async with asyncio.TaskGroup() as group:
                loops = [
                    group.create_task(
                        run_until(
                            self._told_to_stop,
                            loop,
                            partition.clock,
                            partition.random,
                            self.failing,
                        )
                    )
                    for loop in self.loops
                ]
                await self._told_to_stop.wait()
                until = time() + DRAIN_S
                _, late = await asyncio.wait(loops, timeout=DRAIN_S)
                for loop in late:
                    loop.cancel()
        finally:
            left_s = max(0.0, until - time())
            calling = (self.dispatcher, self.prober, self.capturer, self.escalator)
            ended = await asyncio.gather(*(loop.end(left_s) for loop in calling))
            if late or not all(ended):
                log.warning("calls of %s were cut off; their jobs are read first", partition.name)
