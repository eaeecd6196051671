"""A row that cannot be decoded: it alone is set aside, and its readable part is shown."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import Float, select, text, update
from sqlalchemy.exc import DBAPIError, StatementError

from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.model.attempt import NewAttempt
from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.observation import CallStarted, JobUnlisted
from orchestrator.engine.loops.job_poller import KINDS
from orchestrator.engine.loops.single_job_poller import PLANNED
from orchestrator.services.certification import Certification
from orchestrator.store import schema
from orchestrator.store.partition import clock_steps
from orchestrator.store.records.operation_history import SqlHistories
from orchestrator.store.records.queries import SqlRecords
from tests.support.operation_records import operation_record, operation_records
from tests.support.stored_operations import PARTITION, submit
from tests.support.termination_fields import store_fields
from tests.unit.domain.build import NOW, POLICY, later

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.store.database.database import Database
    from orchestrator.store.database.transaction import Transaction
    from orchestrator.store.partition.partition_store import PartitionStore

MUCH_LATER: Final = later(10**9)
BAD, GOOD, OTHER = "job-bad", "job-good", "job-other"
DOCUMENTS: Final = (
    *("instances", "tasks", "problem", "capture", "rescan", "machines_problem", "history"),
    *("revival", "unconfirmed"),
)
ANYWHERE: Final = [
    *[(column, "'[1]'") for column in DOCUMENTS],
    *[(column, "'\"text\"'") for column in DOCUMENTS],
    ("instances", """'{"running": "many"}'"""),
    ("capture", """'{"ended_at": "noon", "occupying": "many", "waiting": 1}'"""),
    ("tasks", """'[{"name": "a", "state": 5, "instances": null}]'"""),
    ("revival", """'{"at": "noon", "job_state": "RUNNING"}'"""),
    *[(column, "'NONSENSE'") for column in ("on_submitted", "escalation_level")],
    *[(column, "1e308") for column in ("settle_s", "give_up_after_s", "revival_watch_s")],
    *[
        (column, "'9999-12-31 23:59:59'")
        for column in ("observed_at", "next_poll_at", "created_at")
    ],
    ("not_before", "'0002-01-01 00:00:00'"),
]
NOT_UTF_8: Final = "CAST(x'ff' AS TEXT)"
ON_SQLITE: Final = [
    *[(column, "'{'") for column in DOCUMENTS],
    *[
        (column, "'noon'")
        for column in ("observed_at", "next_poll_at", "created_at", "give_up_from")
    ],
    ("terminate_after", "'noon'"),
    ("revision", "'two'"),
    ("turn", "'two'"),
    ("settle_s", "9e999"),
    ("job_name", "x'ff'"),
    *[
        (column, NOT_UTF_8)
        for column in ("next_poll_at", "give_up_from", "escalation_level", "instances")
    ],
]
ON_POSTGRESQL: Final = [
    *[(column, "'4713-01-01 BC'") for column in ("observed_at", "next_poll_at", "created_at")],
    ("terminate_after", "'4713-01-01 BC'"),
    *[(column, "'294276-01-01'") for column in ("observed_at", "next_poll_at", "created_at")],
]


async def run(database: Database, statement: str, **values: object) -> None:
    async def work(transaction: Transaction) -> None:
        await transaction.execute(text(statement), values)

    await database.write(work)


def unreadable(error: str) -> str:
    return f"its row in the database cannot be read: {error}"


async def found(store: PartitionStore) -> set[str]:
    """Return the jobs that the reads of all loops find."""
    now = later(4000)
    called, _ = await store.ready_to_terminate(now, 100, capture_wait_s=0, captured_in_time=None)
    planned = await store.next_polls(now, 100, *PLANNED)
    for kind, polls in (await store.planned_polls(now, 100, *KINDS)).items():
        planned[kind] = await store.planned([poll.termination_id for poll in polls], kind)
    to_capture, to_read = await store.instances.to_read(now, 100)
    everything = [
        *(row for rows in planned.values() for row in rows),
        *called,
        *to_capture,
        *to_read,
        *await store.due_for_revival_check(now, 100),
        *await store.with_open_attempts(),
        *await store.with_stale_counters(now, None, 100),
        *await store.draining([f"trm_1_{job}" for job in (BAD, GOOD, OTHER)]),
    ]
    await store.instances.next_escalation_target()
    await store.instances.machines_due(now, now, 100)
    return {row.job_id for row in everything}


async def assert_alone_set_aside(database: Database, store: PartitionStore, operation: str) -> None:
    """All loops go on with the other jobs, and all requests are answered."""
    records = SqlRecords(database, lambda: later(5))
    # Before any loop has met it, and afterwards.
    for _ in range(2):
        shown = await records.terminations(after=0, limit=10)
        assert [record.termination.job_id for record in shown] == [BAD, GOOD, OTHER]
        why = shown[0].termination.schedule.set_aside
        assert why is not None
        assert why.startswith(unreadable(""))
        assert [record.termination.schedule.set_aside for record in shown[1:]] == [None, None]
        alone = await records.termination(shown[0].termination.id)
        assert alone is not None
        assert alone.termination == shown[0].termination
        assert alone.operation_ids == (operation,)
        (listed,) = await operation_records(records)
        assert listed == await operation_record(records, operation)
        certified = await Certification(
            histories=SqlHistories(database), now=lambda: later(5)
        ).issue(operation)
        assert b"NOT FINISHED: 3 of 3 jobs not ended" in certified.data
        live = (await records.live())[State.DRAINING]
        assert live.count == 3
        assert await found(store) == {GOOD, OTHER}
    assert live.since == NOW
    assert await records.set_aside(10) == (1, [shown[0].termination.id])
    assert await store.set_aside_until(MUCH_LATER) is not None
    await assert_the_others_go_along(database, records)


async def assert_the_others_go_along(database: Database, records: SqlRecords) -> None:
    """Another operation joins all three jobs, and the clock steps."""
    hour_s = 3600

    async def step(transaction: Transaction) -> None:
        await clock_steps.follow(transaction, PARTITION, hour_s)

    await submit(records, 2, BAD, GOOD, OTHER)
    await database.write(step)
    _, *others = await records.terminations(after=0, limit=10)
    assert [each.termination.calls.acknowledged_at for each in others] == [later(hour_s)] * 2
    assert [len(each.operation_ids) for each in others] == [2, 2]


async def state_of(database: Database, column: str) -> Any:
    async with database.read() as connection:
        query = select(schema.terminations.c[column])
        return await connection.scalar(query.where(schema.terminations.c.job_id == BAD))


async def planted(database: Database, records: SqlRecords, column: str, value: str) -> str:
    """An operation of three jobs that drain; the row of one of them holds this value."""
    operation = await submit(records, 1, BAD, GOOD, OTHER)
    for record in await records.terminations(after=0, limit=10):
        await store_fields(
            database,
            record.termination,
            state=State.DRAINING,
            evidence=1,
            job_state=JobState.RUNNING,
            acknowledged_at=NOW,
            give_up_at=later(3600),
            run=1,
        )
    await run(database, f"UPDATE terminations SET {column} = {value} WHERE job_id = '{BAD}'")
    return operation


@pytest.mark.parametrize(("column", "value"), ANYWHERE)
async def test_one_row_that_cannot_be_read_stops_no_other(
    database: Database, store: PartitionStore, records: SqlRecords, column: str, value: str
) -> None:
    operation = await planted(database, records, column, value)
    await assert_alone_set_aside(database, store, operation)


@pytest.mark.parametrize(("column", "value"), [*ON_SQLITE, *ON_POSTGRESQL])
async def test_a_bad_value_of_this_database_alone_blocks_no_other(
    database: Database, store: PartitionStore, records: SqlRecords, column: str, value: str
) -> None:
    here = ON_POSTGRESQL if database.dialect.shared else ON_SQLITE
    if (column, value) not in here:
        pytest.skip("the other database's")
    operation = await planted(database, records, column, value)
    await assert_alone_set_aside(database, store, operation)


async def test_a_termination_set_aside_by_a_wrong_clock_is_read_again_once_it_is_corrected(
    database: Database, store: PartitionStore, records: SqlRecords
) -> None:
    await planted(database, records, "escalation_level", "'upstairs'")
    assert await found(store) == {GOOD, OTHER}
    until = await store.set_aside_until(MUCH_LATER)
    assert until is not None
    put_back = until - timedelta(hours=8)
    assert await store.set_aside_until(put_back) == put_back
    await store.retry_set_aside(put_back)
    assert await store.set_aside_until(put_back) is None


@pytest.mark.parametrize("region", ["garbage", "ap-guangzhou-3", ""])
async def test_one_of_no_region_stops_no_call_for_the_others(
    database: Database, store: PartitionStore, records: SqlRecords, region: str
) -> None:
    """There is no host for an unknown region."""
    await planted(database, records, "region", f"'{region}'")
    assert await found(store) == {GOOD, OTHER}
    assert await records.set_aside(10) == (1, [f"trm_1_{BAD}"])


async def test_it_is_logged_once_and_read_again_after_a_while_and_once_it_is_repaired(
    database: Database,
    store: PartitionStore,
    records: SqlRecords,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await planted(database, records, "escalation_level", "'upstairs'")
    for _ in range(3):
        assert await found(store) == {GOOD, OTHER}
        until = await store.set_aside_until(MUCH_LATER)
        assert until is not None
        await store.retry_set_aside(until - timedelta(seconds=1))
        assert await store.set_aside_until(MUCH_LATER) == until
        await store.retry_set_aside(until)
        assert await store.set_aside_until(MUCH_LATER) is None
    assert await found(store) == {GOOD, OTHER}
    (logged,) = caplog.records
    assert (
        f"termination trm_1_{BAD} is set aside and read again every 60 s; its job may still run"
        in logged.message
    )
    assert "'upstairs' is not a valid EscalationLevel" in logged.message
    await run(database, "UPDATE terminations SET escalation_level = 'none'")
    assert await found(store) == {GOOD, OTHER}, "before its time"
    await store.retry_set_aside(MUCH_LATER)
    assert await found(store) == {BAD, GOOD, OTHER}
    assert (await records.set_aside(10))[0] == 1, "until something is decided on it"
    (row, *_) = await records.terminations(after=0, limit=1)
    await store.apply([(row.termination, decide(row.termination, JobUnlisted(), NOW, POLICY))], NOW)
    assert await records.set_aside(10) == (0, [])


async def test_a_lost_answer_is_read_for_again_then(
    database: Database, store: PartitionStore, records: SqlRecords
) -> None:
    await submit(records, 1, BAD)
    (row,) = await records.terminations(after=0, limit=10)
    ready = await store_fields(
        database, row.termination, job_state=JobState.RUNNING, terminate_after=NOW, next_poll_at=NOW
    )
    attempt = NewAttempt(action="TerminateJob", target=BAD, sent_at=NOW)
    assert await store.start_attempt(ready, decide(ready, CallStarted(), NOW, POLICY), attempt)
    await run(database, "UPDATE terminations SET escalation_level = 'upstairs'")
    assert await store.with_open_attempts() == []
    await run(database, "UPDATE terminations SET escalation_level = 'none'")
    await store.retry_set_aside(MUCH_LATER)
    assert [each.job_id for each in await store.with_open_attempts()] == [BAD]


# --- rows of other tables ------------------------------------------------------------------------

OTHER_TABLES: Final = [
    ("operations", "requested_by = 'x', created_at", "'noon'"),
    ("operations", "jobs_unfinished = 0, finished_at = created_at, outcome", "'NONSENSE'"),
    ("events", "from_state", "'NONSENSE'"),
    ("events", "facts", "'{'"),
    ("events", "at", "'noon'"),
    ("attempts", "sent_at", "'noon'"),
    ("attempts", "answered_at = sent_at, outcome", "'NONSENSE'"),
    ("instances", "state", "'NONSENSE'"),
    ("instances", "machine", "'NONSENSE'"),
    ("instances", "observed_at", "'noon'"),
]
ONE: Final = {
    "operations": "id = 'op_1'",
    "events": "number = 1 AND termination_id IS NOT NULL",
    "attempts": "number = 1",
    "instances": "instance_index = 0",
}


async def captured(database: Database, seq: int, *indices: int) -> None:
    for index in indices:
        await run(
            database,
            "INSERT INTO instances (termination_seq, task, instance_index, machine_id, observed_at)"
            f" VALUES ({seq}, 't', {index}, 'ins-{index}', '2026-01-01 12:00:00.000000')",
        )


async def test_an_invalid_time_does_not_hide_other_drains(
    database: Database, records: SqlRecords
) -> None:
    if database.dialect.shared:
        pytest.skip("PostgreSQL does not hold it")
    await planted(database, records, "escalation_level", "'none'")
    ended = (
        "state = 'verified', finished_at = created_at, next_poll_at = NULL, terminate_after = NULL"
    )
    seen = "settle_from = acknowledged_at, instances_observed_at = acknowledged_at"
    await run(database, f"UPDATE terminations SET {ended}, {seen}")
    await run(database, f"UPDATE terminations SET settle_from = 'noon' WHERE job_id = '{BAD}'")
    assert await records.past_durations(PARTITION) is not None


async def test_a_step_of_the_clock_leaves_what_is_no_time_as_it_is(
    database: Database, records: SqlRecords
) -> None:
    if database.dialect.shared:
        pytest.skip("PostgreSQL does not hold it")

    async def step(transaction: Transaction) -> None:
        await clock_steps.follow(transaction, PARTITION, 3600)

    await planted(database, records, "observed_at", "'noon'")
    (bad, *_) = await records.terminations(after=0, limit=10)
    await captured(database, bad.seq, 0)
    await run(database, "UPDATE instances SET observed_at = 'noon'")
    await database.write(step)
    async with database.read() as connection:
        for table in ("terminations", "instances"):
            query = text(f"SELECT count(*) FROM {table} WHERE observed_at = 'noon'")
            assert await connection.scalar(query) == 1


@pytest.mark.parametrize(("table", "column", "value"), OTHER_TABLES)
async def test_lists_hold_what_can_be_read_of_other_tables(
    database: Database,
    store: PartitionStore,
    records: SqlRecords,
    table: str,
    column: str,
    value: str,
) -> None:
    if database.dialect.shared and value != "'NONSENSE'":
        pytest.skip("PostgreSQL does not hold it")
    operation = await submit(records, 1, GOOD)
    (record,) = await records.terminations(after=0, limit=10)
    ready = await store_fields(
        database,
        record.termination,
        job_state=JobState.RUNNING,
        terminate_after=NOW,
        next_poll_at=NOW,
    )
    attempt = NewAttempt(action="TerminateJob", target=GOOD, sent_at=NOW)
    await store.start_attempt(ready, decide(ready, CallStarted(), NOW, POLICY), attempt)
    await captured(database, record.seq, 0, 1)
    await run(database, f"UPDATE {table} SET {column} = {value} WHERE {ONE[table]}")
    (shown,) = await records.terminations(after=0, limit=10)
    assert [each.target for each in shown.attempts] == [GOOD]
    (listed,) = await operation_records(records)
    assert (listed.id, listed) == (operation, await operation_record(records, operation))
    events = await records.events(after=0, limit=9, operation_id=operation, termination_id=None)
    assert [event.number for event in events] == [1, 1, 2]
    instances = await records.instances(
        after=0, limit=10, termination_id=shown.termination.id, states=None, machine=None
    )
    assert [each.index for each in instances] == [0, 1]
    issuing = Certification(histories=SqlHistories(database), now=lambda: later(5))
    assert GOOD.encode() in (await issuing.issue(operation)).data


@pytest.mark.parametrize(
    "corrupt",
    [
        "instances SET machine_id = x'ff' WHERE termination_seq =",
        "terminations SET settle_from = 'noon' WHERE seq =",
    ],
)
async def test_a_machine_whose_row_cannot_be_read_hides_those_of_its_own_job_only(
    database: Database, store: PartitionStore, records: SqlRecords, corrupt: str
) -> None:
    if database.dialect.shared:
        pytest.skip("PostgreSQL does not hold it")
    await submit(records, 1, BAD, GOOD)
    bad, good = await records.terminations(after=0, limit=10)
    for record in (bad, good):
        await captured(database, record.seq, 0)
    await run(database, "UPDATE terminations SET machines_total = 1")
    await run(database, f"UPDATE {corrupt} {bad.seq}")
    for _ in range(2):
        due = await store.instances.machines_due(later(4000), later(4000), 10)
        assert [machine.termination_seq for machine in due] == [good.seq]
    bad, good = await records.terminations(after=0, limit=10)
    problem = bad.termination.machines.problem
    assert problem is not None
    assert problem.code == "Client.RowUnreadable"
    assert good.termination.machines.problem is None


# --- what cannot be stored -----------------------------------------------------------------------

FLOAT, TIME = "float8", "timestamptz"
FINITE: Final = [
    (table.name, column.name)
    for table in schema.metadata.tables.values()
    for column in table.columns
    if isinstance(column.type, schema.UtcDateTime | Float)
]


@pytest.mark.parametrize(("table", "column"), FINITE)
async def test_no_infinity_can_be_stored(database: Database, table: str, column: str) -> None:
    """The table's own check refuses it, whatever other checks the table has."""
    if not database.dialect.shared:
        pytest.skip("SQLite has no such times")
    columns = {name: schema.metadata.tables[t].c[name].type for t, name in FINITE if t == table}
    number = isinstance(columns[column], Float)
    async with database.read() as connection:
        check = await connection.scalar(
            text(
                "SELECT pg_get_expr(conbin, conrelid) FROM pg_constraint"
                f" WHERE conname = 'ck_{table}_finite' AND convalidated"
            )
        )
        for value in ("infinity", "-infinity", *["nan"] * number):
            values = {name: f"'{value}'" if name == column else "NULL" for name in columns}
            row = ", ".join(
                f"CAST({values[name]} AS {FLOAT if isinstance(kind, Float) else TIME}) AS {name}"
                for name, kind in columns.items()
            )
            assert await connection.scalar(text(f"SELECT {check} FROM (SELECT {row}) row")) is False


@pytest.mark.parametrize("year", [1, 1999, 2101, 9999])
async def test_no_time_is_stored_that_cannot_be(
    database: Database, records: SqlRecords, year: int
) -> None:
    await submit(records, 1, GOOD)
    at: datetime = NOW.replace(year=year, day=1)

    async def work(transaction: Transaction) -> None:
        await transaction.execute(update(schema.terminations).values(not_before=at))

    with pytest.raises(StatementError, match="is not a time that can be stored"):
        await database.write(work)


async def test_an_infinite_time_is_refused_by_the_database_itself(
    database: Database, records: SqlRecords
) -> None:
    if not database.dialect.shared:
        pytest.skip("SQLite has no such times")
    await submit(records, 1, GOOD)
    with pytest.raises(DBAPIError, match="ck_terminations_finite"):
        await run(database, "UPDATE terminations SET not_before = '-infinity'")
