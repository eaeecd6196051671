"""The schema that the migrations create: equal to this version's, and strict about bad rows."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import CheckConstraint, Table, create_engine, event, insert, select, text
from sqlalchemy.exc import IntegrityError

from orchestrator.domain.errors import ConfigurationError
from orchestrator.store import schema
from orchestrator.store.database.migrations import MIGRATIONS, alembic_config, upgrade
from tests.unit.domain.build import NOW

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from sqlalchemy import Connection, Engine

HEAD = ScriptDirectory.from_config(alembic_config()).get_current_head()
LIVE_STATES = ["queued", "held", "sending", "draining", "settling"]
FINAL_STATES = [
    "verified",
    "already_finished",
    "not_found",
    "refused",
    "withdrawn",
    "unverified",
]

OPERATION: dict[str, Any] = {
    "id": "op_1",
    "account": "main",
    "region": "ap-guangzhou",
    "partition": "main@host",
    "reason": "budget",
    "requested_by": "me",
    "request_hash": "h",
    "duplicates_merged": 0,
    "jobs_total": 2,
    "jobs_unfinished": 1,
    "created_at": NOW,
}
TERMINATION: dict[str, Any] = {
    "id": "trm_1",
    "account": "main",
    "region": "ap-guangzhou",
    "partition": "main@host",
    "job_id": "job-1",
    "settle_s": 30.0,
    "give_up_after_s": 3600.0,
    "on_submitted": "hold",
    "state": "queued",
    "revision": 0,
    "evidence": 0,
    "tasks": [],
    "poll_kind": "batch",
    "priority": False,
    "outcome_unknown": False,
    "failures": 0,
    "created_at": NOW,
}
ATTEMPT: dict[str, Any] = {
    "termination_id": "trm_0",
    "number": 1,
    "partition": "main@host",
    "action": "TerminateJob",
    "target": "job-0",
    "sent_at": NOW,
}
EVENT: dict[str, Any] = {
    "at": NOW,
    "operation_id": "op_0",
    "type": "accepted",
    "number": 1,
    "hash": "0" * 64,
}
ROWS: dict[str, dict[str, Any]] = {
    "operations": OPERATION,
    "terminations": TERMINATION,
    "attempts": ATTEMPT,
    "events": EVENT,
}
"""A valid row of each table."""


@contextmanager
def opened(path: Path) -> Iterator[Engine]:
    """Open the file at ``path`` with foreign keys enforced, as the daemon does."""
    engine = create_engine(f"sqlite:///{path}")

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _: object) -> None:
        connection.execute("PRAGMA foreign_keys = ON")

    try:
        yield engine
    finally:
        engine.dispose()


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """SQLite alone: the tests read its own description of its tables."""
    return f"sqlite+aiosqlite:///{tmp_path}/orchestrator.db"


@pytest.fixture
async def upgraded(database_url: str, tmp_path: Path) -> AsyncIterator[Engine]:
    """An empty database after its upgrade, with an operation and a termination."""
    await upgrade(database_url)
    with opened(tmp_path / "orchestrator.db") as engine:
        with engine.begin() as connection:
            put(connection, "operations", id="op_0")
            put(connection, "terminations", id="trm_0", job_id="job-0")
        yield engine


def put(connection: Connection, table: str, **changes: Any) -> None:
    row = ROWS.get(table, {}) | changes
    connection.execute(insert(schema.metadata.tables[table]).values(row))


def refused(engine: Engine, table: str, **changes: Any) -> str:
    """Return the error with which SQLite refuses a row."""
    with pytest.raises(IntegrityError) as caught, engine.begin() as connection:
        put(connection, table, **changes)
    return str(caught.value.orig)


def named(value: Any) -> str:
    """Return the changes of a row, or a name, as part of a test's id."""
    if not isinstance(value, dict):
        return str(value)
    changes = (f"{name}={'NOW' if each is NOW else each}" for name, each in value.items())
    return ",".join(changes) or "-"


def statements(engine: Engine) -> dict[str, list[str]]:
    """Return the parts of the statement of each table and index, sorted.

    SQLite quotes the name of a table once the table was rebuilt.
    """
    with engine.connect() as connection:
        made = connection.execute(
            text("SELECT name, sql FROM sqlite_master WHERE tbl_name <> 'alembic_version'")
        ).all()
    return {row.name: sorted(parts((row.sql or "").replace('"', ""))) for row in made}


def parts(statement: str) -> list[str]:
    """Return what is inside the outer parentheses of a statement, and what is around them."""
    made, depth = [""], 0
    for character in statement:
        depth += (character == "(") - (character == ")")
        if depth <= 1 and character in "(,)":
            made.append("")
        else:
            made[-1] += character
    return [" ".join(part.split()) for part in made]


def contents(engine: Engine) -> dict[str, list[Any]]:
    with engine.connect() as connection:
        return {
            name: [tuple(row) for row in connection.execute(select(table))]
            for name, table in schema.metadata.tables.items()
        }


# --- the schema ----------------------------------------------------------------------------------


async def test_an_upgraded_database_lacks_nothing_that_alembic_compares(upgraded: Engine) -> None:
    """Alembic compares tables, columns, types, nullability, keys and indexes."""
    with upgraded.connect() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, schema.metadata) == []


async def test_an_upgraded_database_is_made_of_the_same_statements(
    upgraded: Engine, tmp_path: Path
) -> None:
    """Alembic compares neither the text of a CHECK nor the WHERE of an index."""
    with opened(tmp_path / "made.db") as engine:
        schema.metadata.create_all(engine)
        made = statements(engine)
    assert statements(upgraded) == made
    assert set(schema.metadata.tables) <= set(made)
    assert any("CHECK" in line for line in made["terminations"])
    assert any("WHERE" in line for line in made["uq_terminations_live_job"])


async def test_upgrade_says_which_revision_was_reached_and_is_idempotent(
    database_url: str, upgraded: Engine
) -> None:
    before = statements(upgraded), contents(upgraded)
    assert (await upgrade(database_url)).revision == HEAD
    assert (await upgrade(database_url)).revision == HEAD
    assert (statements(upgraded), contents(upgraded)) == before
    assert contents(upgraded)["terminations"]
    with upgraded.connect() as connection:
        assert MigrationContext.configure(connection).get_current_revision() == HEAD


async def test_a_database_of_a_newer_version_is_refused_and_left_alone(
    database_url: str, upgraded: Engine
) -> None:
    with upgraded.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    before = statements(upgraded), contents(upgraded)
    with pytest.raises(ConfigurationError, match="schema revision 9999, unknown to this version"):
        await upgrade(database_url)
    assert (statements(upgraded), contents(upgraded)) == before
    with upgraded.connect() as connection:
        assert MigrationContext.configure(connection).get_current_revision() == "9999"


# --- rows that it refuses ------------------------------------------------------------------------

Nonsense = tuple[str, str, dict[str, Any]]

NONSENSE: list[Nonsense] = [
    ("operations", "ck_operations_reason", {"reason": ""}),
    ("operations", "ck_operations_jobs_unfinished", {"jobs_unfinished": -1}),
    ("operations", "ck_operations_jobs_unfinished", {"jobs_unfinished": 3}),
    ("operations", "ck_operations_finished_at", {"jobs_unfinished": 0}),
    ("operations", "ck_operations_finished_at", {"finished_at": NOW, "outcome": "verified"}),
    ("operations", "ck_operations_outcome", {"outcome": "failed"}),
    ("operations", "ck_operations_outcome", {"jobs_unfinished": 0, "finished_at": NOW}),
    ("terminations", "ck_terminations_state", {"state": "gone"}),
    ("terminations", "ck_terminations_state", {"state": "VERIFIED"}),
    ("terminations", "ck_terminations_evidence", {"evidence": -1}),
    ("terminations", "ck_terminations_evidence", {"evidence": 6}),
    *[("terminations", "ck_terminations_finished_at", {"state": state}) for state in FINAL_STATES],
    *[
        ("terminations", "ck_terminations_finished_at", {"state": state, "finished_at": NOW})
        for state in LIVE_STATES
    ],
    *[
        (
            "terminations",
            "ck_terminations_idle",
            {"state": "verified", "finished_at": NOW, planned: NOW},
        )
        for planned in ("next_poll_at", "terminate_after")
    ],
    ("attempts", "ck_attempts_answered_at", {"answered_at": NOW}),
    ("attempts", "ck_attempts_answered_at", {"outcome": "accepted"}),
    ("events", "ck_events_operation_or_termination", {"operation_id": None}),
    ("events", "ck_events_operation_or_termination", {"termination_id": "trm_0"}),
    ("events", "ck_events_number", {"number": 0}),
    ("events", "ck_events_hash", {"hash": "0" * 63}),
]


ONLY_ON_POSTGRESQL = "_finite"


def checks(table: Table) -> dict[str, str]:
    return {
        str(constraint.name): str(constraint.sqltext)
        for constraint in table.constraints
        if isinstance(constraint, CheckConstraint)
        and not str(constraint.name).endswith(ONLY_ON_POSTGRESQL)
    }


@pytest.mark.parametrize(("table", "check", "changes"), NONSENSE, ids=named)
async def test_nonsense_is_refused(
    upgraded: Engine, table: str, check: str, changes: dict[str, Any]
) -> None:
    assert refused(upgraded, table, **changes) == f"CHECK constraint failed: {check}"


@pytest.mark.parametrize(("table", "check", "changes"), NONSENSE, ids=named)
async def test_only_the_one_check_refuses_it(
    upgraded: Engine, table: str, check: str, changes: dict[str, Any]
) -> None:
    with upgraded.begin() as connection:
        connection.execute(text("PRAGMA ignore_check_constraints = ON"))
        put(connection, table, **changes)
        violated = [
            name
            for name, condition in checks(schema.metadata.tables[table]).items()
            if connection.scalar(text(f"SELECT max(NOT ({condition})) FROM {table}"))
        ]
    assert violated == [check]


def test_every_check_of_the_schema_is_among_them() -> None:
    tables = schema.metadata.tables.values()
    assert {name for table in tables for name in checks(table)} == {case[1] for case in NONSENSE}


@pytest.mark.parametrize(
    ("table", "changes"),
    [
        *[(table, {}) for table in ROWS],
        *[("terminations", {"state": state, "next_poll_at": NOW}) for state in LIVE_STATES],
        *[("terminations", {"state": state, "finished_at": NOW}) for state in FINAL_STATES],
        *[("terminations", {"evidence": level}) for level in range(6)],
        ("operations", {"jobs_unfinished": 2}),
        ("operations", {"jobs_unfinished": 0, "finished_at": NOW, "outcome": "failed"}),
        ("attempts", {"answered_at": NOW, "outcome": "accepted"}),
        ("events", {"operation_id": None, "termination_id": "trm_0"}),
    ],
    ids=named,
)
async def test_a_valid_row_is_accepted(
    upgraded: Engine, table: str, changes: dict[str, Any]
) -> None:
    before = len(contents(upgraded)[table])
    with upgraded.begin() as connection:
        put(connection, table, **changes)
    assert len(contents(upgraded)[table]) == before + 1


# --- uniqueness ----------------------------------------------------------------------------------

DONE = {"state": "verified", "finished_at": NOW}


def put_all(engine: Engine, *rows: tuple[str, dict[str, Any]]) -> None:
    with engine.begin() as connection:
        for table, changes in rows:
            put(connection, table, **changes)


async def test_a_job_has_one_live_termination_at_most(upgraded: Engine) -> None:
    put_all(upgraded, ("terminations", {}))
    assert refused(upgraded, "terminations", id="trm_2", state="settling") == (
        "UNIQUE constraint failed: terminations.account, terminations.region, terminations.job_id"
    )


@pytest.mark.parametrize("other", ["account", "region", "job_id"])
async def test_a_job_is_named_by_account_region_and_id(upgraded: Engine, other: str) -> None:
    put_all(upgraded, ("terminations", {}), ("terminations", {"id": "trm_2", other: "another"}))
    assert len(contents(upgraded)["terminations"]) == 3


async def test_a_job_may_have_many_terminations_that_are_finished(upgraded: Engine) -> None:
    put_all(
        upgraded,
        ("terminations", DONE),
        ("terminations", DONE | {"id": "trm_2"}),
        ("terminations", {"id": "trm_3"}),
    )
    assert len(contents(upgraded)["terminations"]) == 4


async def test_a_caller_uses_an_idempotency_key_once(upgraded: Engine) -> None:
    put_all(upgraded, ("operations", {"idempotency_key": "k"}))
    assert refused(upgraded, "operations", id="op_2", idempotency_key="k") == (
        "UNIQUE constraint failed: operations.requested_by, operations.idempotency_key"
    )


async def test_another_caller_may_use_the_same_key_and_a_key_is_optional(upgraded: Engine) -> None:
    put_all(
        upgraded,
        ("operations", {"idempotency_key": "k"}),
        ("operations", {"id": "op_2", "idempotency_key": "k", "requested_by": "you"}),
        ("operations", {"id": "op_3"}),
        ("operations", {"id": "op_4"}),
    )
    assert len(contents(upgraded)["operations"]) == 5


async def test_a_target_has_one_open_attempt_at_most(upgraded: Engine) -> None:
    answered = {"answered_at": NOW, "outcome": "throttled"}
    put_all(upgraded, ("attempts", answered), ("attempts", {"number": 2}))
    assert refused(upgraded, "attempts", number=3) == (
        "UNIQUE constraint failed: attempts.termination_id, attempts.target"
    )
    put_all(upgraded, ("attempts", {"number": 4, "target": "task/1"}))
    put_all(upgraded, ("attempts", answered | {"number": 3}))


@pytest.mark.parametrize(
    ("table", "first", "second", "columns"),
    [
        ("operations", {}, {"jobs_total": 7}, "operations.id"),
        ("terminations", {}, {"job_id": "job-2"}, "terminations.id"),
        (
            "attempts",
            {"answered_at": NOW, "outcome": "throttled"},
            {},
            "attempts.termination_id, attempts.number",
        ),
        ("events", {}, {"hash": "1" * 64}, "events.operation_id, events.number"),
        (
            "events",
            {"operation_id": None, "termination_id": "trm_0"},
            {"operation_id": None, "termination_id": "trm_0", "hash": "1" * 64},
            "events.termination_id, events.number",
        ),
    ],
)
async def test_no_two_have_one_name(
    upgraded: Engine, table: str, first: dict[str, Any], second: dict[str, Any], columns: str
) -> None:
    put_all(upgraded, (table, first))
    assert refused(upgraded, table, **second) == f"UNIQUE constraint failed: {columns}"


@pytest.mark.parametrize(
    ("table", "changes"),
    [
        ("attempts", {"termination_id": "trm_none"}),
        ("events", {"operation_id": "op_none"}),
        ("events", {"operation_id": None, "termination_id": "trm_none"}),
        ("operation_terminations", {"operation_id": "op_0", "termination_id": "trm_none"}),
        ("operation_terminations", {"operation_id": "op_none", "termination_id": "trm_0"}),
    ],
    ids=named,
)
async def test_rows_about_missing_rows_are_refused(
    upgraded: Engine, table: str, changes: dict[str, Any]
) -> None:
    assert refused(upgraded, table, **changes) == "FOREIGN KEY constraint failed"


async def test_tables_without_a_schema_revision_are_refused_with_that_reason(
    upgraded: Engine, database_url: str
) -> None:
    with upgraded.begin() as connection:
        connection.execute(text("DROP TABLE alembic_version"))
    with pytest.raises(ConfigurationError, match=r"alembic_version.* is missing: restore that"):
        await upgrade(database_url)


def test_migrations_import_nothing_of_the_program() -> None:
    """The program changes; a migration must not change with it."""
    versions = list((MIGRATIONS / "versions").glob("*.py"))
    assert versions
    assert [each.name for each in versions if "orchestrator" in each.read_text()] == []
