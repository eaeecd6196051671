"""Jobs brought to the point at which a certain loop has something to do."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from orchestrator.domain.model.batch_job import InstanceCounters, JobState, TaskSeen
from orchestrator.domain.model.instance_scan import CapturePolicy
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.termination import PollKind
from tests.support.partition_world import JOB, POLL, PartitionWorld
from tests.unit.domain.build import STOPPED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.domain.model.termination import Termination


async def terminate_with_stragglers(
    world: PartitionWorld, *ids: str, asked: dict[str, Any] | None = None, **spec: Any
) -> None:
    """Send TerminateJob for jobs some of whose instances do not stop."""
    world.cloud_runs(*ids, **{"drain_s": 10.0, "failed_early_s": 1e6, "again": "ok"} | spec)
    await world.submit(*ids, asked=asked)
    await world.job_poller.step()
    await world.probe()
    for _ in ids:
        await world.dispatch()
        world.clock.advance(1)


async def step_until(
    world: PartitionWorld,
    holds: Callable[[Termination], bool],
    *,
    timeout_s: float,
    job_id: str = JOB,
    step_s: float = 5.0,
) -> Termination:
    """Step every loop repeatedly until ``holds`` is true of the termination."""
    ends_at = world.clock.passed_s + timeout_s
    while world.clock.passed_s < ends_at:
        await world.job_poller.step()
        await world.probe()
        await world.dispatch()
        await world.capture()
        await world.machine_poller.step()
        await world.escalate()
        termination = await world.termination(job_id)
        if holds(termination):
            return termination
        world.clock.advance(step_s)
    raise AssertionError(f"not within {timeout_s} s: {await world.termination(job_id)}")


async def store_terminable(world: PartitionWorld, *ids: str, **spec: Any) -> None:
    """Store running jobs that a batch poll has shown to be terminable."""
    world.cloud_runs(*ids, **spec)
    await world.submit(*ids, next_poll_at=world.clock.now())
    await world.job_poller.step()


DRAINING: dict[str, Any] = {"state": State.DRAINING, "evidence": 1}
TO_PROVE: dict[str, Any] = DRAINING | {
    "evidence": 2,
    "job_state": JobState.FAILED,
    "poll_kind": PollKind.SINGLE,
}
COUNTED: dict[str, Any] = {
    "instances": InstanceCounters(running=4, failed=6),
    "tasks": (TaskSeen(name="task-0"),),
}
"""Known values of a job with one task."""


async def store_finished(
    world: PartitionWorld, *ids: str, seconds: float = 0.0, **known: Any
) -> None:
    """Store finished jobs that are to be read one by one so long from now, in this order."""
    world.cloud_runs(*ids, state="FAILED")
    await world.submit(*ids, **(TO_PROVE | known))
    for number, job_id in enumerate(ids):
        await world.know(job_id, next_poll_at=world.clock.later(seconds + number / 1000))


DRAIN_S = 10.0


async def terminate_captured(
    world: PartitionWorld, *ids: str, asked: Mapping[str, Any] | None = None, **spec: Any
) -> None:
    """Capture the machines of jobs, poll them for the first time, and send TerminateJob."""
    world.cloud_runs(*ids, drain_s=DRAIN_S, **spec)
    await world.submit(*ids, asked=asked, next_poll_at=world.clock.now())
    await world.job_poller.step()
    for _ in range(2):
        while not math.isinf(await world.capture()):
            world.clock.advance(1)
    while not math.isinf(await world.machine_poller.step()):
        world.clock.advance(1)
    while await world.dispatch() <= CapturePolicy().before_max_s:
        world.clock.advance(1)


WATCHED: dict[str, Any] = {"revival_watch_s": 3600.0}
ENDED: dict[str, Any] = {"state": "FAILED", "instances": 10}


async def verify(
    world: PartitionWorld, *ids: str, asked: Mapping[str, Any] = WATCHED, **spec: Any
) -> None:
    """Have jobs verified now, which were counted at the end of their settle window."""
    world.cloud_runs(*ids, **(ENDED | spec))
    now = world.clock.now()
    settled = {"evidence": 3, "job_state": JobState.FAILED, "instances": STOPPED}
    settled |= {"instances_observed_at": now, "instances_submitted": STOPPED.total}
    await world.submit(*ids, asked=asked, region=spec.get("region", "ap-guangzhou"))
    await world.know(*ids, state=State.SETTLING, next_poll_at=now, settle_until=now, **settled)
    world.clock.advance(POLL.batch_max_interval_s)
    while await live(world):
        await world.job_poller.step()
        world.clock.advance(1)
    for job_id in ids:
        assert (await world.termination(job_id)).state is State.VERIFIED


async def live(world: PartitionWorld) -> list[str]:
    records = await world.records.terminations(after=0, limit=1000)
    return [r.termination.job_id for r in records if not r.termination.state.final]


async def step_revival_watcher(world: PartitionWorld) -> float:
    """Make a step of the job poller, which has priority, then one of the revival watcher."""
    await world.job_poller.step()
    return await world.revival_watcher.step()
