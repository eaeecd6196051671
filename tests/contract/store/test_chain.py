"""Hash chains: all writers continue them, and a certificate shows later changes of events."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, insert, text, update
from sqlalchemy.exc import IntegrityError

from orchestrator.domain.audit.certificate_verification import verify
from orchestrator.domain.audit.hash_chain import lines_sha256
from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.errors import CloudError, CloudErrorKind, NotFound
from orchestrator.domain.model.attempt import AttemptResult, NewAttempt
from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.observation import (
    CallAcknowledged,
    CallFailed,
    CallStarted,
    Withdrawn,
)
from orchestrator.services.certification import Certification
from orchestrator.store import schema
from orchestrator.store.events import chained
from orchestrator.store.records.operation_history import TERMINATIONS_AT_ONCE, SqlHistories
from tests.support.stored_operations import chains, due_for_batch_poll, ready_to_call, submit
from tests.unit.domain.build import LIVE, NOW, POLICY, batch_read, call_failed, later, read

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orchestrator.domain.model.observation import Observation
    from orchestrator.domain.model.termination import Termination
    from orchestrator.services.ports import OperationHistory
    from orchestrator.store.database.database import Database
    from orchestrator.store.database.transaction import Transaction
    from orchestrator.store.partition.partition_store import PartitionStore
    from orchestrator.store.records.queries import SqlRecords

UNSURE = CloudError(CloudErrorKind.THROTTLED, "RequestLimitExceeded", "m", request_id="r-0")


@pytest.fixture
def certification(database: Database) -> Certification:
    return Certification(histories=SqlHistories(database), now=lambda: later(100))


async def see(
    store: PartitionStore, before: Termination, seen: Observation, seconds: float
) -> Termination:
    """Write an observation as the engine does."""
    at = later(seconds)
    decision = decide(before, seen, at, POLICY)
    match seen:
        case CallStarted():
            attempt = NewAttempt(action="TerminateJob", target=before.job_id, sent_at=at)
            await store.start_attempt(before, decision, attempt)
        case CallAcknowledged(request_id):
            answer = AttemptResult(at=at, outcome="accepted", request_id=request_id)
            await store.finish_attempt(before, decision, answer)
        case CallFailed(error):
            await store.finish_attempt(before, decision, AttemptResult.of(error, at))
        case _:
            await store.apply([(before, decision)], at)
    return decision.after


LIFE: list[Observation] = [
    read(JobState.RUNNING, LIVE),
    CallStarted(),
    call_failed(UNSURE),
    read(JobState.RUNNING, LIVE),
    CallStarted(),
    CallAcknowledged("r-1"),
    read(JobState.FAILED, at=later(6)),
    read(JobState.FAILED, at=later(90)),
]
"""Observations until it is verified, each a hundred seconds after the one before."""


async def live(store: PartitionStore, before: Termination) -> None:
    for number, seen in enumerate(LIFE):
        before = await see(store, before, seen, 100.0 * number)


# --- events --------------------------------------------------------------------------------------


async def test_each_event_keeps_what_it_rested_on(
    database: Database, records: SqlRecords, store: PartitionStore
) -> None:
    await submit(records, 1, "job-1")
    (queued,) = await due_for_batch_poll(store, 1)
    await live(store, queued)
    found = await chains(database)
    accepted, started, failed, _, answered, stopped, settled = found["trm_1_job-1"]
    where = {"account": "main", "region": "ap-guangzhou", "job_id": "job-1"}
    assert accepted["facts"] == where
    target = {"action": "TerminateJob", "target": "job-1"}
    assert started["facts"]["attempt"] == target
    assert (started["facts"]["job_state"], started["facts"]["instances"]["running"]) == (
        "RUNNING",
        4,
    )
    assert failed["facts"]["answer"] == {
        "outcome": "throttled",
        "code": "RequestLimitExceeded",
        "request_id": "r-0",
    }
    assert answered["facts"]["answer"]["request_id"] == "r-1"
    assert answered["facts"]["acknowledged_at"] == "2026-01-01T12:08:20.000000Z"
    assert stopped["facts"]["instances"]["failed"] == 10
    assert stopped["facts"]["instances_observed_at"] == "2026-01-01T12:00:06.000000Z"
    assert stopped["facts"]["job_next_action"] == ""
    assert settled["facts"]["observed_at"] == "2026-01-01T12:01:30.000000Z"
    begun, finished = found["op_1"]
    assert begun["facts"] == {
        "account": "main",
        "region": "ap-guangzhou",
        "requested_by": "me",
        "jobs": 1,
        "jobs_sha256": lines_sha256(["job-1"]),
        "terminations_sha256": lines_sha256(["job-1 trm_1_job-1"]),
    }
    assert finished["facts"] == {"jobs_by_state": {"verified": 1}}


async def test_many_events_of_one_subject_in_one_transaction_follow_each_other(
    database: Database, records: SqlRecords
) -> None:
    await submit(records, 1, "job-1")

    async def work(transaction: Transaction) -> None:
        for number in range(3):
            transaction.record(at=NOW, termination_id="trm_1_job-1", type=f"more {number}")
            transaction.record(at=NOW, operation_id="op_1", type=f"more {number}")

    await database.write(work)
    found = await chains(database)
    assert [len(found[subject_id]) for subject_id in ("trm_1_job-1", "op_1")] == [4, 4]


async def test_a_subject_whose_first_event_is_of_another_kind_has_a_chain_too(
    database: Database, records: SqlRecords
) -> None:
    await submit(records, 1, "job-1")

    async def work(transaction: Transaction) -> None:
        await transaction.execute(text("DELETE FROM events"))
        transaction.record(at=NOW, operation_id="op_1", type="begun")

    await database.write(work)
    assert [each["number"] for each in (await chains(database))["op_1"]] == [1]


async def test_more_subjects_than_a_statement_takes(
    database: Database, records: SqlRecords, store: PartitionStore
) -> None:
    await submit(records, 1, *[f"job-{number}" for number in range(1100)])
    changes = [
        (row, decide(row, batch_read(JobState.SUBMITTED), NOW, POLICY))
        for row in await due_for_batch_poll(store, 1100)
    ]
    assert await store.apply(changes, NOW) == 1100
    found = await chains(database)
    assert {len(events) for events in found.values()} == {1, 2}


async def test_the_chains_are_whole_after_writers_at_the_same_time(
    database: Database, records: SqlRecords, store: PartitionStore, certification: Certification
) -> None:
    """Requests that join live jobs, transitions of these, and operations that end with them."""
    jobs = [f"job-{number}" for number in range(12)]
    await submit(records, 1, *jobs)
    queued = await due_for_batch_poll(store, 100)
    await asyncio.gather(
        *(live(store, each) for each in queued),
        *(submit(records, number, *jobs[number : number + 3]) for number in range(2, 9)),
    )
    found = await chains(database)
    assert len(found) >= 12 + 1 + 7
    assert [each["type"] for each in found["op_1"]] == ["accepted", "finished"]
    for number in range(1, 9):
        assert verify((await certification.issue(f"op_{number}")).data) == []


async def test_a_fork_is_refused(database: Database, records: SqlRecords) -> None:
    await submit(records, 1, "job-1")
    for subject in ({"operation_id": "op_1"}, {"termination_id": "trm_1_job-1"}):
        row = {"at": NOW, "type": "forked", "number": 1, "hash": "0" * 64} | subject
        with pytest.raises(IntegrityError, match=r"(?i)unique"):
            async with database.dialect.writers.begin() as connection:
                await connection.execute(insert(schema.events).values(row))
    await chains(database)


async def test_the_last_event_is_found_by_the_index(
    database: Database, records: SqlRecords
) -> None:
    asked: list[tuple[str, Any]] = []
    shared = database.dialect.shared

    @event.listens_for(database.dialect.writers.sync_engine, "before_cursor_execute")
    def on_execute(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if "max(others.number)" in statement:
            asked.append((f"EXPLAIN {'' if shared else 'QUERY PLAN '}{statement}", parameters))

    await submit(records, 1, "job-1")
    assert asked == []
    plans: list[str] = []

    async def work(transaction: Transaction) -> None:
        if shared:  # else it reads the whole table, which is small
            for way in ("seqscan", "bitmapscan"):
                await transaction.execute(text(f"SET LOCAL enable_{way} = off"))
        subjects = ({"termination_id": "trm_1_job-1"}, {"operation_id": "op_1"})
        recorded = [{"at": NOW, "type": "more", **subject} for subject in subjects]
        await chained(transaction.connection, recorded)
        for explained in asked.copy():
            rows = await transaction.connection.exec_driver_sql(*explained)
            plans.append("\n".join(str(row) for row in rows))

    await database.write(work)
    assert len(plans) == 2
    for plan in plans:
        assert len(re.findall(r"(?i)(uq_events_|sqlite_autoindex_events_)", plan)) == 2
        assert not re.search(r"(?i)scan (others|events)|seq scan", plan)


# --- certificates --------------------------------------------------------------------------------


async def certified(certification: Certification, number: int = 1) -> Any:
    made = await certification.issue(f"op_{number}")
    assert verify(made.data) == []
    return json.loads(made.data)["certificate"]


async def test_the_certificate_of_a_whole_life(
    records: SqlRecords, store: PartitionStore, certification: Certification
) -> None:
    await submit(records, 1, "job-b", "job-a", "job-c")
    for row in await due_for_batch_poll(store, 3):
        if row.job_id == "job-a":
            await live(store, row)
        elif row.job_id == "job-b":
            await see(store, row, Withdrawn(), 7)
    certificate = await certified(certification)
    assert certificate["conclusion"] == (
        "NOT FINISHED: 1 of 3 jobs not ended; 1 of 3 jobs proven stopped so far"
    )
    assert [job["state"] for job in certificate["jobs"]] == ["verified", "withdrawn", "queued"]
    attempts = certificate["jobs"][0]["attempts"]
    assert [(each["outcome"], each["request_id"]) for each in attempts] == [
        ("throttled", "r-0"),
        ("accepted", "r-1"),
    ]


async def test_an_operation_that_joined_certifies_what_began_before_it(
    records: SqlRecords, store: PartitionStore, certification: Certification
) -> None:
    await submit(records, 1, "job-1")
    ready = await ready_to_call(store)
    await submit(records, 2, "job-1", "job-2", created_at=later(3))
    await see(store, ready, CallStarted(), 4)
    certificate = await certified(certification, 2)
    assert [event["type"] for event in certificate["jobs"][0]["events"]] == [
        "accepted",
        "call_started",
    ]
    assert certificate["jobs"][0]["termination_id"] == "trm_1_job-1"
    assert certificate["jobs"][1]["termination_id"] == "trm_2_job-2"


async def test_the_digest_stays_as_long_as_nothing_becomes_of_it(
    records: SqlRecords, store: PartitionStore, database: Database
) -> None:
    await submit(records, 1, "job-1", "job-2")
    digests, files = [], []
    for number in range(4):
        if number == 2:
            (row, _) = await due_for_batch_poll(store, 2)
            await see(store, row, Withdrawn(), 7)
        now = partial(later, number)
        made = await Certification(histories=SqlHistories(database), now=now).issue("op_1")
        digests.append(made.digest)
        files.append(made.data)
    assert digests[0] == digests[1] != digests[2] == digests[3]
    assert len(set(files)) == 4


async def test_an_operation_that_there_is_not(certification: Certification) -> None:
    with pytest.raises(NotFound, match="no operation op_9"):
        await certification.issue("op_9")


@pytest.mark.parametrize(
    ("table", "where", "values", "fault"),
    [
        ("events", {"type": "settled"}, {"why": "x"}, "event 7: the chain is broken"),
        ("events", {"type": "seen_stopped"}, {"at": later(1)}, "event 6: the chain is broken"),
        ("events", {"number": 2}, {"facts": {}}, "event 2: the chain is broken"),
        ("events", {"number": 3}, {"facts": None}, "event 3: the chain is broken"),
        ("events", {"number": 3}, {"hash": "0" * 64}, "event 4: the chain is broken"),
        ("attempts", {"number": 1}, {"request_id": "x"}, "attempt 1: "),
        ("terminations", {}, {"job_state": "SUCCEED"}, "rests_on does not match "),
        ("terminations", {}, {"evidence": 2}, "evidence 2 does not match "),
        ("terminations", {}, {"job_id": "job-2"}, "job_id differs from the certificate"),
        ("operations", {}, {"reason": "x"}, "its time or its reason differs"),
        ("operations", {}, {"outcome": "failed"}, "the outcome failed does not follow"),
    ],
)
async def test_changes_in_the_database_are_found(
    database: Database,
    records: SqlRecords,
    store: PartitionStore,
    certification: Certification,
    table: str,
    where: dict[str, object],
    values: dict[str, object],
    fault: str,
) -> None:
    await submit(records, 1, "job-1")
    (queued,) = await due_for_batch_poll(store, 1)
    await live(store, queued)
    assert verify((await certification.issue("op_1")).data) == []
    changed = schema.metadata.tables[table]

    async def work(transaction: Transaction) -> None:
        statement = update(changed).values(values)
        for name, value in where.items():
            statement = statement.where(changed.c[name] == value)
        await transaction.execute(statement)

    await database.write(work)
    found = verify((await certification.issue("op_1")).data)
    assert any(fault in each for each in found), found


async def test_a_certificate_shows_one_moment(
    database: Database, records: SqlRecords, store: PartitionStore
) -> None:
    jobs = [f"job-{number:03}" for number in range(2 * TERMINATIONS_AT_ONCE + 1)]
    await submit(records, 1, *jobs)
    rows = await due_for_batch_poll(store, 1000)
    seen: dict[str, str] = {}
    async with SqlHistories(database).history("op_1") as history:
        assert history is not None
        async for page in history.terminations:
            if not seen:
                shown = {each.termination.id for each in page}
                later_on = next(row for row in rows if row.id not in shown)
                await see(store, later_on, Withdrawn(), 1)
            seen |= {each.termination.id: each.termination.state for each in page}
            assert all(len(each.events) == 1 for each in page)
    assert set(seen.values()) == {"queued"}
    assert len(seen) == len(jobs)


async def test_how_much_is_asked_does_not_grow_with_each_job(
    database: Database, records: SqlRecords, certification: Certification
) -> None:
    await submit(records, 1, *[f"job-{number}" for number in range(3 * TERMINATIONS_AT_ONCE)])
    asked: list[str] = []

    @event.listens_for(database.dialect.readers.sync_engine, "before_cursor_execute")
    def on_execute(_: Any, __: Any, statement: str, *___: Any) -> None:
        if "FROM " in statement:
            asked.append(statement)

    assert len((await certified(certification))["jobs"]) == 3 * TERMINATIONS_AT_ONCE
    assert len(asked) == 3 + 3 * 3


async def test_certificates_are_made_one_at_a_time(database: Database, records: SqlRecords) -> None:
    """So that read connections remain for all other requests."""
    await submit(records, 1, *[f"job-{number}" for number in range(2 * TERMINATIONS_AT_ONCE)])
    opened: list[int] = []

    class Watched(SqlHistories):
        @asynccontextmanager
        async def history(self, operation_id: str) -> AsyncIterator[OperationHistory | None]:
            opened.append(1)
            async with super().history(operation_id) as history:
                yield history
                assert sum(opened) == 1
            opened.append(-1)

    certification = Certification(histories=Watched(database), now=lambda: NOW)
    await asyncio.gather(*(certification.issue("op_1") for _ in range(5)))
    assert len(opened) == 10
