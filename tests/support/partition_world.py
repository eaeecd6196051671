"""One partition over a real database and a simulated cloud, with a clock that tests advance."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from dataclasses import fields
from random import Random
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from orchestrator.cloud import error_codes
from orchestrator.cloud.credentials import build_provider
from orchestrator.cloud.gateway import TencentBatch
from orchestrator.cloud.transport import HttpAnswer
from orchestrator.domain.decisions.escalation import EscalationPolicy
from orchestrator.domain.leasing.leases import FencingToken
from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.error_detail import ClientCode
from orchestrator.domain.model.instance_scan import CapturePolicy, CaptureTiming
from orchestrator.domain.pacing.polling import PollPolicy
from orchestrator.engine.lease_guard import Lease
from orchestrator.engine.loops.escalator import Escalator
from orchestrator.engine.loops.instance_reader import InstanceReader
from orchestrator.engine.loops.job_poller import JobPoller
from orchestrator.engine.loops.job_terminator import JobTerminator
from orchestrator.engine.loops.machine_poller import MachinePoller
from orchestrator.engine.loops.revival_watcher import RevivalWatcher
from orchestrator.engine.loops.set_aside import SetAsideRetrier
from orchestrator.engine.loops.single_job_poller import SingleJobPoller
from orchestrator.engine.partition import Partition
from orchestrator.engine.runtime.recently_viewed import RecentlyViewed
from orchestrator.engine.runtime.wakeups import WakeupEvents
from orchestrator.simulator.cloud.job_spec import JobSpec
from orchestrator.simulator.protocol.replies import Delivery
from orchestrator.simulator.protocol.request_parser import Request
from orchestrator.simulator.simulator import Simulator
from orchestrator.simulator.traffic.fault_injection import read_faults
from orchestrator.store.partition.partition_store import PartitionStore
from orchestrator.store.records.queries import SqlRecords
from tests.support import HANG_S
from tests.support.clock import NOON, ManualClock
from tests.support.operations import new_operation
from tests.support.termination_fields import store_fields

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from orchestrator.domain.errors import CloudError
    from orchestrator.domain.model.operation import NewOperation
    from orchestrator.domain.model.termination import Termination
    from orchestrator.services.ports import InstanceRecord, TerminationRecord
    from orchestrator.simulator.simulator import Call
    from orchestrator.store.database.database import Database

PARTITION = "main@cloud"
FENCE = FencingToken(PARTITION, 1)
"""The partition that tests/conftest.py holds."""
REGION, OTHER_REGION = "ap-guangzhou", "ap-shanghai"
SECRET_ID, SECRET_KEY = "AKIDEXAMPLE", "example-secret-key"
QUOTAS = {
    "TerminateJob": 2,
    "TerminateTaskInstance": 2,
    "DescribeJob": 2,
    "DescribeJobs": 2,
    "DescribeTask": 3,
    "DescribeJobSubmitInfo": 2,
    "DescribeInstances": 40,
    "TerminateInstances": 10,
}
AMPLE = dict.fromkeys(QUOTAS, 50)
POLL = PollPolicy()
NO_CAPTURE = CapturePolicy(when=CaptureTiming.NONE)
ESCALATION = EscalationPolicy()


def job_ids(count: int) -> list[str]:
    return [f"job-{number:08}" for number in range(1, count + 1)]


JOB, *_ = job_ids(1)


class NoJitter(Random):
    """Random numbers that shorten no backoff; ids are random as usual."""

    def random(self) -> float:
        return 0.0

    def choices(self, population: Any, *args: Any, **kwargs: Any) -> list[Any]:
        return Random(self.getrandbits(64)).choices(population, *args, **kwargs)


class SimulatorTransport:
    """Transport of the gateway's calls to the simulated cloud, without a socket."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.before_arrival: Callable[[str], Awaitable[None]] | None = None
        """Callback, awaited with the action between the sending and the arrival of a call."""
        self._spoilt: dict[tuple[str, str], str] = {}
        self._held: dict[str, asyncio.Event] = {}
        self._arrived: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(0)
        )

    def spoil(self, action: str, id_: str, code: str | None) -> None:
        """Fail each call of this action that names this id with this code; None: no longer."""
        self._spoilt.pop((action, id_), None)
        if code is not None:
            self._spoilt[action, id_] = code

    def hold(self, action: str) -> asyncio.Event:
        """Hold the next response to this action until the event is set."""
        self._held[action] = asyncio.Event()
        return self._held[action]

    async def arrival(self, action: str) -> None:
        """Wait until one more call of this action has arrived."""
        await self._arrived[action].acquire()

    async def post(
        self, url: str, *, headers: Mapping[str, str], body: bytes, before_send: Callable[[], None]
    ) -> HttpAnswer:
        action = headers["X-TC-Action"]
        if self.before_arrival is not None:
            await self.before_arrival(action)
        for (spoilt, id_), code in self._spoilt.items():
            if spoilt == action and id_.encode() in body:
                raise error_codes.error(code, f"asked for {id_}")
        reply = self.simulator.handle(Request("POST", "/", list(headers.items()), body))
        self._arrived[action].release()
        if action in self._held:
            await self._held.pop(action).wait()
        if reply.delivery is Delivery.CUT:
            raise error_codes.error(ClientCode.DISCONNECTED, "the connection was cut")
        return HttpAnswer(status=reply.status, headers={}, body=reply.body)


class PartitionWorld:
    """A database, a cloud and the loops of one partition.

    The first second, in which every permit counts as spent, has passed.
    """

    def __init__(
        self,
        database: Database,
        *,
        quotas: Mapping[str, int] = QUOTAS,
        faults: Mapping[str, Any] | None = None,
        store: type[PartitionStore] = PartitionStore,
        capture: CapturePolicy = NO_CAPTURE,
        escalation: EscalationPolicy = ESCALATION,
        cvm_endpoint: str | None = "http://cloud",
        **cloud: Any,
    ) -> None:
        self.database = database
        self.clock = ManualClock()
        database._now = self.clock.now
        self.cloud_ahead_s = 0.0
        """Seconds by which the cloud's clock is ahead of this host's."""
        self.simulator = Simulator(
            secret_keys={SECRET_ID: SECRET_KEY},
            limits_per_s=quotas,
            faults=read_faults(faults or {}),
            regions=(REGION, OTHER_REGION),
            now=lambda: self.clock.now().timestamp() + self.cloud_ahead_s,
            **cloud,
        )
        self.network = SimulatorTransport(self.simulator)
        self.store = store(database, FENCE)
        self.records = SqlRecords(database, self.clock.now)
        self._quotas = quotas
        self._capture = capture
        self._escalation = escalation
        self._cvm_endpoint = cvm_endpoint
        self._operations = 0
        self.start()
        self.clock.advance(1.0)

    def start(self, *, secret_key: str = SECRET_KEY) -> None:
        """Start the loops on the present database, as a new process does."""
        keys: dict[str, str | int | Path | None] = {
            "secret_id": SECRET_ID,
            "secret_key": secret_key,
        }
        self.recently_viewed = RecentlyViewed(self.clock)
        self.partition = Partition(
            lease=Lease(FENCE, math.inf),
            cloud=TencentBatch(
                endpoint="http://cloud",
                cvm_endpoint=self._cvm_endpoint,
                credentials=build_provider("static", keys, self.clock, self.network),
                clock=self.clock,
                transport=self.network,
            ),
            store=self.store,
            clock=self.clock,
            random=NoJitter(),
            quotas=self._quotas,
            recently_viewed=self.recently_viewed,
            poll=POLL,
            capture=self._capture,
            escalation=self._escalation,
        )
        self.job_terminator = JobTerminator(self.partition)
        self.job_poller = JobPoller(self.partition)
        self.single_job_poller = SingleJobPoller(self.partition)
        self.instance_reader = InstanceReader(self.partition)
        self.machine_poller = MachinePoller(self.partition)
        self.escalator = Escalator(self.partition)
        self.revival_watcher = RevivalWatcher(self.partition)
        self.set_aside = SetAsideRetrier(self.partition)

    # --- given -----------------------------------------------------------------------------------

    def cloud_runs(self, *ids: str, **spec: Any) -> None:
        """Add jobs to the cloud: running, or as ``spec`` says."""
        values = {"instances": 10, "drain_s": 10.0} | spec
        self.simulator.add_jobs([JobSpec(job_id=job_id, **values) for job_id in ids])

    async def submit(
        self,
        *ids: str,
        region: str = REGION,
        partition: str = PARTITION,
        asked: Mapping[str, Any] | None = None,
        **known: Any,
    ) -> None:
        """Store an operation on these jobs, then the values ``known`` of each of them."""
        self._operations += 1
        new = self.operation(
            f"op_{self._operations}", *ids, region=region, partition=partition, **(asked or {})
        )
        await self.records.create(new, [f"trm_{job_id}" for job_id in ids])
        if known:
            await self.know(*ids, **known)

    def operation(self, operation_id: str, *ids: str, **asked: Any) -> NewOperation:
        """Return a new operation on these jobs."""
        values = {"region": REGION, "partition": PARTITION, "created_at": self.clock.now()} | asked
        return new_operation(operation_id, *ids, **values)

    async def know(self, *ids: str, **known: Any) -> None:
        """Store these values for the terminations of these jobs."""
        befores = [r.termination for r in await self._records() if r.termination.job_id in ids]
        afters = [await store_fields(self.database, before, **known) for before in befores]
        stored = {record.termination.id: record.termination for record in await self._records()}
        for after in afters:
            assert stored[after.id] == after, "the engine never writes such a termination"

    async def ready(self, *ids: str, **known: Any) -> None:
        """Store running jobs that a poll has shown to be terminable."""
        self.cloud_runs(*ids)
        later = self.clock.later(POLL.queued_interval_s)
        allowed = {"job_state": JobState.RUNNING, "terminate_after": self.clock.now()}
        values: dict[str, Any] = allowed | {"next_poll_at": later} | known
        await self.submit(*ids, **values)

    # --- outcome ---------------------------------------------------------------------------------

    async def _records(self) -> list[TerminationRecord]:
        return await self.records.terminations(after=0, limit=1000)

    async def record(self, job_id: str) -> TerminationRecord:
        (found,) = await self.records.terminations(after=0, limit=10, job_id=job_id)
        return found

    async def termination(self, job_id: str) -> Termination:
        return (await self.record(job_id)).termination

    async def instances(self, job_id: str, **asked: Any) -> list[InstanceRecord]:
        """Return the stored instances that have a machine."""
        values = {"after": 0, "limit": 10_000, "states": None, "machine": None} | asked
        found = await self.termination(job_id)
        return await self.records.instances(termination_id=found.id, **values)

    async def outcomes(self, job_id: str) -> list[str | None]:
        """Return the outcomes of the attempts on a job; None: no result."""
        return [attempt.outcome for attempt in (await self.record(job_id)).attempts]

    def calls(self, action: str) -> list[Call]:
        return [call for call in self.simulator.calls if call.action == action]

    def arrivals_s(self, action: str) -> list[float]:
        """Return the arrival times of this action's calls, in seconds of the test's clock."""
        return [round(call.at - NOON.timestamp(), 3) for call in self.calls(action)]

    def called(self, action: str) -> list[str]:
        """Return the jobs of every call of this action, in the order of arrival."""
        return [job_id for call in self.calls(action) for job_id in call.job_ids]

    # --- steps -----------------------------------------------------------------------------------

    def woken(self) -> set[str]:
        """Return the wake-up events of the partition that were set since the last call."""
        events = {
            each.name: getattr(self.partition.wakeups, each.name) for each in fields(WakeupEvents)
        }
        woken = {name for name, event in events.items() if event.is_set()}
        for name in woken:
            events[name].clear()
        return woken

    async def record_result(self, error: CloudError | None, action: str = "DescribeJob") -> None:
        """Record the end of a call of this action; None: it worked."""
        await self.partition.record_result(error, self.partition.limiters[action])

    async def ended(
        self, loop: JobTerminator | SingleJobPoller | InstanceReader | Escalator
    ) -> None:
        """Wait until the loop's calls in flight have ended."""
        assert await loop.calls.drain(HANG_S)

    async def dispatch(self) -> float:
        """Make one step of the job terminator, and let the call end that it started."""
        wait_s = await self.job_terminator.step()
        await self.pass_waits()
        await self.ended(self.job_terminator)
        return wait_s

    async def pass_waits(self) -> None:
        """Let the calls go that have begun to wait for the time of their permit."""
        await asyncio.sleep(0)
        while not self.clock.waits.empty():
            wait_s = self.clock.waits.get_nowait()
            if wait_s > 0:
                self.clock.advance(wait_s)

    async def probe(self) -> float:
        """Make one step of the single-job poller, and let the polls end that it started."""
        wait_s = await self.single_job_poller.step()
        await self.ended(self.single_job_poller)
        return wait_s

    async def probe_without_answer(self, action: str = "DescribeJob") -> asyncio.Event:
        """Make one step of the single-job poller; its call gets an answer once the event is set."""
        held = self.network.hold(action)
        await self.single_job_poller.step()
        await self.network.arrival(action)
        return held

    async def polled(self, seconds: float) -> None:
        """Advance the clock while the job poller and the single-job poller run."""
        until = self.clock.passed_s + seconds
        while True:
            wait_s = min(await self.job_poller.step(), await self.probe())
            if (left_s := until - self.clock.passed_s) <= 0:
                return
            self.clock.advance(min(left_s, wait_s))

    async def capture(self) -> float:
        """Make one step of the instance reader, and let the reads end that it started."""
        wait_s = await self.instance_reader.step()
        await self.ended(self.instance_reader)
        return wait_s

    async def escalate(self) -> float:
        """Make one step of the escalator, and let the call end that it started."""
        wait_s = await self.escalator.step()
        await self.pass_waits()
        await self.ended(self.escalator)
        return wait_s

    async def execute(self, statement: str) -> None:
        """Run a statement on the database."""

        async def work(connection: Any) -> None:
            await connection.execute(text(statement))

        await self.database.write(work)
