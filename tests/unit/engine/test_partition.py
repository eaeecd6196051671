"""State that the loops of a partition share: its published health, and its pace."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from orchestrator.domain.decisions.decision import Decision
from orchestrator.domain.errors import CloudError, CloudErrorKind
from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.domain.model.lifecycle import Event
from orchestrator.domain.model.termination import PollKind
from orchestrator.engine.partition import DEGRADED_AFTER_FAILURES, FORBIDDEN_FOR_S
from orchestrator.engine.runtime.recently_viewed import RecentlyViewed
from tests.support.partition_world import AMPLE, JOB, PARTITION, POLL, PartitionWorld, job_ids
from tests.unit.domain.build import termination

if TYPE_CHECKING:
    from orchestrator.store.database.database import Database

PASSING = [CloudErrorKind.NOT_SENT, CloudErrorKind.OUTCOME_UNKNOWN]
LASTING = [CloudErrorKind.CREDENTIAL, CloudErrorKind.CLOCK_SKEW]
FORBIDDEN = CloudErrorKind.UNAUTHORIZED
THE_JOBS_OWN = [kind for kind in CloudErrorKind if kind not in PASSING + LASTING]


def error(kind: CloudErrorKind, code: str = "Some.Code") -> CloudError:
    return CloudError(kind, code, "what happened", advice="do this")


PUBLISHED = ErrorDetail(code="Some.Code", message="what happened", advice="do this")


@pytest.fixture
async def world(database: Database) -> PartitionWorld:
    """Return a world with one job."""
    world = PartitionWorld(database, quotas=AMPLE)
    world.cloud_runs(JOB)
    await world.submit(JOB)
    return world


async def published(world: PartitionWorld) -> ErrorDetail | None:
    """Return the published trouble."""
    stored = (await world.record(JOB)).trouble
    assert world.partition.trouble == stored
    return stored


# --- outages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PASSING)
async def test_the_third_failure_in_a_row_degrades_the_health(
    world: PartitionWorld, kind: CloudErrorKind
) -> None:
    for _ in range(2):
        await world.record_result(error(kind))
        assert await published(world) is None
    await world.record_result(error(kind))
    assert await published(world) == PUBLISHED


@pytest.mark.parametrize("kind", LASTING)
async def test_an_error_that_the_next_call_will_meet_too_degrades_the_health_at_once(
    world: PartitionWorld, kind: CloudErrorKind
) -> None:
    await world.record_result(error(kind))
    assert await published(world) == PUBLISHED


@pytest.mark.parametrize("between", [None, *THE_JOBS_OWN])
async def test_failures_are_in_a_row_only_with_no_answer_between_them(
    world: PartitionWorld, between: CloudErrorKind | None
) -> None:
    for _ in range(2):
        await world.record_result(error(CloudErrorKind.NOT_SENT))
        await world.record_result(error(CloudErrorKind.OUTCOME_UNKNOWN))
        assert await published(world) is None
        await world.record_result(error(between) if between else None)


@pytest.mark.parametrize("kind", [k for k in THE_JOBS_OWN if k is not FORBIDDEN])
async def test_an_error_of_one_job_does_not_degrade_the_health(
    world: PartitionWorld, kind: CloudErrorKind
) -> None:
    for _ in range(5):
        await world.record_result(error(kind))
    assert await published(world) is None


@pytest.mark.parametrize("answer", [None, *THE_JOBS_OWN])
async def test_any_answer_restores_the_health(
    world: PartitionWorld, answer: CloudErrorKind | None
) -> None:
    await world.record_result(error(CloudErrorKind.CREDENTIAL))
    await world.record_result(error(answer) if answer else None)
    assert await published(world) is None


async def test_a_failure_of_another_kind_replaces_the_one_before(world: PartitionWorld) -> None:
    for code in ("First.Code", "Second.Code"):
        await world.record_result(error(CloudErrorKind.CREDENTIAL, code))
        assert await published(world) == replace(PUBLISHED, code=code)


async def test_degraded_health_is_logged_when_it_begins_and_when_it_ends(
    world: PartitionWorld, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(10):
        await world.record_result(error(CloudErrorKind.NOT_SENT))
    for _ in range(3):
        await world.record_result(None)
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("ERROR", f"API calls of {PARTITION} fail: Some.Code: what happened: do this"),
        ("WARNING", f"API calls of {PARTITION} work again"),
    ]


async def test_failures_that_alternate_are_logged_once_each(
    world: PartitionWorld, caplog: pytest.LogCaptureFixture
) -> None:
    for code in ("First.Code", "Second.Code") * 3:
        await world.record_result(error(CloudErrorKind.CREDENTIAL, code))
    assert [r.levelname for r in caplog.records] == ["ERROR", "ERROR"]
    await world.record_result(None)
    await world.record_result(error(CloudErrorKind.CREDENTIAL, "First.Code"))
    assert [r.levelname for r in caplog.records][2:] == ["WARNING", "ERROR"]


# --- missing permissions -------------------------------------------------------------------------


def not_allowed(action: str) -> ErrorDetail:
    return replace(PUBLISHED, message=f"{action} of {PARTITION}: what happened")


async def test_the_third_refusal_of_an_action_in_a_row_degrades_the_health(
    world: PartitionWorld,
) -> None:
    for _ in range(DEGRADED_AFTER_FAILURES - 1):
        await world.record_result(error(FORBIDDEN), "DescribeTask")
        assert await published(world) is None
    await world.record_result(error(FORBIDDEN), "DescribeTask")
    assert await published(world) == not_allowed("DescribeTask")


async def test_each_action_has_its_own_row_of_refusals(world: PartitionWorld) -> None:
    """Calls of other actions neither lengthen nor interrupt a series."""
    for _ in range(DEGRADED_AFTER_FAILURES - 1):
        await world.record_result(error(FORBIDDEN), "DescribeTask")
        await world.record_result(error(FORBIDDEN), "DescribeJob")
        await world.record_result(None, "DescribeJobs")
    assert await published(world) is None
    await world.record_result(error(FORBIDDEN), "DescribeTask")
    await world.record_result(None, "DescribeJob")
    assert await published(world) == not_allowed("DescribeTask")


async def test_an_action_that_works_once_has_no_row_of_refusals(world: PartitionWorld) -> None:
    """Permission was missing for one job only."""
    for _ in range(3):
        for _ in range(DEGRADED_AFTER_FAILURES - 1):
            await world.record_result(error(FORBIDDEN))
        await world.record_result(None)
        assert await published(world) is None


@pytest.mark.parametrize("kind", [*PASSING, *(k for k in THE_JOBS_OWN if k is not FORBIDDEN)])
async def test_a_failure_of_another_kind_does_not_show_that_an_action_is_allowed(
    world: PartitionWorld, kind: CloudErrorKind
) -> None:
    for _ in range(DEGRADED_AFTER_FAILURES):
        await world.record_result(error(FORBIDDEN))
        await world.record_result(error(kind))
    assert await published(world) == not_allowed("DescribeJob")


async def test_a_permission_that_lacks_is_logged_when_it_is_missed_and_when_it_is_there_again(
    world: PartitionWorld, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(10):
        await world.record_result(error(FORBIDDEN))
    assert await published(world) == not_allowed("DescribeJob")
    for _ in range(3):
        await world.record_result(None)
        assert await published(world) is None
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("ERROR", f"DescribeJob of {PARTITION} is not allowed: Some.Code: what happened: do this"),
        ("WARNING", f"DescribeJob of {PARTITION} is allowed again"),
    ]


async def test_an_action_that_is_no_longer_called_is_reported_as_forbidden_for_a_while_only(
    world: PartitionWorld,
) -> None:
    for _ in range(DEGRADED_AFTER_FAILURES):
        await world.record_result(error(FORBIDDEN), "DescribeTask")
    world.clock.advance(FORBIDDEN_FOR_S - 1)
    await world.record_result(None, "DescribeJob")
    assert await published(world) == not_allowed("DescribeTask")
    world.clock.advance(1)
    await world.record_result(None, "DescribeJob")
    assert await published(world) is None
    await world.record_result(error(FORBIDDEN), "DescribeTask")
    assert await published(world) == not_allowed("DescribeTask")


async def test_an_unreachable_cloud_is_reported_before_a_missing_permission(
    world: PartitionWorld,
) -> None:
    for _ in range(DEGRADED_AFTER_FAILURES):
        await world.record_result(error(FORBIDDEN))
    await world.record_result(error(CloudErrorKind.CREDENTIAL), "DescribeJobs")
    assert await published(world) == PUBLISHED
    await world.record_result(None, "DescribeJobs")
    assert await published(world) == not_allowed("DescribeJob")


async def test_an_account_that_may_not_terminate_is_reported(database: Database) -> None:
    faults = {"TerminateJob": {"forbidden": {"first_n": 3}}}
    world = PartitionWorld(database, quotas=AMPLE, faults=faults)
    jobs = job_ids(5)
    await world.ready(*jobs)
    for _ in range(3):
        assert (await world.record(jobs[-1])).trouble is None
        await world.dispatch()
        world.clock.advance(0.5)
    trouble = (await world.record(jobs[-1])).trouble
    assert trouble is not None
    assert trouble.code == "UnauthorizedOperation"
    assert trouble.message.startswith(f"TerminateJob of {PARTITION}: ")
    await world.dispatch()
    assert (await world.record(jobs[-1])).trouble is None


# --- outages met by the loops --------------------------------------------------------------------


async def test_a_wrong_clock_is_reported_by_whichever_loop_meets_it(database: Database) -> None:
    world = PartitionWorld(database)
    await world.ready(JOB)
    world.cloud_ahead_s = 412.0
    await world.dispatch()
    trouble = await published(world)
    assert trouble is not None
    assert trouble.code == "AuthFailure.SignatureExpire"
    world.cloud_ahead_s = 0.0
    world.clock.advance(1)
    await world.job_poller.step()
    assert await published(world) is None


@pytest.mark.parametrize("loop", ["job_terminator", "job_poller", "single_job_poller"])
async def test_a_call_that_works_restores_the_health_whichever_loop_made_it(
    database: Database, loop: str
) -> None:
    world = PartitionWorld(database)
    await world.ready(JOB)
    if loop != "job_terminator":
        poll_kind = PollKind.SINGLE if loop == "single_job_poller" else PollKind.BATCH
        await world.know(JOB, poll_kind=poll_kind, next_poll_at=world.clock.now())
    await world.record_result(error(CloudErrorKind.CREDENTIAL))
    steps = {
        "job_terminator": world.dispatch,
        "job_poller": world.job_poller.step,
        "single_job_poller": world.probe,
    }
    await steps[loop]()
    assert [call.code for call in world.simulator.calls] == ["OK"]
    assert await published(world) is None


async def test_the_rate_allowed_from_throttling_is_reported_until_throttling_ends(
    database: Database,
) -> None:
    world = PartitionWorld(database, faults={"TerminateJob": {"throttle": {"first_n": 5}}})
    (slowed, other) = job_ids(2)
    await world.ready(slowed, other)
    quota = world.partition.limiters["TerminateJob"].quota
    while len(world.calls("TerminateJob")) < 5:
        assert (await world.record(other)).allowed_per_s is None, "so few calls show nothing"
        world.clock.advance(await world.dispatch())
    reported_per_s = []
    while (allowed_per_s := (await world.record(other)).allowed_per_s) is not None:
        reported_per_s.append(allowed_per_s)
        world.clock.advance(0.5)
        await world.partition.publish_health()
    assert quota.allowed_per_s(world.clock.monotonic()) == pytest.approx(2, abs=0.05)
    assert reported_per_s[0] == 0.1
    assert reported_per_s == sorted(reported_per_s), "it climbs"
    assert len(set(reported_per_s)) == 19, "in steps: not every call writes it"


async def test_three_interrupted_calls_of_different_loops_degrade_the_health(
    database: Database,
) -> None:
    world = PartitionWorld(database, faults={"*": {"reset": 1.0}})
    await world.ready(JOB)
    await world.dispatch()
    await world.probe()
    assert await published(world) is None
    await world.submit(*job_ids(2)[1:])
    await world.job_poller.step()
    trouble = await published(world)
    assert trouble is not None
    assert trouble.code == "Client.Disconnected"
    assert [call.action for call in world.simulator.calls] == [
        "TerminateJob",
        "DescribeJob",
        "DescribeJobs",
    ]


# --- pace ----------------------------------------------------------------------------------------


def finishes(world: PartitionWorld, event: Event | None) -> None:
    for _ in range(60):
        world.partition.on_decision(termination(), Decision(after=termination(), event=event))


async def test_finishes_shorten_the_poll_interval_for_fifteen_seconds(database: Database) -> None:
    world = PartitionWorld(database)
    assert world.partition.policy().batch_interval_s == POLL.batch_max_interval_s
    finishes(world, Event.SEEN_STOPPED)
    assert world.partition.policy().batch_interval_s == POLL.batch_min_interval_s
    world.clock.advance(15)
    assert world.partition.policy().batch_interval_s == POLL.batch_min_interval_s
    world.clock.advance(0.001)
    assert world.partition.policy().batch_interval_s == POLL.batch_max_interval_s


@pytest.mark.parametrize("event", [None, *(e for e in Event if e is not Event.SEEN_STOPPED)])
async def test_nothing_else_counts_as_a_finish(database: Database, event: Event | None) -> None:
    world = PartitionWorld(database)
    finishes(world, event)
    assert world.partition.policy().batch_interval_s == POLL.batch_max_interval_s


async def test_reads_that_prove_jobs_stopped_shorten_the_poll_interval(database: Database) -> None:
    world = PartitionWorld(database, quotas=AMPLE)
    jobs = job_ids(10)
    world.cloud_runs(*jobs, state="FAILED")
    await world.submit(*jobs)
    before_s = world.partition.policy().batch_interval_s
    await world.job_poller.step()
    for _ in range(2):
        await world.probe()
    assert world.partition.policy().batch_interval_s < before_s


# --- watching ------------------------------------------------------------------------------------


async def test_an_operation_is_watched_for_ten_seconds_after_it_was_asked_for(
    database: Database,
) -> None:
    clock = PartitionWorld(database).clock
    watched = RecentlyViewed(clock)
    watched.record("op_1")
    clock.advance(4)
    watched.record("op_2")
    clock.advance(5.5)
    assert watched.operations() == ["op_1", "op_2"]
    clock.advance(1)
    assert watched.operations() == ["op_2"]
    watched.record("op_2")
    clock.advance(9.9)
    assert watched.operations() == ["op_2"]
    clock.advance(0.2)
    assert watched.operations() == []
