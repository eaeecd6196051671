"""The tables. migrations/ creates them; a test compares the two."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
    true,
)

from orchestrator.domain.bounds import possible
from orchestrator.domain.model.lifecycle import FINAL_STATES, State

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime; SQLite stores it as text whose order is that of the times.

    An impossible time raises ValueError: PostgreSQL would store the year 1 as ``-infinity``.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and not possible(value):
            raise ValueError(f"{value} is not a time that can be stored")
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or dialect.name != "sqlite":
            return value
        return value.replace(tzinfo=UTC)


def _sql_list(values: tuple[str, ...]) -> str:
    return ", ".join(f"'{value}'" for value in values)


_ROW_NUMBER = BigInteger().with_variant(Integer(), "sqlite")
_LIVE = text("finished_at IS NULL")

metadata = MetaData(
    naming_convention={
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)

operations = Table(
    "operations",
    metadata,
    Column("seq", _ROW_NUMBER, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("account", Text, nullable=False),
    Column("region", Text, nullable=False),
    Column("partition", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("requested_by", Text, nullable=False),
    Column("idempotency_key", Text),
    Column("request_hash", Text, nullable=False),
    Column("duplicates_merged", Integer, nullable=False),
    Column("jobs_total", Integer, nullable=False),
    Column("jobs_unfinished", Integer, nullable=False),
    Column("outcome", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    Column("reterminate_for_s", Float),
    Column("reterminates_for", Text),
    Column("reterminate_round", Integer, nullable=False, server_default=text("0")),
    Column("first_called_at", UtcDateTime),
    Column("turn", BigInteger),
    UniqueConstraint("requested_by", "idempotency_key"),
    CheckConstraint("length(reason) > 0", name="reason"),
    CheckConstraint("jobs_unfinished BETWEEN 0 AND jobs_total", name="jobs_unfinished"),
    CheckConstraint("(jobs_unfinished = 0) = (finished_at IS NOT NULL)", name="finished_at"),
    CheckConstraint("(finished_at IS NOT NULL) = (outcome IS NOT NULL)", name="outcome"),
)

terminations = Table(
    "terminations",
    metadata,
    Column("seq", _ROW_NUMBER, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("account", Text, nullable=False),
    Column("region", Text, nullable=False),
    Column("partition", Text, nullable=False),
    Column("job_id", Text, nullable=False),
    Column("settle_s", Float, nullable=False),
    Column("give_up_after_s", Float, nullable=False),
    Column("on_submitted", Text, nullable=False),
    Column("not_before", UtcDateTime),
    Column("state", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("evidence", Integer, nullable=False),
    Column("job_name", Text),
    Column("job_state", Text),
    Column("job_end_time", Text),
    Column("job_next_action", Text),
    Column("observed_at", UtcDateTime),
    Column("instances", JSON(none_as_null=True)),
    Column("instances_total", BigInteger),
    Column("instances_live", BigInteger),
    Column("instances_observed_at", UtcDateTime),
    Column("instances_submitted", BigInteger),
    Column("tasks", JSON, nullable=False),
    Column("poll_kind", Text, nullable=False),
    Column("next_poll_at", UtcDateTime),
    Column("terminate_after", UtcDateTime),
    Column("priority", Boolean, nullable=False),
    Column("outcome_unknown", Boolean, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("run", Integer, nullable=False, server_default=text("0")),
    Column("calls_begun_at", UtcDateTime),
    Column("first_sent_at", UtcDateTime),
    Column("acknowledged_at", UtcDateTime),
    Column("give_up_from", UtcDateTime),
    Column("settle_from", UtcDateTime),
    Column("confirm_from", UtcDateTime),
    Column("problem", JSON(none_as_null=True)),
    Column("unconfirmed", JSON(none_as_null=True)),
    Column("created_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    Column("capture", JSON(none_as_null=True)),
    Column("capture_at", UtcDateTime),
    Column("captured_run", Integer, nullable=False, server_default=text("0")),
    Column("awaits_capture", Boolean, nullable=False, server_default=true()),
    Column("machines_total", BigInteger, nullable=False, server_default=text("0")),
    Column("machines_up", BigInteger, nullable=False, server_default=text("0")),
    Column("machines_gone", BigInteger, nullable=False, server_default=text("0")),
    Column("machines_listed", Boolean, nullable=False, server_default=false()),
    Column("machines_observed_at", UtcDateTime),
    Column("machines_all_observed_at", UtcDateTime),
    Column("machines_problem", JSON(none_as_null=True)),
    Column("last_progress_at", UtcDateTime),
    Column("escalate", Boolean, nullable=False, server_default=true()),
    Column("escalation_level", Text, nullable=False, server_default=text("'none'")),
    Column("escalation_started_at", UtcDateTime),
    Column("escalation_round", Integer, nullable=False, server_default=text("0")),
    Column("escalation_finished_at", UtcDateTime),
    Column("asked_at", UtcDateTime),
    Column("rescan", JSON(none_as_null=True)),
    Column("rescan_at", UtcDateTime),
    Column("rescanned_at", UtcDateTime),
    Column("history", JSON(none_as_null=True)),
    Column("forecast_made_at", UtcDateTime),
    Column("forecast_rate_per_s", Float),
    Column("forecast_p50_at", UtcDateTime),
    Column("forecast_p90_at", UtcDateTime),
    Column("forecast_stalled_since", UtcDateTime),
    Column("revival_watch_s", Float, nullable=False, server_default=text("0")),
    Column("revival_watch_from", UtcDateTime),
    Column("revival_checked_at", UtcDateTime),
    Column("revival", JSON(none_as_null=True)),
    Column("turn", BigInteger, nullable=False, server_default=text("0")),
    Column("last_turn", BigInteger, nullable=False, server_default=text("0")),
    Column("set_aside", Text),
    Column("set_aside_until", UtcDateTime),
    CheckConstraint(f"state IN ({_sql_list(tuple(State))})", name="state"),
    CheckConstraint("evidence BETWEEN 0 AND 5", name="evidence"),
    CheckConstraint(
        f"(state IN ({_sql_list(FINAL_STATES)})) = (finished_at IS NOT NULL)", name="finished_at"
    ),
    CheckConstraint(
        "finished_at IS NULL OR (next_poll_at IS NULL AND terminate_after IS NULL)", name="idle"
    ),
)

Index(
    "uq_terminations_live_job",
    terminations.c.account,
    terminations.c.region,
    terminations.c.job_id,
    unique=True,
    sqlite_where=_LIVE,
    postgresql_where=_LIVE,
)
Index("ix_terminations_job", terminations.c.job_id)
Index(
    "ix_terminations_counted",
    terminations.c.partition,
    terminations.c.state,
    terminations.c.instances_observed_at,
)
Index(
    "ix_terminations_poll",
    terminations.c.partition,
    terminations.c.poll_kind,
    terminations.c.state,
    terminations.c.next_poll_at,
    sqlite_where=text("next_poll_at IS NOT NULL"),
    postgresql_where=text("next_poll_at IS NOT NULL"),
)
# The order of the calls comes before terminate_after: SQLite would choose an index that begins with
# terminate_after, and then sort all of its rows.
Index(
    "ix_terminations_turn",
    terminations.c.partition,
    terminations.c.priority.desc(),
    terminations.c.turn,
    terminations.c.last_turn,
    terminations.c.seq,
    terminations.c.terminate_after,
    sqlite_where=text("terminate_after IS NOT NULL"),
    postgresql_where=text("terminate_after IS NOT NULL"),
)
_NEVER_POLLED = text("job_state IS NULL AND next_poll_at IS NOT NULL")
Index(
    "ix_terminations_unseen",
    terminations.c.partition,
    terminations.c.poll_kind,
    terminations.c.turn,
    terminations.c.seq,
    terminations.c.next_poll_at,
    sqlite_where=_NEVER_POLLED,
    postgresql_where=_NEVER_POLLED,
)

_TO_CAPTURE = text("captured_run < run AND finished_at IS NULL")
Index(
    "ix_terminations_capture",
    terminations.c.partition,
    terminations.c.priority.desc(),
    terminations.c.turn,
    terminations.c.last_turn,
    terminations.c.seq,
    sqlite_where=_TO_CAPTURE,
    postgresql_where=_TO_CAPTURE,
)
_NEVER_LISTED = text("machines_total > 0 AND machines_observed_at IS NULL AND finished_at IS NULL")
Index(
    "ix_terminations_machines",
    terminations.c.partition,
    sqlite_where=_NEVER_LISTED,
    postgresql_where=_NEVER_LISTED,
)
TO_RESCAN = text(
    "finished_at IS NULL AND (escalation_started_at IS NOT NULL OR asked_at IS NOT NULL)"
)
Index(
    "ix_terminations_rescan",
    terminations.c.partition,
    sqlite_where=TO_RESCAN,
    postgresql_where=TO_RESCAN,
)

Index(
    "ix_terminations_revival",
    terminations.c.partition,
    terminations.c.revival_checked_at,
    sqlite_where=text("revival_checked_at IS NOT NULL"),
    postgresql_where=text("revival_checked_at IS NOT NULL"),
)
_SET_ASIDE = text("set_aside IS NOT NULL")
Index(
    "ix_terminations_set_aside",
    terminations.c.partition,
    terminations.c.set_aside_until,
    sqlite_where=_SET_ASIDE,
    postgresql_where=_SET_ASIDE,
)
"""``set_aside`` is the reason why a loop could not process a termination; no loop reads it again
before ``set_aside_until``. Both are NULL again once a decision on the termination was written.
"""

instances = Table(
    "instances",
    metadata,
    Column("termination_seq", ForeignKey("terminations.seq"), primary_key=True),
    Column("task", Text, primary_key=True),
    Column("instance_index", Integer, primary_key=True, autoincrement=False),
    Column("machine_id", Text, primary_key=True),
    Column("state", Text),
    Column("reason", Text),
    Column("observed_at", UtcDateTime, nullable=False),
    Column("machine", Text),
    Column("machine_observed_at", UtcDateTime),
    Column("rescanned", Boolean, nullable=False, server_default=false()),
    Column("last_sent_at", UtcDateTime),
    sqlite_with_rowid=False,
)
"""Instances that had a machine when they were captured, and instances that were live when they were
read again (``rescanned``).

An instance that was last observed before the newest rescan (``terminations.rescanned_at``) is not
live any more: a job may have 200,000 instances, and the rows of stopped instances are not updated.
``machine`` is the state of its machine that CVM showed. ``last_sent_at`` is the time of the last
call of an escalation for it, TerminateTaskInstance or TerminateInstances. An instance that runs
again runs on another machine, which is another row.
"""
RESCANNED = text("rescanned")
Index(
    "ix_instances_rescanned",
    instances.c.termination_seq,
    sqlite_where=RESCANNED,
    postgresql_where=RESCANNED,
)
MACHINE_GONE = text("machine IN ('gone', 'terminated')")
Index(
    "ix_instances_machine_gone",
    instances.c.termination_seq,
    instances.c.machine_observed_at,
    sqlite_where=MACHINE_GONE,
    postgresql_where=MACHINE_GONE,
)
MACHINE_REMAINING = text("machine_id <> '' AND (machine IS NULL OR machine IN ('up', 'missing'))")
Index(
    "ix_instances_machine_left",
    instances.c.termination_seq,
    instances.c.machine_observed_at,
    sqlite_where=MACHINE_REMAINING,
    postgresql_where=MACHINE_REMAINING,
)

operation_terminations = Table(
    "operation_terminations",
    metadata,
    Column("operation_id", ForeignKey("operations.id"), primary_key=True),
    Column("termination_id", ForeignKey("terminations.id"), primary_key=True),
    Index("ix_operation_terminations_termination", "termination_id"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("seq", _ROW_NUMBER, primary_key=True, autoincrement=True),
    Column("termination_id", ForeignKey("terminations.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("partition", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("sent_at", UtcDateTime, nullable=False),
    Column("answered_at", UtcDateTime),
    Column("outcome", Text),
    Column("code", Text),
    Column("message", Text),
    Column("request_id", Text),
    UniqueConstraint("termination_id", "number"),
    CheckConstraint("(answered_at IS NULL) = (outcome IS NULL)", name="answered_at"),
    Index("ix_attempts_partition_sent_at", "partition", "sent_at"),
)
Index(
    "uq_attempts_open",
    attempts.c.termination_id,
    attempts.c.target,
    unique=True,
    sqlite_where=text("answered_at IS NULL"),
    postgresql_where=text("answered_at IS NULL"),
)

events = Table(
    "events",
    metadata,
    Column("id", _ROW_NUMBER, primary_key=True, autoincrement=True),
    Column("at", UtcDateTime, nullable=False),
    Column("operation_id", ForeignKey("operations.id")),
    Column("termination_id", ForeignKey("terminations.id")),
    Column("type", Text, nullable=False),
    Column("from_state", Text),
    Column("to_state", Text),
    Column("evidence", Integer),
    Column("why", Text),
    Column("number", Integer, nullable=False),
    Column("facts", JSON(none_as_null=True)),
    Column("hash", Text, nullable=False),
    UniqueConstraint("operation_id", "number"),
    UniqueConstraint("termination_id", "number"),
    CheckConstraint(
        "(operation_id IS NULL) <> (termination_id IS NULL)", name="operation_or_termination"
    ),
    CheckConstraint("number > 0", name="number"),
    CheckConstraint("length(hash) = 64", name="hash"),
)
"""``number`` counts the events of one subject. It is unique, so that the hash chain cannot fork."""

partitions = Table(
    "partitions",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text),
    Column("epoch", BigInteger, nullable=False),
    Column("trouble_code", Text),
    Column("trouble_message", Text),
    Column("trouble_advice", Text),
    Column("allowed_per_s", Float),
    Column("followed_s", BigInteger, nullable=False, server_default=text("0")),
    Column("turn", BigInteger, nullable=False, server_default=text("0")),
)
"""``followed_s``: the recorded clock steps by which the times of its terminations were moved."""

clock_steps = Table(
    "clock_steps",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("steps_s", BigInteger, nullable=False),
    Column("began_at", UtcDateTime, nullable=False),
    Column("away_s", BigInteger, nullable=False),
    Column("seen_at", UtcDateTime),
)
"""One row: the sum of the steps of the database's clock that replicas have recorded, in seconds.

The sum begins when a replica starts while no other one is live. The clock then showed ``began_at``,
which was ``away_s`` after the last renewal before. ``seen_at`` is its time at the last renewal.
"""

replicas = Table(
    "replicas",
    metadata,
    Column("id", Text, primary_key=True),
    Column("partitions", JSON, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
)
"""Live replicas. Any replica deletes an expired row; only its deletion declares a replica dead.

A partition whose holder has no row is free.
"""

probes = Table(
    "probes",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
    Column("filler", LargeBinary),
)
"""One row, written to test whether a request could be stored; ``filler`` gives it that size."""


def _add_finite_check(table: Table) -> None:
    """Make PostgreSQL refuse infinities and NaN, which SQLite cannot store as times."""
    times = [column.name for column in table.columns if isinstance(column.type, UtcDateTime)]
    numbers = [column.name for column in table.columns if isinstance(column.type, Float)]
    finite = " AND ".join(
        f"({name} > '-infinity' AND {name} < 'infinity')" for name in (*times, *numbers)
    )
    if finite:
        check = CheckConstraint(finite, name="finite").ddl_if(dialect="postgresql")
        table.append_constraint(check)


for _table in metadata.tables.values():
    _add_finite_check(_table)
