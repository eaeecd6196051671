"""Runs the loops of a partition until they are told to stop."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.engine.loops.dispatcher import Dispatcher
from orchestrator.engine.loops.escalator import Escalator
from orchestrator.engine.loops.instance_reader import InstanceReader
from orchestrator.engine.loops.job_poller import JobPoller
from orchestrator.engine.loops.job_prober import JobProber
from orchestrator.engine.loops.machine_poller import MachinePoller
from orchestrator.engine.loops.revival_watcher import RevivalWatcher
from orchestrator.engine.loops.set_aside import SetAsideRetrier
from orchestrator.engine.runtime.loop import run_until

if TYPE_CHECKING:
    from orchestrator.engine.partition import Partition
    from orchestrator.engine.runtime.loop import Loop

DRAIN_S = 3.0
"""Time that calls under way have to end at a stop; what is left is read first at the next start."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class PartitionRunner:
    """The loops of one partition."""

    partition: Partition
    dispatcher: Dispatcher = field(init=False)
    job_poller: JobPoller = field(init=False)
    job_prober: JobProber = field(init=False)
    instance_reader: InstanceReader = field(init=False)
    machine_poller: MachinePoller = field(init=False)
    escalator: Escalator = field(init=False)
    revival_watcher: RevivalWatcher = field(init=False)
    set_aside: SetAsideRetrier = field(init=False)
    failing: dict[str, Exception] = field(init=False, default_factory=dict)
    """The last error of each loop that fails again and again."""
    _stop_requested: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.dispatcher = Dispatcher(self.partition)
        self.job_poller = JobPoller(self.partition)
        self.job_prober = JobProber(self.partition)
        self.instance_reader = InstanceReader(self.partition)
        self.machine_poller = MachinePoller(self.partition)
        self.escalator = Escalator(self.partition)
        self.revival_watcher = RevivalWatcher(self.partition)
        self.set_aside = SetAsideRetrier(self.partition)

    @property
    def loops(self) -> tuple[Loop, ...]:
        return (
            self.dispatcher,
            self.job_poller,
            self.job_prober,
            self.instance_reader,
            self.machine_poller,
            self.escalator,
            self.revival_watcher,
            self.set_aside,
        )

    @property
    def undriven(self) -> bool:
        """Whether one fails again and again without which no job comes down."""
        needed = (self.dispatcher, self.job_poller, self.job_prober)
        return any(loop.name in self.failing for loop in needed)

    def wake(self) -> None:
        self.partition.wakeups.all()

    @property
    def stopping(self) -> bool:
        return self._stop_requested.is_set()

    def stop(self) -> None:
        """From now on no call starts any more; those under way may end within DRAIN_S."""
        self._stop_requested.set()

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
                            self._stop_requested,
                            loop,
                            partition.clock,
                            partition.random,
                            self.failing,
                        )
                    )
                    for loop in self.loops
                ]
                await self._stop_requested.wait()
                until = time() + DRAIN_S
                _, late = await asyncio.wait(loops, timeout=DRAIN_S)
                for loop in late:
                    loop.cancel()
        finally:
            left_s = max(0.0, until - time())
            calling = (self.dispatcher, self.job_prober, self.instance_reader, self.escalator)
            ended = await asyncio.gather(*(loop.end(left_s) for loop in calling))
            if late or not all(ended):
                log.warning("calls of %s were cut off; their jobs are read first", partition.name)
