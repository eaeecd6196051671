"""Runner of the loops of one partition, from the start to a stop."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.engine.loops.escalator import Escalator
from orchestrator.engine.loops.instance_reader import InstanceReader
from orchestrator.engine.loops.job_poller import JobPoller
from orchestrator.engine.loops.job_terminator import JobTerminator
from orchestrator.engine.loops.machine_poller import MachinePoller
from orchestrator.engine.loops.revival_watcher import RevivalWatcher
from orchestrator.engine.loops.set_aside import SetAsideRetrier
from orchestrator.engine.loops.single_job_poller import SingleJobPoller
from orchestrator.engine.runtime.loop import run_until

if TYPE_CHECKING:
    from orchestrator.engine.partition import Partition
    from orchestrator.engine.runtime.loop import Loop, OnStep

DRAIN_S = 3.0
"""Time for calls in flight to end at a stop.

The jobs of calls that are cancelled then are read first at the next start.
"""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class PartitionRunner:
    """All loops of one partition, started and stopped together.

    They are started when the partition has work for the first time. While it has none, they wait to
    be woken and ask the database nothing.
    """

    partition: Partition
    on_step: OnStep = lambda *_: None
    job_terminator: JobTerminator = field(init=False)
    job_poller: JobPoller = field(init=False)
    single_job_poller: SingleJobPoller = field(init=False)
    instance_reader: InstanceReader = field(init=False)
    machine_poller: MachinePoller = field(init=False)
    escalator: Escalator = field(init=False)
    revival_watcher: RevivalWatcher = field(init=False)
    set_aside: SetAsideRetrier = field(init=False)
    failing: dict[str, Exception] = field(init=False, default_factory=dict)
    """The last error of each loop that fails repeatedly, by the name of the loop."""
    has_work: bool | None = field(init=False, default=None)
    """True if there may be something to do for the loops, now or later; None: it is not known."""
    times_woken: int = field(init=False, default=0)
    _begin: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _stop_requested: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.job_terminator = JobTerminator(self.partition)
        self.job_poller = JobPoller(self.partition)
        self.single_job_poller = SingleJobPoller(self.partition)
        self.instance_reader = InstanceReader(self.partition)
        self.machine_poller = MachinePoller(self.partition)
        self.escalator = Escalator(self.partition)
        self.revival_watcher = RevivalWatcher(self.partition)
        self.set_aside = SetAsideRetrier(self.partition)

    @property
    def loops(self) -> tuple[Loop, ...]:
        """All loops of the partition."""
        return (
            self.job_terminator,
            self.job_poller,
            self.single_job_poller,
            self.instance_reader,
            self.machine_poller,
            self.escalator,
            self.revival_watcher,
            self.set_aside,
        )

    @property
    def cannot_terminate(self) -> bool:
        """True while a loop fails repeatedly without which no job can be terminated."""
        needed = (self.job_terminator, self.job_poller, self.single_job_poller)
        return any(loop.name in self.failing for loop in needed)

    def wake(self) -> None:
        """Have every loop check for work now: there may be some."""
        self.has_work = True
        self.times_woken += 1
        self._begin.set()
        self.partition.wakeups.all()

    def on_request(self) -> None:
        """Have the loops take up what a client has requested."""
        if not self.has_work:
            self.wake()
        else:
            self.times_woken += 1
            self.partition.wakeups.on_request()

    def update_work(self, *, has_work: bool, times_woken: int) -> None:
        """Take what the database showed as ``has_work``; it was asked after so many wake-ups.

        A later wake-up may be for work that was stored after the answer. A health that changes with
        time is work as well: the change has to be stored.
        """
        has_work = has_work or (self._begin.is_set() and not self.partition.health_settled)
        if has_work and not self.has_work:
            self.wake()
        elif self.times_woken == times_woken:
            self.has_work = has_work

    @property
    def stopping(self) -> bool:
        """True after ``stop``."""
        return self._stop_requested.is_set()

    def stop(self) -> None:
        """Start no more calls; those in flight have DRAIN_S to end."""
        self._stop_requested.set()
        self._begin.set()

    async def run(self) -> None:
        """Run the loops from the first ``wake`` until ``stop``, then wait for calls in flight.

        If this is cancelled, it cancels them at once.
        """
        await self._begin.wait()
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
                            on_step=self.on_step,
                            has_work=lambda: self.has_work is not False,
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
            calling = (
                self.job_terminator,
                self.single_job_poller,
                self.instance_reader,
                self.escalator,
            )
            ended = await asyncio.gather(*(loop.calls.drain(left_s) for loop in calling))
            if late or not all(ended):
                log.warning(
                    "API calls of %s were cancelled at the stop; their jobs are read first at the "
                    "next start",
                    partition.name,
                )
