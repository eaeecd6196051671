"""DescribeInstances: captured machines are polled until they are gone."""

from __future__ import annotations

import json
import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.cloud import error_codes
from orchestrator.domain.decisions.capture_coverage import missed
from orchestrator.domain.model.error_detail import ClientCode
from orchestrator.domain.model.instance_scan import CapturePolicy
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.pacing.quota import Rate
from orchestrator.engine.loops.machine_poller import (
    APART_MAX_S,
    BACKOFF_BASE_S,
    BACKOFF_MAX_S,
    MACHINES_PER_CALL,
)
from orchestrator.services.explanation.explain import explain
from orchestrator.services.explanation.values import ExplanationContext
from orchestrator.simulator.traffic.fault_injection import Fault, Rule
from tests.support.loop_scenarios import DRAIN_S, terminate_captured
from tests.support.partition_world import AMPLE, JOB, POLL, PartitionWorld, job_ids

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.cloud.transport import HttpAnswer
    from orchestrator.domain.model.machine import MachineState
    from orchestrator.domain.model.termination import Termination
    from orchestrator.store.database.database import Database

POLICY = CapturePolicy()
DESCRIBE_INSTANCES = "DescribeInstances"
SETTLES_LONG: dict[str, Any] = {"settle_s": 120.0}


@pytest.fixture
def world(database: Database) -> PartitionWorld:
    return PartitionWorld(database, quotas=AMPLE, capture=POLICY)


async def stopped(world: PartitionWorld, *ids: str) -> None:
    """Have polls show that the terminated jobs have stopped."""
    world.clock.advance(DRAIN_S)
    for _ in range(3):
        for _ in ids:
            await world.job_poller.step()
            await world.probe()
        world.clock.advance(POLL.drain_max_interval_s)
    for job_id in ids:
        assert (await world.termination(job_id)).state in (State.SETTLING, State.VERIFIED)


async def poll_machines(world: PartitionWorld) -> None:
    """Poll all machines that are due."""
    while not math.isinf(wait_s := await world.machine_poller.step()):
        world.clock.advance(wait_s)


async def counts(world: PartitionWorld, job_id: str = JOB) -> tuple[int, int, int]:
    machines = (await world.termination(job_id)).machines
    return machines.total, machines.up, machines.gone


async def ended(world: PartitionWorld, job_id: str = JOB) -> Termination:
    """Return the termination after its settle window and another poll of the job."""
    world.clock.advance(60)
    await world.job_poller.step()
    return await world.termination(job_id)


def explained(termination: Termination, world: PartitionWorld) -> str:
    around = ExplanationContext(
        now=world.clock.now(), jobs_ahead=0, rate=Rate(2, 2), trouble=None, capture_wait_s=0.0
    )
    return explain(termination, around).waiting_for


async def stopped_and_polled(world: PartitionWorld, *ids: str) -> None:
    await stopped(world, *ids)
    await poll_machines(world)


async def verified(world: PartitionWorld, *, evidence: int) -> Termination:
    """Return the termination, which has ended as verified with this evidence."""
    done = await ended(world)
    assert (done.state, done.evidence) == (State.VERIFIED, evidence)
    return done


async def test_machines_that_are_gone_bring_the_highest_evidence(world: PartitionWorld) -> None:
    await terminate_captured(world, JOB)
    assert await counts(world) == (10, 10, 0)
    await stopped_and_polled(world, JOB)
    assert await counts(world) == (10, 0, 10)
    done = await verified(world, evidence=5)
    assert "all 10 machines are gone" in explained(done, world)


async def settled_at(world: PartitionWorld) -> datetime:
    """Return the end of the job's settle window."""
    settle_until = (await world.termination(JOB)).schedule.settle_until
    assert settle_until is not None
    return settle_until


async def polled_until(world: PartitionWorld, at: datetime) -> None:
    """Poll the job, and its machines that are due, until then."""
    while (left_s := (at - world.clock.now()).total_seconds()) > 0:
        world.clock.advance(min(left_s, POLL.settling_interval_s))
        await world.polled(0)
        await poll_machines(world)


async def test_machines_that_are_gone_are_read_again_at_the_end_of_the_settle_window(
    world: PartitionWorld,
) -> None:
    await terminate_captured(world, JOB, asked=SETTLES_LONG)
    await stopped_and_polled(world, JOB)
    assert await counts(world) == (10, 0, 10)
    before = len(world.calls(DESCRIBE_INSTANCES))
    end = await settled_at(world)
    await polled_until(world, end - timedelta(seconds=0.1))
    assert len(world.calls(DESCRIBE_INSTANCES)) == before, "they are gone"
    waiting = await world.termination(JOB)
    assert (waiting.state, waiting.schedule.confirm_from) == (State.SETTLING, end)
    world.clock.advance(0.1)
    await world.polled(0)
    assert (await world.termination(JOB)).state is State.SETTLING, "they are to be confirmed"
    world.clock.advance(POLL.settling_interval_s)
    await poll_machines(world)
    assert len(world.calls(DESCRIBE_INSTANCES)) == before + 1
    await world.polled(POLL.batch_max_interval_s)
    await poll_machines(world)
    done = await world.termination(JOB)
    assert (done.state, done.evidence) == (State.VERIFIED, 5)
    assert len(world.calls(DESCRIBE_INSTANCES)) == before + 1, "once"


async def test_a_machine_that_is_up_again_at_the_end_keeps_the_job_from_being_verified(
    world: PartitionWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DescribeInstances left them out once, as a stale response does."""
    await terminate_captured(world, JOB, asked=SETTLES_LONG, machine_linger_s=600.0)
    await stopped(world, JOB)

    async def lags(**_: object) -> dict[str, MachineState]:
        return {}

    with monkeypatch.context() as lagging:
        lagging.setattr(world.partition.cloud, "describe_machines", lags)
        await poll_machines(world)
    assert await counts(world) == (10, 0, 10)
    await polled_until(world, await settled_at(world) + timedelta(seconds=60))
    waiting = await world.termination(JOB)
    assert await counts(world) == (10, 10, 0)
    assert (waiting.state, waiting.machines.all_observed_at) == (State.SETTLING, None)
    await polled_until(world, world.clock.later(600))
    done = await world.termination(JOB)
    assert (done.state, done.evidence) == (State.VERIFIED, 5)
    assert await counts(world) == (10, 0, 10)


async def test_without_the_permission_no_more_is_claimed(database: Database) -> None:
    world = PartitionWorld(
        database, quotas=AMPLE, capture=POLICY, forbidden_actions=["DescribeInstances"]
    )
    await terminate_captured(world, JOB)
    await stopped_and_polled(world, JOB)
    done = await verified(world, evidence=3)
    assert "are gone: reading them failed: UnauthorizedOperation" in explained(done, world)


async def test_without_an_endpoint_no_call_is_made(database: Database) -> None:
    world = PartitionWorld(database, quotas=AMPLE, capture=POLICY, cvm_endpoint=None)
    await terminate_captured(world, JOB)
    await stopped(world, JOB)
    done = await verified(world, evidence=3)
    assert world.calls(DESCRIBE_INSTANCES) == []
    assert "no endpoint of CVM" in explained(done, world)


async def test_a_machine_that_was_being_created_is_watched_longer(world: PartitionWorld) -> None:
    await terminate_captured(world, JOB, mix={"STARTING": 0.2})
    await world.execute("UPDATE instances SET machine = NULL WHERE state = 'STARTING'")
    await world.execute("UPDATE terminations SET machines_up = 8")
    await stopped_and_polled(world, JOB)
    assert await counts(world) == (10, 0, 8)
    assert (await ended(world)).state is State.SETTLING
    world.clock.advance(POLICY.starting_watch_s)
    await poll_machines(world)
    await verified(world, evidence=5)


async def test_a_machine_without_an_id_leaves_the_rest_unproven(world: PartitionWorld) -> None:
    await terminate_captured(world, JOB, mix={"STARTING": 0.2}, starting_without_machine=True)
    await stopped_and_polled(world, JOB)
    done = await verified(world, evidence=3)
    assert missed(done) == "the machines of 2 of 10 instances were not shown"


# --- the calls -----------------------------------------------------------------------------------


async def test_machines_of_many_jobs_share_calls(world: PartitionWorld) -> None:
    jobs = job_ids(5)
    await terminate_captured(world, *jobs, instances=50)
    await stopped(world, *jobs)
    before = len(world.calls(DESCRIBE_INSTANCES))
    await poll_machines(world)
    assert len(world.calls(DESCRIBE_INSTANCES)) - before == math.ceil(5 * 50 / MACHINES_PER_CALL)


async def test_a_call_that_failed_is_made_again_later(world: PartitionWorld) -> None:
    await terminate_captured(world, JOB)
    await stopped(world, JOB)
    world.start()
    world.clock.advance(1)
    before = len(world.calls(DESCRIBE_INSTANCES))
    world.simulator.faults.replace(
        {DESCRIBE_INSTANCES: [Rule(Fault.RESET, 1.0, first_n=1)]}, now=world.simulator.now()
    )
    assert await world.machine_poller.step() == BACKOFF_BASE_S
    assert await world.machine_poller.step() == BACKOFF_BASE_S
    assert len(world.calls(DESCRIBE_INSTANCES)) == before + 1
    world.clock.advance(BACKOFF_BASE_S)
    await poll_machines(world)
    assert await counts(world) == (10, 0, 10)


async def test_one_id_that_makes_a_call_fail_hides_the_machines_of_its_own_job_only(
    world: PartitionWorld,
) -> None:
    spoilt, *others = jobs = job_ids(4)
    await terminate_captured(world, *jobs)
    await stopped(world, *jobs)
    await world.execute(
        "UPDATE instances SET machine_id = 'malformed' WHERE termination_seq = 1"
        " AND instance_index = 3"
    )
    await poll_machines(world)
    for job_id in others:
        assert await counts(world, job_id) == (10, 0, 10)
    problem = (await world.termination(spoilt)).machines.problem
    assert problem is not None
    assert problem.code == "InvalidInstanceId.Malformed"


async def test_calls_grow_back_to_what_the_cloud_takes_and_no_further(
    world: PartitionWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await terminate_captured(world, JOB, instances=5 * MACHINES_PER_CALL)
    await stopped(world, JOB)
    asked, post = list[int](), world.network.post

    async def refusing_the_first(url: str, *, body: bytes, **more: Any) -> HttpAnswer:
        asked.append(len(json.loads(body)["InstanceIds"]))
        if len(asked) == 1:
            raise error_codes.error("InvalidInstanceId.NotFound", "one of them")
        return await post(url, body=body, **more)

    monkeypatch.setattr(world.network, "post", refusing_the_first)
    await poll_machines(world)
    most = MACHINES_PER_CALL
    assert asked == [most, most // 2, most, most, most, most, most // 2]


async def machine_id(world: PartitionWorld, job_id: str, index: int) -> str:
    (found,) = [i for i in await world.instances(job_id) if i.index == index]
    assert found.machine_id is not None
    return found.machine_id


@pytest.mark.parametrize("code", ["InternalError", "ResourceNotFound", ClientCode.BAD_ANSWER])
@pytest.mark.parametrize("place", [0, 4, 9])
async def test_a_machine_that_makes_calls_fail_prevents_no_read_of_others(
    world: PartitionWorld, caplog: pytest.LogCaptureFixture, place: int, code: str
) -> None:
    spoilt, *others = jobs = job_ids(4)
    await terminate_captured(world, *jobs)
    await stopped(world, *jobs)
    spoiler = await machine_id(world, spoilt, place)
    world.network.spoil(DESCRIBE_INSTANCES, spoiler, code)
    await passed(world, 60)
    for job_id in others:
        assert await counts(world, job_id) == (10, 0, 10)
    assert await counts(world, spoilt) == (10, 1, 9)
    assert (await world.termination(spoilt)).machines.problem is None
    logged = [m for m in caplog.messages if spoiler in m and "again in" in m]
    assert logged
    assert all(code in message for message in logged)
    world.network.spoil(DESCRIBE_INSTANCES, spoiler, None)
    await passed(world, APART_MAX_S)
    assert await counts(world, spoilt) == (10, 0, 10), "it is polled again"


async def test_a_machine_that_failed_alone_by_chance_is_read_again_soon(
    world: PartitionWorld,
) -> None:
    await terminate_captured(world, JOB, instances=1)
    await stopped(world, JOB)
    failing = {DESCRIBE_INSTANCES: [Rule(Fault.INTERNAL_ERROR, 1.0)]}
    world.simulator.faults.replace(failing, now=0)
    while not world.machine_poller._apart:
        world.clock.advance(await world.machine_poller.step())
    world.simulator.faults.replace({}, now=0)
    await passed(world, 30)
    assert await counts(world) == (1, 0, 1)


async def passed(world: PartitionWorld, seconds: float) -> None:
    """Advance the clock while the machine poller runs."""
    until = world.clock.passed_s + seconds
    while (left_s := until - world.clock.passed_s) > 0:
        world.clock.advance(min(left_s, await world.machine_poller.step(), 5.0))


async def test_a_cloud_that_answers_no_call_is_called_seldom_and_hides_no_machine(
    world: PartitionWorld,
) -> None:
    await terminate_captured(world, JOB)
    await stopped(world, JOB)
    before = len(world.calls(DESCRIBE_INSTANCES))
    world.simulator.faults.replace({DESCRIBE_INSTANCES: [Rule(Fault.INTERNAL_ERROR, 1.0)]}, now=0)
    await passed(world, 3600)
    assert len(world.calls(DESCRIBE_INSTANCES)) - before < 3600 / BACKOFF_MAX_S + 10
    assert (await world.termination(JOB)).machines.problem is None
    world.simulator.faults.replace({}, now=0)
    await passed(world, BACKOFF_MAX_S + APART_MAX_S)
    assert await counts(world) == (10, 0, 10)


async def test_failing_calls_are_logged_when_the_failure_begins_changes_and_ends(
    world: PartitionWorld, caplog: pytest.LogCaptureFixture
) -> None:
    await terminate_captured(world, JOB)
    await stopped(world, JOB)
    world.start()
    world.clock.advance(1)
    caplog.clear()
    id_ = await machine_id(world, JOB, 0)
    for code in ("InternalError", ClientCode.CONNECT_FAILED):
        world.network.spoil(DESCRIBE_INSTANCES, id_, code)
        for _ in range(3):
            world.clock.advance(await world.machine_poller.step())
        trouble = world.partition.trouble
        assert trouble is not None
        assert trouble.code == code
    world.network.spoil(DESCRIBE_INSTANCES, id_, None)
    await poll_machines(world)
    assert world.partition.trouble is None
    name = world.machine_poller.name
    fails = (
        f"{name}: DescribeInstances fails and is tried again; jobs whose machines are not read are "
        "verified only at their deadline: "
    )
    assert [message for message in caplog.messages if message.startswith(name)] == [
        f"{fails}InternalError: asked for {id_}",
        f"{fails}{ClientCode.CONNECT_FAILED}: asked for {id_}",
        f"{name} works again",
    ]
