"""Instances that do not stop: terminated one by one, in rounds, then manual action is required."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.domain.decisions.escalation import EscalationPolicy, Straggler
from orchestrator.domain.errors import StoreUnavailable
from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.termination import EscalationLevel
from tests.support import HANG_S
from tests.support.loop_scenarios import step_until, terminate_with_stragglers
from tests.support.partition_world import AMPLE, JOB, QUOTAS, PartitionWorld, job_ids
from tests.support.termination_fields import store_fields

if TYPE_CHECKING:
    from orchestrator.domain.model.termination import Termination
    from orchestrator.store.database.database import Database

ACTION = "TerminateTaskInstance"
MACHINES = "TerminateInstances"
SLOW = AMPLE | {ACTION: 2}


@pytest.fixture
def world(database: Database) -> PartitionWorld:
    return PartitionWorld(database, quotas=AMPLE)


async def until_level(
    world: PartitionWorld, level: EscalationLevel, *, timeout_s: float = 120
) -> Termination:
    return await step_until(world, lambda t: t.escalation.level is level, timeout_s=timeout_s)


async def outcomes(world: PartitionWorld, action: str) -> list[str | None]:
    attempts = (await world.record(JOB)).attempts
    return [attempt.outcome for attempt in attempts if attempt.action == action]


async def start_attempt(world: PartitionWorld) -> None:
    """Store the attempt on the next instance, as a process does that dies before its answer."""
    for _ in range(2):
        await world.capture()
    straggler = await world.store.instances.next_escalation_target()
    assert isinstance(straggler, Straggler)
    await world.store.instances.open_attempt(straggler, world.clock.now())


async def test_instances_that_stay_are_called_one_by_one_and_the_job_stops(
    world: PartitionWorld,
) -> None:
    await terminate_with_stragglers(world, JOB, instances=100, stuck=3)
    escalated = await until_level(world, EscalationLevel.INSTANCES)
    assert (escalated.state, escalated.escalation.round) == (State.DRAINING, 1)
    assert world.calls(ACTION) == []
    done = await step_until(world, lambda t: t.state is State.VERIFIED, timeout_s=120)
    assert done.evidence == 3
    assert len(world.calls(ACTION)) == 3
    record = await world.record(JOB)
    made = [(each.action, each.target, each.outcome) for each in record.attempts]
    assert made[0] == ("TerminateJob", JOB, "accepted")
    assert made[1:] == [(ACTION, f"task-0/{index}", "accepted") for index in (97, 98, 99)]


async def test_nothing_is_escalated_while_the_drain_makes_progress(world: PartitionWorld) -> None:
    await terminate_with_stragglers(world, JOB, instances=100, drain_s=600.0)
    await step_until(world, lambda t: t.state is State.SETTLING, timeout_s=700)
    assert world.calls(ACTION) == []


async def test_a_few_of_many_stop_as_fast_as_the_quota_allows(database: Database) -> None:
    world = PartitionWorld(database, quotas=SLOW)
    await terminate_with_stragglers(world, JOB, instances=20_000, stuck=40)
    escalated = await until_level(world, EscalationLevel.INSTANCES)
    assert escalated.escalation.started_at is not None
    await step_until(world, lambda t: t.state is State.SETTLING, timeout_s=60, step_s=0.25)
    first, *_, last = (call.at for call in world.calls(ACTION))
    assert len(world.calls(ACTION)) == 40
    assert last - first <= 1.1 * 40 / 2
    assert first - escalated.escalation.started_at.timestamp() <= 2.0


async def test_instances_that_ignore_all_calls_are_left_to_manual_action_and_named(
    world: PartitionWorld,
) -> None:
    await terminate_with_stragglers(world, JOB, instances=10, immortal=2)
    left = await until_level(world, EscalationLevel.MANUAL, timeout_s=600)
    assert left.escalation.round == EscalationPolicy().rounds_max
    assert len(world.calls(ACTION)) == 2 * left.escalation.round
    await step_until(
        world,
        lambda t: bool(
            t.captures.rescanned_at
            and t.escalation.started_at
            and t.captures.rescanned_at >= t.escalation.started_at
        ),
        timeout_s=30,
    )
    live = [each for each in await world.instances(JOB) if each.state == JobState.RUNNING]
    assert [each.index for each in live] == [8, 9]
    given_up = await step_until(
        world, lambda t: t.state is State.UNVERIFIED, timeout_s=4000, step_s=30
    )
    assert len(world.calls(ACTION)) == 2 * given_up.escalation.round


async def test_machines_of_instances_that_ignore_all_calls_are_ended_where_that_is_allowed(
    database: Database,
) -> None:
    policy = EscalationPolicy(rounds_max=1, machines=True)
    world = PartitionWorld(database, quotas=AMPLE, escalation=policy)
    await terminate_with_stragglers(world, JOB, instances=10, immortal=2)
    await until_level(world, EscalationLevel.MACHINES, timeout_s=600)
    assert [len(world.calls(action)) for action in (ACTION, MACHINES)] == [2, 0]
    done = await step_until(world, lambda t: t.state is State.VERIFIED, timeout_s=600)
    assert done.escalation.level is EscalationLevel.MACHINES
    record = await world.record(JOB)
    ended = [each.target for each in record.attempts if each.action == MACHINES]
    assert ended == [each.machine_id for each in await world.instances(JOB) if each.index > 7]
    assert len(ended) == len(world.calls(MACHINES)) == 2


async def test_a_level_without_a_permit_does_not_delay_the_other(database: Database) -> None:
    world = PartitionWorld(database, quotas=SLOW, escalation=EscalationPolicy(machines=True))
    jobs = job_ids(2)
    await terminate_with_stragglers(world, *jobs, instances=50, immortal=20)
    for job_id in jobs:
        await step_until(
            world,
            lambda t: t.escalation.level is EscalationLevel.INSTANCES,
            timeout_s=120,
            job_id=job_id,
        )
    await store_fields(
        database, await world.termination(jobs[1]), escalation_level=EscalationLevel.MACHINES
    )
    for _ in range(2):
        await world.capture()
    before = len(world.calls(ACTION))
    for _ in range(4):
        await world.escalator.step()
    assert await world.escalator.calls.drain(HANG_S) is True
    assert len(world.calls(ACTION)) - before <= SLOW[ACTION]
    assert len(world.calls(MACHINES)) >= 2


async def test_no_rounds_means_no_calls(database: Database) -> None:
    world = PartitionWorld(database, quotas=AMPLE, escalation=EscalationPolicy(rounds_max=0))
    await terminate_with_stragglers(world, JOB, instances=10, stuck=1)
    await until_level(world, EscalationLevel.MANUAL)
    assert world.calls(ACTION) == []


async def test_a_call_that_was_throttled_is_made_again_in_the_same_round(
    database: Database,
) -> None:
    world = PartitionWorld(database, quotas=AMPLE, faults={ACTION: {"throttle": {"first_n": 2}}})
    await terminate_with_stragglers(world, JOB, instances=10, stuck=1)
    done = await step_until(world, lambda t: t.state is State.VERIFIED, timeout_s=240)
    assert done.escalation.round == 1
    assert await outcomes(world, ACTION) == ["throttled", "throttled", "accepted"]


async def test_an_attempt_of_a_dead_process_is_closed_and_the_round_continues(
    world: PartitionWorld,
) -> None:
    await terminate_with_stragglers(world, JOB, instances=10, immortal=1)
    await until_level(world, EscalationLevel.INSTANCES)
    await start_attempt(world)
    world.start()
    world.clock.advance(1)
    await step_until(world, lambda t: t.escalation.round == 2, timeout_s=120)
    assert (await outcomes(world, ACTION))[0] == "interrupted"


async def test_such_an_attempt_is_closed_too_where_the_job_has_stopped_by_then(
    database: Database,
) -> None:
    world = PartitionWorld(database, quotas=AMPLE)
    await terminate_with_stragglers(world, JOB, instances=10, stuck=1)
    await until_level(world, EscalationLevel.INSTANCES)
    await start_attempt(world)
    await store_fields(database, await world.termination(JOB), state=State.SETTLING)
    world.start()
    await world.escalator.step()
    assert await world.outcomes(JOB) == ["accepted", "interrupted"]


async def test_so_is_one_whose_answer_could_not_be_written(
    world: PartitionWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await terminate_with_stragglers(world, JOB, instances=10, stuck=1)
    await until_level(world, EscalationLevel.INSTANCES)
    for _ in range(2):
        await world.capture()

    async def full(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("full")

    with monkeypatch.context() as patched:
        patched.setattr(world.store.instances, "close_attempt", full)
        await world.escalate()
    world.clock.advance(1)
    await world.escalate()
    assert await world.outcomes(JOB) == ["accepted", "interrupted"]
    assert (await world.termination(JOB)).escalation.finished_at is not None


async def test_a_call_that_is_forbidden_ends_its_round_and_is_logged_once(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    world = PartitionWorld(database, quotas=SLOW)
    await terminate_with_stragglers(world, JOB, instances=100, stuck=40)
    world.simulator.forbidden_actions = frozenset({ACTION})
    left = await until_level(world, EscalationLevel.MANUAL, timeout_s=900)
    assert left.escalation.round == 3
    assert await outcomes(world, ACTION) == 3 * ["unauthorized"]
    assert caplog.text.count("TerminateTaskInstance is refused") == 1


async def test_one_machine_that_may_not_be_ended_keeps_no_other_up(database: Database) -> None:
    """Unlike Batch, CVM authorises its actions machine by machine."""
    policy = EscalationPolicy(rounds_max=1, machines=True)
    world = PartitionWorld(database, quotas=AMPLE, escalation=policy)
    await terminate_with_stragglers(world, JOB, instances=10, immortal=2)
    world.simulator.forbidden_actions = frozenset({MACHINES})
    await until_level(world, EscalationLevel.MANUAL, timeout_s=900)
    assert await outcomes(world, MACHINES) == 2 * ["unauthorized"]


async def test_unreadable_instances_are_left_to_manual_action_without_a_call(
    world: PartitionWorld, caplog: pytest.LogCaptureFixture
) -> None:
    await terminate_with_stragglers(world, JOB, instances=100, stuck=3)
    world.simulator.forbidden_actions = frozenset({"DescribeTask"})
    left = await until_level(world, EscalationLevel.MANUAL, timeout_s=900)
    assert left.escalation.round == 3
    assert world.calls(ACTION) == []
    assert caplog.text.count(f"the live instances of job {JOB} cannot be read: Unauthorized") == 3


async def test_terminations_take_turns_by_when_their_round_began(database: Database) -> None:
    world = PartitionWorld(database, quotas=QUOTAS)
    one, two = job_ids(2)
    await terminate_with_stragglers(world, one, two, instances=10, stuck=2)
    await step_until(
        world, lambda t: t.state is State.SETTLING, timeout_s=300, job_id=two, step_s=0.5
    )
    assert [call.job_ids[0] for call in world.calls(ACTION)] == [one, one, two, two]


SHOWN = {
    "FAILED": {},
    "RUNNING, nothing pending": {"failed_early_s": 0.0, "next_action_hidden": True},
}
"""State of the job with stragglers, beside its counters."""


@pytest.mark.parametrize("shown", SHOWN.values(), ids=SHOWN)
@pytest.mark.parametrize("deadline_s", [15.0, 60.0])
async def test_stragglers_are_called_one_by_one_before_a_short_deadline(
    world: PartitionWorld, deadline_s: float, shown: dict[str, Any]
) -> None:
    """No client reads the operation."""
    asked = {"give_up_after_s": deadline_s, "settle_s": 1.0}
    job = {"instances": 10, "stuck": 6, "drain_s": 0.1, "instance_drain_s": 0.1}
    await terminate_with_stragglers(world, JOB, asked=asked, **job, **shown)
    first_call_at = world.calls("TerminateJob")[0].at
    done = await step_until(
        world, lambda t: t.state.final, timeout_s=2 * deadline_s, step_s=deadline_s / 150
    )
    assert done.state is State.VERIFIED
    made_at = [call.at - first_call_at for call in world.calls(ACTION)]
    assert len(made_at) == 6
    assert made_at[-1] <= 0.4 * deadline_s
    again_at = [call.at - first_call_at for call in world.calls("TerminateJob")[1:]]
    assert bool(again_at) == bool(shown), "made again where nothing is pending"
    assert all(at < made_at[0] for at in again_at[:1])


@pytest.mark.parametrize(("jobs", "deadline_s"), [(1, 30.0), (8, 60.0)])
async def test_instances_that_ignore_all_calls_are_left_to_manual_action_before_a_short_deadline(
    database: Database, jobs: int, deadline_s: float
) -> None:
    """Every round comes before that, and the termination of its machines: nodes, which stay."""
    policy = EscalationPolicy(machines=True)
    world = PartitionWorld(database, quotas=AMPLE, escalation=policy)
    *others, job_id = job_ids(jobs)
    job = {"instances": 10, "immortal": 1, "drain_s": 0.1, "env_id": "env-example1"}
    await terminate_with_stragglers(
        world, *others, job_id, asked={"give_up_after_s": deadline_s}, **job
    )
    last_sent_at = world.calls("TerminateJob")[-1].at
    left = await step_until(
        world,
        lambda t: t.escalation.level is EscalationLevel.MANUAL,
        timeout_s=deadline_s,
        step_s=0.25,
        job_id=job_id,
    )
    assert left.escalation.round == policy.rounds_max
    assert left.escalation.started_at is not None
    assert left.escalation.started_at.timestamp() - last_sent_at <= deadline_s * 2 / 3
    assert world.calls(MACHINES) == []
