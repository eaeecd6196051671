"""Calls that the cloud throttles: nothing changes, and they are repeated at once.

No loop adds a wait of its own after that, and no job fails because of it: the quota alone slows the
calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.domain.model.instance_scan import CapturePolicy
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.termination import EscalationLevel
from orchestrator.simulator.traffic.fault_injection import read_faults
from orchestrator.store.mapping.termination_rows import to_row
from tests.support.loop_scenarios import (
    COUNTED,
    step_revival_watcher,
    step_until,
    store_finished,
    store_terminable,
    terminate_captured,
    terminate_with_stragglers,
    verify,
)
from tests.support.partition_world import AMPLE, JOB, NO_CAPTURE, PartitionWorld

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orchestrator.store.database.database import Database

CAPTURE = CapturePolicy()
SOON_S = 0.1
"""All of these have 50 calls a second."""


async def poll_unseen(world: PartitionWorld) -> Callable[[], Awaitable[float]]:
    world.cloud_runs(JOB)
    await world.submit(JOB)
    return world.job_poller.step


async def prove(world: PartitionWorld) -> Callable[[], Awaitable[float]]:
    await store_finished(world, JOB)
    return world.probe


async def prove_by_task(world: PartitionWorld) -> Callable[[], Awaitable[float]]:
    """Prove a job by DescribeTask while the quota of DescribeJob is used up."""
    await store_finished(world, JOB, **COUNTED)
    for _ in range(AMPLE["DescribeJob"]):
        world.partition.limiters["DescribeJob"].take()
    return world.probe


async def count_for_watcher(world: PartitionWorld) -> Callable[[], Awaitable[float]]:
    world.cloud_runs(JOB)
    drains: dict[str, Any] = {
        "state": State.DRAINING,
        "evidence": 1,
        "next_poll_at": world.clock.later(60),
    }
    await world.submit(JOB, **drains, acknowledged_at=world.clock.now())
    world.recently_viewed.record("op_1")
    return world.probe


async def submit_info(world: PartitionWorld) -> Callable[[], Awaitable[float]]:
    await store_terminable(world, JOB)
    return world.capture


async def page(world: PartitionWorld) -> Callable[[], Awaitable[float]]:
    await store_terminable(world, JOB)
    await world.capture()
    return world.capture


async def machines(world: PartitionWorld) -> Callable[[], Awaitable[float]]:
    await terminate_captured(world, JOB)
    await world.know(JOB, state=State.SETTLING, settle_until=world.clock.later(30))
    world.clock.advance(10)
    return world.machine_poller.step


async def call(world: PartitionWorld) -> Callable[[], Awaitable[float]]:
    await world.ready(JOB)
    return world.dispatch


async def call_for_one(world: PartitionWorld) -> Callable[[], Awaitable[float]]:
    await terminate_with_stragglers(world, JOB, instances=10, stuck=1)
    await step_until(
        world, lambda t: t.escalation.level is EscalationLevel.INSTANCES, timeout_s=120
    )
    for _ in range(2):
        await world.capture()
    return world.escalate


async def watch(world: PartitionWorld) -> Callable[[], Awaitable[float]]:
    await verify(world, JOB)
    world.clock.advance(120)
    return lambda: step_revival_watcher(world)


@dataclass(frozen=True)
class Case:
    action: str
    prepare: Callable[[PartitionWorld], Awaitable[Callable[[], Awaitable[float]]]]
    soon_s: float = SOON_S
    capture: CapturePolicy = CAPTURE


CASES = [
    Case("DescribeJobs", poll_unseen),
    Case("DescribeJob", prove),
    Case("DescribeTask", prove_by_task),
    Case("DescribeJob", count_for_watcher),
    Case("DescribeJobSubmitInfo", submit_info),
    Case("DescribeTask", page),
    Case("DescribeInstances", machines),
    Case("TerminateJob", call),
    Case("TerminateTaskInstance", call_for_one, capture=NO_CAPTURE),
    Case("DescribeJobs", watch, soon_s=1.1),  # It leaves a second to the job poller.
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.action} {case.prepare.__name__}")
async def test_a_call_that_is_refused_is_made_again_at_once_and_nothing_else_changes(
    database: Database, case: Case
) -> None:
    world = PartitionWorld(database, quotas=AMPLE, capture=case.capture)
    step = await case.prepare(world)
    before, made = await world.record(JOB), len(world.calls(case.action))
    refuse = {case.action: {"throttle": {"first_n": 5}}}
    world.simulator.faults.replace(read_faults(refuse), now=world.simulator.now())
    for _ in range(5):
        began_s = world.clock.passed_s
        while len(world.calls(case.action)) == made:
            world.clock.advance(min(await step(), 0.01))
            assert world.clock.passed_s - began_s <= case.soon_s
        made += 1
        after = await world.record(JOB)
        if case.action == "TerminateJob":
            assert (after.attempts[-1].outcome, after.termination.schedule.failures) == (
                "throttled",
                0,
            )
            stands = (
                "terminate_after",
                "poll_kind",
                "next_poll_at",
                "first_sent_at",
                "problem",
                "state",
            )
            known, kept = to_row(before.termination), to_row(after.termination)
            assert {name: kept[name] for name in stands} == {name: known[name] for name in stands}
        else:
            assert after.termination == before.termination
    world.clock.advance(case.soon_s)
    await step()
    assert world.calls(case.action)[-1].code == "OK"
