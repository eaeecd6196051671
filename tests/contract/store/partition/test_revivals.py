"""Jobs watched for a revival, and the operations that terminate them again, as stored."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text, update

from orchestrator.domain.audit.caveats import REVIVED
from orchestrator.domain.audit.certificate_verification import verify
from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.decisions.revival import check_counted, check_listed
from orchestrator.domain.errors import LeaseLost
from orchestrator.domain.leasing.leases import FencingToken
from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.termination import PollFilter, PollKind, Revival
from orchestrator.services.certification import Certification
from orchestrator.store import schema
from orchestrator.store.partition import clock_steps
from orchestrator.store.partition.lease_store import SqlLeaseStore
from orchestrator.store.partition.partition_store import PartitionStore
from orchestrator.store.records.operation_history import SqlHistories
from tests.support.operation_records import operation_record
from tests.support.stored_operations import PARTITION, SUBMISSION, due_for_batch_poll, only, submit
from tests.unit.domain.build import LIVE, NOW, POLICY, batch_read, later, read

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.domain.model.batch_job import JobSeen
    from orchestrator.domain.model.termination import Termination
    from orchestrator.services.ports import TerminationRecord
    from orchestrator.store.database.database import Database
    from orchestrator.store.records.queries import SqlRecords

KEPT: dict[str, Any] = {"revival_watch_s": 3600.0, "reterminate_for_s": 600.0}


def ids() -> Callable[[str], str]:
    made = iter(range(100, 1000))
    return lambda prefix: f"{prefix}_{next(made)}"


NEW_ID = ids()


async def end(store: PartitionStore, at: float = 0.0) -> None:
    """Find all live jobs finished."""
    stopped = read(JobState.FAILED)
    live = await compared(store, at)
    await store.apply(
        [(each, decide(each, stopped, later(at), POLICY)) for each in live], later(at)
    )


async def compared(store: PartitionStore, at: float = 0.0) -> list[Termination]:
    """Compare all live jobs once their submitted definition is known."""
    live = await due_for_batch_poll(store, 10)
    changes = [(each, decide(each, SUBMISSION, later(at), POLICY)) for each in live]
    await store.apply(changes, later(at))
    kind = PollFilter(PollKind.SINGLE)
    return (await store.next_polls(later(at), 10, kind))[kind]


async def check(
    store: PartitionStore, seen: JobSeen | None, at: float, *, reterminate_max: int = 3
) -> None:
    """Check all watched terminations: this was observed; jobs to be counted have stopped."""
    found, now = await store.due_for_revival_check(later(at), 100), later(at)
    made = [check_listed(each, seen and replace(seen, observed_at=now), now) for each in found]
    stopped = read(JobState.FAILED, at=now)
    made = [check_counted(each.termination, stopped, now) if each.count else each for each in made]
    await store.record_revival_checks(made, now, reterminate_max=reterminate_max, new_id=NEW_ID)


async def stored(records: SqlRecords, job_id: str = "job-1") -> list[TerminationRecord]:
    return await records.terminations(after=0, limit=100, job_id=job_id)


async def test_a_stopped_job_is_watched_from_its_end_on(
    store: PartitionStore, records: SqlRecords
) -> None:
    await submit(records, 1, "job-1", revival_watch_s=60.0)
    assert await store.due_for_revival_check(later(100), 10) == []
    await end(store, 3)
    assert await store.due_for_revival_check(later(2.9), 10) == []
    (found,) = await store.due_for_revival_check(later(3), 10)
    assert (found.state, found.watch.checked_at) == (State.ALREADY_FINISHED, later(3))
    await check(store, batch_read(JobState.FAILED), 40)
    assert await store.due_for_revival_check(later(39), 10) == []
    (found,) = await store.due_for_revival_check(later(40), 10)
    await check(store, batch_read(JobState.FAILED), 70)
    assert await store.due_for_revival_check(later(9999), 10) == []


async def test_unwatched_jobs_and_jobs_that_did_not_stop_are_not_watched(
    store: PartitionStore, records: SqlRecords
) -> None:
    await submit(records, 1, "job-1")
    await end(store)
    await submit(records, 2, "job-2", **KEPT)
    before = await only(store)
    missing = replace(
        before,
        state=State.NOT_FOUND,
        revision=1,
        schedule=replace(before.schedule, next_poll_at=None),
        finished_at=NOW,
    )
    decision = replace(decide(before, read(JobState.FAILED), NOW, POLICY), after=missing)
    await store.apply([(before, replace(decision, event="seen_missing"))], NOW)  # type: ignore[arg-type]
    assert (await stored(records, "job-2"))[0].termination.state is State.NOT_FOUND
    assert await store.due_for_revival_check(later(9999), 10) == []


async def test_a_watch_requested_as_the_job_ends_is_kept(
    store: PartitionStore, records: SqlRecords
) -> None:
    """The poll that ends it came before the request, so the job is polled again."""
    await submit(records, 1, "job-1")
    (before,) = await compared(store)
    await submit(records, 2, "job-1", **KEPT)
    stopped = decide(before, read(JobState.FAILED), NOW, POLICY)
    assert await store.apply([(before, stopped)], NOW) == 0
    await end(store)
    assert len(await store.due_for_revival_check(NOW, 10)) == 1


async def test_those_of_one_region_are_found_the_longest_ago_first(
    store: PartitionStore, records: SqlRecords
) -> None:
    here, elsewhere = "ap-guangzhou", "ap-shanghai"
    for number, region in enumerate((here, elsewhere, here, here), start=1):
        await submit(records, number, f"job-{number}", revival_watch_s=60.0, region=region)
        await end(store, 10 - number)
    found = await store.due_for_revival_check(later(100), 10)
    assert [each.job_id for each in found] == ["job-4", "job-3", "job-1"]
    assert [each.job_id for each in await store.due_for_revival_check(later(100), 2)] == [
        "job-4",
        "job-3",
    ]


async def test_only_what_is_due_is_read(database: Database) -> None:
    """By an index that holds only the watched terminations."""
    async with database.read() as connection:
        if connection.dialect.name != "sqlite":
            pytest.skip("a small table is read whole there")
        plan = await connection.execute(
            text(
                "EXPLAIN QUERY PLAN SELECT * FROM terminations WHERE partition = 'p'"
                " AND revival_checked_at <= '2026' ORDER BY revival_checked_at LIMIT 100"
            )
        )
        (step,) = plan.all()
    assert "USING INDEX ix_terminations_revival (partition=? AND" in step.detail


async def test_a_revival_is_recorded_in_the_chain_and_in_the_certificate(
    database: Database, store: PartitionStore, records: SqlRecords
) -> None:
    operation_id = await submit(records, 1, "job-1", revival_watch_s=60.0)
    await end(store)
    await check(store, batch_read(JobState.RUNNING), 30)
    (record,) = await stored(records)
    assert record.termination.watch.revival == Revival(at=later(30), job_state=JobState.RUNNING)
    assert await store.due_for_revival_check(later(9999), 10) == []
    events = await records.events(
        after=0, limit=10, operation_id=None, termination_id=record.termination.id
    )
    assert [event.type for event in events] == ["accepted", "seen_stopped", REVIVED]
    assert (events[-1].to_state, events[-1].evidence) == (None, None)
    certificates = Certification(histories=SqlHistories(database), now=lambda: later(99))
    made = await certificates.issue(operation_id)
    assert verify(made.data) == []
    assert b"NOT STOPPED FOR GOOD: 1 revived after the end" in made.data
    assert b"that it stayed stopped: it was observed running again at" in made.data


async def test_an_ended_revival_is_certified_too(
    database: Database, store: PartitionStore, records: SqlRecords
) -> None:
    operation_id = await submit(records, 1, "job-1", **KEPT)
    before = await only(store)
    for seen in (batch_read(JobState.FAILED, end_time="E1"), SUBMISSION, read(JobState.FAILED)):
        decision = decide(before, seen, NOW, POLICY)
        await store.apply([(before, decision)], NOW)
        before = decision.after
    for at in (30, 60):
        await check(store, batch_read(JobState.FAILED, end_time="E2"), at)
    (record,) = await stored(records)
    assert record.termination.watch.revival == Revival(
        at=later(30), job_state=JobState.FAILED, job_end_time="E2"
    )
    assert record.termination.watch.checked_at == later(60)
    certificates = Certification(histories=SqlHistories(database), now=lambda: later(99))
    made = await certificates.issue(operation_id)
    assert verify(made.data) == []
    assert made.data.count(b"it had run again and ended when it was observed at") == 1


async def test_a_clock_that_was_set_back_extends_no_revival_watch(
    store: PartitionStore, records: SqlRecords
) -> None:
    await submit(records, 1, "job-1", **KEPT)
    await end(store, 1000)
    (watched,) = await store.due_for_revival_check(later(2000), 10)
    seen = check_listed(watched, batch_read(JobState.RUNNING, at=later(10)), later(10))
    await store.record_revival_checks([seen], later(10), reterminate_max=3, new_id=NEW_ID)
    _, new = await stored(records)
    operation = await operation_record(records, new.operation_ids[0])
    assert operation is not None
    assert operation.reterminate_for_s == 600.0


@pytest.mark.parametrize("by_s", [8 * 3600, -8 * 3600])
async def test_a_step_of_the_clock_leaves_the_time_to_terminate_again_as_it_was(
    store: PartitionStore, records: SqlRecords, database: Database, by_s: int
) -> None:
    await submit(records, 1, "job-1", **KEPT)
    await end(store, 10)
    always_live = update(schema.clock_steps).values(away_s=0, steps_s=by_s)
    await database.write(lambda transaction: transaction.execute(always_live))
    await database.write(partial(clock_steps.follow, partition=PARTITION, steps_s=by_s))
    await check(store, batch_read(JobState.RUNNING), by_s + 110)
    _, new = await stored(records)
    operation = await operation_record(records, new.operation_ids[0])
    assert operation is not None
    assert operation.reterminate_for_s == 500.0


async def test_a_revived_job_is_terminated_again_for_the_longest_request(
    store: PartitionStore, records: SqlRecords
) -> None:
    await submit(records, 1, "job-1", revival_watch_s=3600.0)
    await submit(records, 2, "job-1", **KEPT, requested_by="you", reason="stay away")
    await submit(records, 3, "job-1", **KEPT | {"reterminate_for_s": 60.0})
    await end(store, 10)
    await check(store, batch_read(JobState.RUNNING), 110)
    old, new = await stored(records)
    revival = old.termination.watch.revival
    assert revival is not None
    assert new.operation_ids == (revival.reterminated_by,)
    operation = await operation_record(records, new.operation_ids[0])
    assert operation is not None
    assert (operation.requested_by, operation.reason) == (
        "you",
        "terminated again for op_2: stay away",
    )
    assert (operation.reterminates_for, operation.reterminate_for_s) == ("op_2", 500.0)
    assert operation.created_at == later(110)
    again = new.termination
    assert (again.state, again.schedule.next_poll_at) == (State.QUEUED, later(110))
    assert again.request.revival_watch_s == 3600.0
    assert again.request == replace(old.termination.request, created_at=later(110))
    same = ("account", "region", "partition")
    assert [getattr(again, name) for name in same] == [
        getattr(old.termination, name) for name in same
    ]


async def test_an_instance_that_runs_again_under_a_finished_job_is_terminated_as_well(
    store: PartitionStore, records: SqlRecords
) -> None:
    await submit(records, 1, "job-1", **KEPT)
    await end(store)
    counted = read(JobState.FAILED, LIVE, at=later(10))
    checks = [
        check_counted(each, counted, later(10))
        for each in await store.due_for_revival_check(later(10), 10)
    ]
    await store.record_revival_checks(checks, later(10), reterminate_max=3, new_id=NEW_ID)
    old, new = await stored(records)
    assert old.termination.watch.revival == Revival(
        at=later(10),
        job_state=JobState.FAILED,
        instances_live=LIVE.live,
        reterminated_by=new.operation_ids[0],
    )


async def test_a_job_is_terminated_again_up_to_the_limit(
    store: PartitionStore, records: SqlRecords
) -> None:
    await submit(records, 1, "job-1", **KEPT)
    for number in range(3):
        await end(store, 100 * number)
        await check(store, batch_read(JobState.RUNNING), 100 * number + 10, reterminate_max=2)
    found = [record.termination for record in await stored(records)]
    assert len(found) == 3
    assert [each.watch.revival and each.watch.revival.limit_reached for each in found] == [
        False,
        False,
        True,
    ]
    # A person's own request restarts it.
    await submit(records, 9, "job-1", **KEPT)
    await end(store, 400)
    await check(store, batch_read(JobState.RUNNING), 410, reterminate_max=2)
    assert len(await stored(records)) == 5


@pytest.mark.parametrize(
    ("asked", "at", "reterminate_max"),
    [({"revival_watch_s": 3600.0}, 10, 3), (KEPT, 600, 3), (KEPT, 599, 0)],
)
async def test_no_job_is_terminated_again_unasked_or_too_late(
    store: PartitionStore, records: SqlRecords, asked: dict[str, Any], at: int, reterminate_max: int
) -> None:
    await submit(records, 1, "job-1", **asked)
    await end(store)
    await check(store, batch_read(JobState.RUNNING), at, reterminate_max=reterminate_max)
    (record,) = await stored(records)
    assert record.termination.watch.revival is not None
    assert record.termination.watch.revival.reterminated_by is None
    assert record.termination.watch.revival.limit_reached == (reterminate_max == 0)


async def test_an_observation_written_twice_terminates_it_once(
    store: PartitionStore, records: SqlRecords
) -> None:
    """This happens if a commit was applied although it raised an error."""
    await submit(records, 1, "job-1", **KEPT)
    await end(store)
    found = await store.due_for_revival_check(later(10), 10)
    runs = batch_read(JobState.RUNNING, at=later(10))
    checks = [check_listed(each, runs, later(10)) for each in found]
    for _ in range(2):
        await store.record_revival_checks(checks, later(10), reterminate_max=3, new_id=NEW_ID)
    assert len(await stored(records)) == 2
    (old, _) = await stored(records)
    events = await records.events(
        after=0, limit=10, operation_id=None, termination_id=old.termination.id
    )
    assert [event.type for event in events].count(REVIVED) == 1


async def test_a_revived_job_that_was_submitted_again_is_shared(
    store: PartitionStore, records: SqlRecords
) -> None:
    await submit(records, 1, "job-1", **KEPT)
    await end(store)
    await submit(records, 2, "job-1", not_before=later(9999))
    await check(store, batch_read(JobState.RUNNING), 10)
    old, live = await stored(records)
    revival = old.termination.watch.revival
    assert revival is not None
    assert set(live.operation_ids) == {"op_2", revival.reterminated_by}
    assert live.termination.request.revival_watch_s == 3600.0
    assert live.termination.schedule.next_poll_at == later(10), "the earlier start"


async def test_nothing_is_written_for_a_partition_that_has_passed_on(
    database: Database, store: PartitionStore, records: SqlRecords
) -> None:
    await submit(records, 1, "job-1", **KEPT)
    await end(store)
    found = await store.due_for_revival_check(later(10), 10)
    runs = batch_read(JobState.RUNNING, at=later(10))
    checks = [check_listed(each, runs, later(10)) for each in found]
    stale = PartitionStore(database, FencingToken(PARTITION, 0))
    with pytest.raises(LeaseLost):
        await stale.record_revival_checks(checks, later(10), reterminate_max=3, new_id=NEW_ID)
    (record,) = await stored(records)
    assert record.termination.watch.revival is None


async def test_a_watched_job_goes_along_to_another_host(
    database: Database, store: PartitionStore, records: SqlRecords
) -> None:
    await submit(records, 1, "job-1", **KEPT)
    await submit(records, 2, "job-2")
    await end(store)
    await SqlLeaseStore(database).reassign_region(
        account="main", region="ap-guangzhou", partition="main@new"
    )
    assert [
        (await stored(records, job))[0].termination.partition for job in ("job-1", "job-2")
    ] == ["main@new", PARTITION]


async def test_revived_jobs_are_counted_and_listed(
    store: PartitionStore, records: SqlRecords
) -> None:
    operation_id = await submit(records, 1, "job-1", "job-2", revival_watch_s=60.0)
    await end(store)
    found = await store.due_for_revival_check(later(10), 10)
    runs = batch_read(JobState.RUNNING, at=later(10))
    shown = {"job-2": runs}
    checks = [check_listed(each, shown.get(each.job_id), later(10)) for each in found]
    await store.record_revival_checks(checks, later(10), reterminate_max=3, new_id=NEW_ID)
    operation = await operation_record(records, operation_id)
    assert operation is not None
    assert operation.revived == 1
    for revived, job_id in ((True, "job-2"), (False, "job-1")):
        (listed,) = await records.terminations(
            after=0, limit=10, operation_id=operation_id, revived=revived
        )
        assert listed.termination.job_id == job_id
