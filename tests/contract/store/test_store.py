"""Behaviour of terminations that every database must have."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.decisions.decision import Decision
from orchestrator.domain.decisions.invariants import Invariant
from orchestrator.domain.errors import (
    CloudError,
    CloudErrorKind,
    IdempotencyKeyReused,
    InvariantViolated,
    StoreUnavailable,
)
from orchestrator.domain.leasing.leases import FencingToken
from orchestrator.domain.model.attempt import AttemptResult, NewAttempt
from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.observation import (
    CallAcknowledged,
    CallStarted,
    JobUnlisted,
    ReadFailed,
    Withdrawn,
)
from orchestrator.domain.model.termination import PollKind
from orchestrator.engine.loops.job_poller import FIRST_POLLS, KINDS, WAITING_FOR_CALL
from orchestrator.engine.loops.single_job_poller import NEVER_READ_BY_TURN, PLANNED
from orchestrator.services.ports import LiveTerminations
from orchestrator.store import schema
from orchestrator.store.partition.lease_store import SqlLeaseStore
from orchestrator.store.partition.partition_store import PartitionStore
from tests.support.captures import found
from tests.support.operation_records import operation_record, operation_records
from tests.support.stored_operations import (
    PARTITION,
    SUBMISSION,
    due_for_batch_poll,
    only,
    operation,
    ready_to_call,
    start,
    submit,
)
from tests.support.termination_fields import store_fields, with_fields
from tests.unit.domain.build import LIVE, NOW, POLICY, batch_read, call_failed, later, read

if TYPE_CHECKING:
    from orchestrator.domain.model.observation import Observation
    from orchestrator.services.ports import TerminationRecord
    from orchestrator.store.database.database import Database
    from orchestrator.store.database.transaction import Transaction
    from orchestrator.store.records.queries import SqlRecords


async def test_a_termination_is_read_as_it_was_written(
    records: SqlRecords, store: PartitionStore
) -> None:
    await submit(records, 1, "job-1", not_before=later(7))
    before = await only(store)
    assert before.schedule.next_poll_at == later(7)
    seen = decide(replace(before, state=State.DRAINING), read(None), later(1), POLICY).after
    full = with_fields(
        seen,
        state=State.QUEUED,
        problem=ErrorDetail(code="C", message="m", advice="a"),
        give_up_at=later(9),
        terminate_after=later(2),
        job_end_time="E1",
    )
    await store.apply([(before, Decision(after=full))], NOW)
    (after,), _ = await store.ready_to_terminate(
        later(2), 10, capture_wait_s=0, captured_in_time=None
    )
    assert after == full


async def test_a_change_is_written_once_and_only_on_what_it_was_decided_on(
    records: SqlRecords, store: PartitionStore
) -> None:
    await submit(records, 1, "job-1")
    before = await only(store)
    withdrawn = decide(before, Withdrawn(), later(1), POLICY)
    assert await store.apply([(before, withdrawn)], later(1)) == 1
    assert await store.apply([(before, withdrawn)], later(1)) == 0
    polled = decide(before, batch_read(None), later(2), POLICY)
    await store.apply([(before, polled)], later(2))
    assert (await found(records, before.id)).state is State.WITHDRAWN
    recorded = await records.events(after=0, limit=10, operation_id=None, termination_id=before.id)
    assert [(e.type, e.from_state, e.to_state) for e in recorded] == [
        ("accepted", None, "queued"),
        ("withdrawn", "queued", "withdrawn"),
    ]


@pytest.mark.parametrize("run", [1, 2])
async def test_a_count_that_loses_against_a_batch_poll_is_kept_unless_the_job_ran_again(
    records: SqlRecords, store: PartitionStore, database: Database, run: int
) -> None:
    await submit(records, 1, "job-1")
    drains = {"state": State.DRAINING, "job_state": JobState.RUNNING, "run": 1, "evidence": 1}
    before = await store_fields(database, await only(store), **drains, observed_at=NOW)
    polled = decide(before, batch_read(JobState.FAILED, at=later(2)), later(2), POLICY)
    await store.apply([(before, polled)], later(2))
    await store_fields(database, polled.after, run=run)
    counted = decide(before, read(JobState.RUNNING, LIVE, at=later(1)), later(3), POLICY)
    await store.apply([(before, counted)], later(3))
    after = await found(records, before.id)
    assert (after.job, after.schedule) == (polled.after.job, polled.after.schedule)
    assert after.drain == (counted if run == 1 else polled).after.drain


async def test_an_attempt_is_written_with_the_move_and_found_until_it_is_answered(
    records: SqlRecords, store: PartitionStore
) -> None:
    await submit(records, 1, "job-1")
    ready = await ready_to_call(store)
    sending = await start(store, ready)
    assert await store.with_open_attempts() == [sending]
    assert (
        await store.start_attempt(
            ready,
            decide(ready, CallStarted(), NOW, POLICY),
            NewAttempt(action="TerminateJob", target="job-1", sent_at=NOW),
        )
        is None
    )
    accepted = decide(sending, CallAcknowledged("r1"), later(1), POLICY)
    await store.finish_attempt(
        sending, accepted, AttemptResult(at=later(1), outcome="accepted", request_id="r1")
    )
    assert await store.with_open_attempts() == []
    record = await records.termination(ready.id)
    assert record is not None
    assert record.termination == accepted.after
    assert [(a.number, a.outcome, a.request_id) for a in record.attempts] == [(1, "accepted", "r1")]


async def test_only_batch_polls_are_postponed(
    store: PartitionStore, records: SqlRecords, database: Database
) -> None:
    """A count that was planned meanwhile, as a proof or at the deadline, is made in time."""
    await submit(records, 1, "job-1", "job-2")
    first, second = await due_for_batch_poll(store, 10)
    await store_fields(database, second, poll_kind=PollKind.SINGLE)
    await store.postpone([first.id, second.id], later(60))
    found = await records.terminations(after=0, limit=10)
    assert [each.termination.schedule.next_poll_at for each in found] == [
        later(60),
        second.schedule.next_poll_at,
    ]


async def test_first_in_line_is_called_first_then_the_order_of_submission(
    records: SqlRecords, store: PartitionStore
) -> None:
    await submit(records, 1, "job-1", "job-2", "job-3")
    for row in await due_for_batch_poll(store, 10):
        after = with_fields(row, terminate_after=NOW, priority=row.job_id == "job-3")
        await store.apply([(row, Decision(after=after))], NOW)
    ready, _ = await store.ready_to_terminate(NOW, 10, capture_wait_s=0, captured_in_time=None)
    assert [t.job_id for t in ready] == ["job-3", "job-1", "job-2"]
    record = await records.termination(ready[-1].id)
    assert record is not None
    assert record.jobs_ahead == 2


async def test_planned_polls_are_those_of_the_terminations_that_are_polled_next(
    records: SqlRecords, store: PartitionStore, database: Database
) -> None:
    await submit(records, 1, *[f"job-{number}" for number in range(6)])
    rows = await due_for_batch_poll(store, 10)
    for row, after_s in zip(rows, (3, 1, 2, 0), strict=False):
        await store_fields(database, row, next_poll_at=later(after_s), job_state=JobState.RUNNING)
    await store_fields(database, rows[1], state=State.DRAINING, evidence=1, give_up_at=later(9))
    limit = 4
    planned = await store.planned_polls(NOW, limit, *KINDS)
    for kind, polled in (await store.next_polls(NOW, limit, *KINDS)).items():
        assert [(poll.termination_id, poll.next_poll_at) for poll in planned[kind]] == [
            (each.id, each.schedule.next_poll_at) for each in polled
        ]
        assert [(poll.region, poll.state) for poll in planned[kind]] == [
            (each.region, each.state) for each in polled
        ]
        ids = [each.id for each in reversed(polled)]
        assert await store.planned(ids, kind) == polled[::-1]
    assert [len(planned[kind]) for kind in KINDS] == [1, limit, 2]


async def test_a_job_that_is_no_longer_polled_in_that_way_is_not_planned(
    records: SqlRecords, store: PartitionStore
) -> None:
    await submit(records, 1, "job-1", "job-2")
    gone, left = await due_for_batch_poll(store, 10)
    await store.apply([(gone, decide(gone, Withdrawn(), NOW, POLICY))], NOW)
    for kind in (WAITING_FOR_CALL, FIRST_POLLS):
        assert await store.planned([gone.id, left.id], kind) == [left]


async def queued(database: Database, records: SqlRecords, jobs: int, unseen: int) -> None:
    """Store this number of jobs that wait for their call, and as many for a first poll."""
    await submit(records, 1, *[f"job-{number}" for number in range(jobs + unseen)])

    async def work(transaction: Transaction) -> None:
        seen = {"job_state": "RUNNING", "run": 1, "terminate_after": NOW, "last_turn": jobs}
        some = schema.terminations.c.seq <= jobs
        await transaction.execute(update(schema.terminations).where(some).values(seen))

    await database.write(work)


async def test_the_next_terminations_are_found_without_sorting_all(
    database: Database, records: SqlRecords, store: PartitionStore
) -> None:
    asked: list[tuple[str, Any]] = []
    shared = database.dialect.shared
    await queued(database, records, 10_000, 1000)

    @event.listens_for(database.dialect.readers.sync_engine, "before_cursor_execute")
    def on_execute(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if statement.startswith("SELECT") and "FROM terminations" in statement:
            asked.append((f"EXPLAIN {'' if shared else 'QUERY PLAN '}{statement}", parameters))

    await store.next_polls(NOW, 10, *PLANNED, NEVER_READ_BY_TURN)
    await store.planned_polls(NOW, 10, *KINDS)
    ids = [f"trm_1_job-{number}" for number in range(100)]
    for kind in KINDS:
        await store.planned(ids, kind)
    await store.draining(ids)
    ready, _ = await store.ready_to_terminate(NOW, 1, capture_wait_s=0, captured_in_time=None)
    assert len(ready) == 1
    to_capture, _ = await store.instances.to_read(NOW, 10)
    assert len(to_capture) == 10
    async with database.read() as connection:
        if shared:  # else it reads whole tables of which it has counted nothing yet
            for way in ("seqscan", "bitmapscan"):
                await connection.execute(text(f"SET LOCAL enable_{way} = off"))
        single, batch, *of_ids, called, captured = [
            "\n".join(str(row) for row in await connection.exec_driver_sql(*explained))
            for explained in asked
        ]

    def scans(plan: str, index: str) -> int:
        return len(re.findall(f"(?i)using ((covering )?index )?ix_terminations_{index} ", plan))

    for plan, kinds in ((single, PLANNED), (batch, KINDS[:2])):
        assert scans(plan, "poll") == sum(len(kind.states) for kind in kinds)
        assert scans(plan, "unseen") == 1
        sorts = re.findall("(?i)use temp b-tree|sort key", plan)
        assert len(sorts) <= scans(plan, "poll"), "only what a scan found up to its limit"
    assert [plan for plan in of_ids if "ix_terminations" in plan] == []
    assert len(of_ids) == len(KINDS) + 1
    assert scans(called, "turn") == 1
    assert not re.search("(?i)sort|b-tree", called)
    first, _, _ = captured.partition("ix_terminations_rescan")
    assert scans(first, "capture") == 1
    assert not re.search("(?i)sort|b-tree", first.partition("Subquery Scan on anon_2")[0])


async def test_the_last_job_finishes_its_operation_with_an_outcome(
    records: SqlRecords, store: PartitionStore
) -> None:
    await submit(records, 1, "job-1", "job-2")
    rows = await due_for_batch_poll(store, 10)
    await store.apply([(rows[0], decide(rows[0], Withdrawn(), NOW, POLICY))], NOW)
    halfway = await operation_record(records, "op_1")
    assert halfway is not None
    assert (halfway.outcome, halfway.finished_at) == (None, None)
    stopped = decide(rows[1], read(batch_read(None).state or read(None).state), NOW, POLICY)
    assert stopped.event is None
    done = decide(rows[1], Withdrawn(), later(3), POLICY)
    await store.apply([(rows[1], done)], later(3))
    finished = await operation_record(records, "op_1")
    assert finished is not None
    assert (finished.outcome, finished.finished_at) == ("withdrawn", later(3))
    assert finished.jobs_by_state == {State.WITHDRAWN: 2}


def failure(kind: CloudErrorKind, code: str) -> CloudError:
    return CloudError(kind, code, f"about {code}", advice=f"against {code}")


WITH_ENV_ID = "UnsupportedOperation.TerminateOperationWithEnvId"
UNREAD = ReadFailed(failure(CloudErrorKind.OUTCOME_UNKNOWN, "Client.Timeout"))
RUNNING = (0, read(JobState.RUNNING, LIVE))
CALLED: list[tuple[float, Observation]] = [RUNNING, (0, CallStarted()), (0, CallAcknowledged("r"))]
WENT: dict[str, tuple[State, str | None, list[tuple[float, Observation]]]] = {
    "job-verified": (
        State.VERIFIED,
        None,
        [*CALLED, *((at, read(JobState.FAILED, at=later(at))) for at in (2, 60))],
    ),
    "job-over": (
        State.ALREADY_FINISHED,
        None,
        [(0, read(JobState.SUCCEED)), (0, SUBMISSION), (0, read(JobState.SUCCEED))],
    ),
    "job-missing": (
        State.NOT_FOUND,
        "ResourceNotFound.Job",
        [
            (0, JobUnlisted()),
            (60, JobUnlisted()),
            (120, ReadFailed(failure(CloudErrorKind.JOB_NOT_FOUND, "ResourceNotFound.Job"))),
        ],
    ),
    "job-refused": (
        State.REFUSED,
        WITH_ENV_ID,
        [*CALLED[:2], (0, call_failed(failure(CloudErrorKind.REFUSED, WITH_ENV_ID)))],
    ),
    "job-lost": (
        State.UNVERIFIED,
        "Client.DeadlinePassed",
        [*CALLED, RUNNING, *((at, UNREAD) for at in (60, 90, 120))],
    ),
}
"""Each job with its final state and code, and the times and observations until then."""


async def test_an_operation_whose_jobs_went_partly_wrong_reports_each_one(
    records: SqlRecords, store: PartitionStore
) -> None:
    await submit(records, 1, *WENT, give_up_after_s=60.0)
    rows = await due_for_batch_poll(store, 10)
    for row in sorted(rows, key=lambda each: WENT[each.job_id][2][-1][0]):
        before = row
        unfinished = await operation_record(records, "op_1")
        assert unfinished is not None
        assert (unfinished.outcome, unfinished.finished_at) == (None, None)
        _, _, seen = WENT[row.job_id]
        for at_s, each in seen:
            at = later(at_s)
            decision = decide(before, each, at, POLICY)
            await store.apply([(before, decision)], at)
            before = decision.after
    operation = await operation_record(records, "op_1")
    assert operation is not None
    assert (operation.outcome, operation.finished_at) == ("partial", later(120))
    assert operation.jobs_by_state == {state: 1 for state, _, _ in WENT.values()}
    reported = {
        record.termination.job_id: record.termination
        for record in await records.terminations(after=0, limit=10, operation_id="op_1")
    }
    assert set(reported) == set(WENT)
    for job_id, (state, code, _) in WENT.items():
        problem = reported[job_id].problem
        assert (reported[job_id].state, problem and problem.code) == (state, code)
    refused, lost = reported["job-refused"].problem, reported["job-lost"].problem
    assert refused is not None
    assert (refused.message, refused.advice) == (f"about {refused.code}", f"against {refused.code}")
    assert lost is not None
    assert lost.message.endswith("last error: Client.Timeout: about Client.Timeout")
    assert reported["job-lost"].drain.counters == LIVE


async def test_operations_share_a_live_termination_and_both_finish(
    records: SqlRecords, store: PartitionStore
) -> None:
    await submit(records, 1, "job-1", settle_s=10.0, not_before=later(60))
    await submit(records, 2, "job-1", "job-2", settle_s=50.0)
    rows = await due_for_batch_poll(store, 10)
    shared = next(row for row in rows if row.job_id == "job-1")
    assert (shared.request.settle_s, shared.request.not_before, shared.schedule.next_poll_at) == (
        50.0,
        None,
        NOW,
    )
    record = await records.termination(shared.id)
    assert record is not None
    assert sorted(record.operation_ids) == ["op_1", "op_2"]
    await store.apply([(row, decide(row, Withdrawn(), NOW, POLICY)) for row in rows], NOW)
    listed = await operation_records(records, finished=True)
    assert [o.id for o in listed] == ["op_2", "op_1"]


async def test_the_same_key_is_the_same_operation_and_another_body_a_conflict(
    records: SqlRecords,
) -> None:
    first = await submit(records, 1, "job-1", idempotency_key="k")
    again = await records.create(operation(2, "job-1", idempotency_key="k"), ["trm_x"])
    assert (again.operation_id, again.replayed) == (first, True)
    with pytest.raises(IdempotencyKeyReused, match="op_1"):
        await records.create(
            operation(3, "job-2", idempotency_key="k", request_hash="other"), ["trm_y"]
        )
    other = await submit(records, 4, "job-1", idempotency_key="k", requested_by="you")
    assert other == "op_4"


async def test_live_terminations_are_counted_by_state(
    database: Database, records: SqlRecords, store: PartitionStore
) -> None:
    """The oldest is the one callable first; ended ones are counted by this process."""
    assert await records.live() == {}
    await submit(records, 1, "job-1", created_at=later(-50), not_before=later(40))
    assert await records.live() == {"queued": LiveTerminations(count=1, since=later(40))}
    await submit(records, 2, "job-2", "job-3", created_at=later(-9), not_before=later(-60))
    assert await records.live() == {"queued": LiveTerminations(count=3, since=later(-9))}
    held, ended, _ = await due_for_batch_poll(store, 10)
    waits = decide(held, read(JobState.SUBMITTED), NOW, POLICY)
    await store.apply([(held, waits), (ended, decide(ended, Withdrawn(), NOW, POLICY))], NOW)
    live = await records.live()
    assert {state: each.count for state, each in live.items()} == {"queued": 1, "held": 1}
    assert live["held"].since == max(
        held.request.created_at, held.request.not_before or held.request.created_at
    )
    assert database.ended == {State.WITHDRAWN: 1}


WEEK_S = 7 * 86_400


@pytest.mark.parametrize("request_hash", ["h", "another"])
async def test_a_key_ends_after_seven_days(records: SqlRecords, request_hash: str) -> None:
    """After that the key belongs to a new operation only, for seven days again."""
    first = await submit(records, 1, "job-1", idempotency_key="k")
    yours = await submit(records, 2, "job-1", idempotency_key="k", requested_by="you")
    almost = operation(3, "job-1", idempotency_key="k", created_at=later(WEEK_S - 1))
    assert (await records.create(almost, ["trm_3"])).operation_id == first
    asked: dict[str, Any] = {"idempotency_key": "k", "request_hash": request_hash}
    for number, after_s, expected, replayed in (
        (4, WEEK_S, "op_4", False),
        (5, 2 * WEEK_S - 1, "op_4", True),
        (6, 2 * WEEK_S, "op_6", False),
    ):
        again = operation(number, "job-1", created_at=later(after_s), **asked)
        made = await records.create(again, [f"trm_{number}"])
        assert (made.operation_id, made.replayed) == (expected, replayed)
    kept = await operation_records(records)
    assert {each.id for each in kept} == {first, yours, "op_4", "op_6"}


@pytest.mark.parametrize("ended", [False, True])
async def test_a_hundred_requests_at_once_with_one_key_are_one_operation(
    records: SqlRecords, *, ended: bool
) -> None:
    if ended:
        await submit(records, 1000, "job-1", idempotency_key="k", created_at=later(-WEEK_S))
    made = await asyncio.gather(
        *(
            records.create(operation(n, "job-1", idempotency_key="k"), [f"trm_{n}"])
            for n in range(100)
        )
    )
    assert len({m.operation_id for m in made}) == 1
    assert sum(not m.replayed for m in made) == 1


async def test_a_failing_write_fails_no_other_of_its_transaction(
    database: Database, records: SqlRecords
) -> None:
    async def fails(_: object) -> None:
        raise LookupError("mine")

    results = await asyncio.gather(
        submit(records, 1, "job-1"),
        database.write(fails),
        submit(records, 2, "job-2"),
        return_exceptions=True,
    )
    assert results[0] == "op_1"
    assert isinstance(results[1], LookupError)
    assert results[2] == "op_2"
    assert await operation_record(records, "op_2") is not None


async def test_a_job_has_one_live_termination_at_most(
    database: Database, records: SqlRecords
) -> None:
    await submit(records, 1, "job-1")

    async with database.read() as connection:
        row = (await connection.execute(select(schema.terminations))).one()
    again = insert(schema.terminations).values(dict(row._mapping) | {"seq": 99, "id": "trm_other"})
    with pytest.raises(IntegrityError, match=r"(?i)unique constraint"):
        async with database.dialect.writers.begin() as connection:
            await connection.execute(again)


async def test_readers_cannot_write(database: Database) -> None:
    with pytest.raises(StoreUnavailable, match=r"read-?only"):
        async with database.read() as connection:
            await connection.execute(text("DELETE FROM events"))


async def test_a_decision_that_would_break_an_invariant_is_refused_and_counted(
    database: Database, records: SqlRecords, store: PartitionStore
) -> None:
    await submit(records, 1, "job-1", "job-2")
    one, two = await due_for_batch_poll(store, 10)
    attempt = NewAttempt(action="TerminateJob", target=one.job_id, sent_at=NOW)
    with pytest.raises(InvariantViolated, match="invariant call"):
        await store.start_attempt(one, decide(one, CallStarted(), NOW, POLICY), attempt)
    ended = Decision(after=replace(two, state=State.VERIFIED, finished_at=NOW))
    with pytest.raises(InvariantViolated, match="invariant transition"):
        await store.apply([(one, decide(one, Withdrawn(), NOW, POLICY)), (two, ended)], NOW)
    endless = Decision(after=replace(one, evidence=6))
    with pytest.raises(IntegrityError):
        await store.apply([(one, endless)], NOW)
    counted = {Invariant.CALL: 1, Invariant.TRANSITION: 1, Invariant.CONSTRAINT: 1}
    assert database.violations == counted
    assert await due_for_batch_poll(store, 10) == [one, two]


@pytest.mark.parametrize("condition", [(ErrorDetail(code="C", message="m"), 2.85), (None, None)])
async def test_the_health_of_a_partition_is_returned_with_its_operations_and_terminations(
    records: SqlRecords, store: PartitionStore, condition: tuple[ErrorDetail | None, float | None]
) -> None:
    await submit(records, 1, "job-1")
    await submit(records, 2, "job-2", partition="other@host")
    await store.set_health(ErrorDetail(code="B", message="before", advice="a"), 1)
    await store.set_health(*condition)
    terminations = await records.terminations(after=0, limit=10)
    stored = [(each.trouble, each.allowed_per_s) for each in terminations]
    assert stored == [condition, (None, None)]
    operations = await operation_records(records)
    assert [each.allowed_per_s for each in operations] == [None, condition[1]]


async def test_the_health_of_a_partition_is_cleared_when_another_replica_takes_it(
    database: Database, records: SqlRecords, store: PartitionStore
) -> None:
    """Of this partition only; it is not known whether the problem lasts."""
    await submit(records, 1, "job-1")
    await submit(records, 2, "job-2", partition="other@host")
    for each in (store, PartitionStore(database, FencingToken("other@host", 1))):
        await each.set_health(ErrorDetail(code="C", message="m", advice="a"), 7)
    assert await records.troubles() == {
        PARTITION: ("C", "a replica"),
        "other@host": ("C", "a replica"),
    }
    await SqlLeaseStore(database).take("another", {PARTITION: 1})
    mine, other = await records.terminations(after=0, limit=10)
    assert (mine.trouble, mine.allowed_per_s) == (None, None)
    assert other.allowed_per_s == 7
    assert other.trouble == ErrorDetail(code="C", message="m", advice="a")
    assert await records.troubles() == {"other@host": ("C", "a replica")}


async def test_counts_of_an_operation_are_integers(
    records: SqlRecords, store: PartitionStore
) -> None:
    await submit(records, 1, "job-1")
    before = await only(store)
    seen = decide(before, read(JobState.RUNNING, LIVE), later(1), POLICY)
    await store.apply([(before, seen)], later(1))
    record = await operation_record(records, "op_1")
    assert record is not None
    assert {type(record.instances.total), type(record.instances.live)} == {int}
    assert record.instances.total == LIVE.total


async def test_draining_jobs_are_found_by_their_ids_unless_a_count_is_planned(
    records: SqlRecords, store: PartitionStore, database: Database
) -> None:
    jobs = [f"job-{number}" for number in range(5)]
    await submit(records, 1, *jobs)
    known = dict(zip(jobs, [record.termination for record in await listed(records)], strict=True))
    for job_id in jobs[:3]:
        await store_fields(database, known[job_id], state=State.DRAINING)
    await store_fields(database, known["job-3"], state=State.DRAINING, poll_kind=PollKind.SINGLE)
    asked = [known[job_id].id for job_id in ("job-4", "job-3", "job-2", "job-0")]
    draining = await store.draining([*asked, "trm_nobody"])
    assert [each.job_id for each in draining] == ["job-2", "job-0"]
    assert await store.draining([]) == []


async def listed(records: SqlRecords) -> list[TerminationRecord]:
    return await records.terminations(after=0, limit=10)
