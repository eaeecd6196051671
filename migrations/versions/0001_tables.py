"""All tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIMES_AND_NUMBERS = {
    "clock_steps": ["began_at", "seen_at"],
    "operations": ["created_at", "finished_at", "first_called_at", "reterminate_for_s"],
    "partitions": ["allowed_per_s"],
    "replicas": ["expires_at"],
    "terminations": [
        "not_before",
        "observed_at",
        "instances_observed_at",
        "next_poll_at",
        "terminate_after",
        "calls_begun_at",
        "first_sent_at",
        "acknowledged_at",
        "give_up_from",
        "settle_from",
        "confirm_from",
        "created_at",
        "finished_at",
        "capture_at",
        "machines_observed_at",
        "machines_all_observed_at",
        "last_progress_at",
        "escalation_started_at",
        "escalation_finished_at",
        "asked_at",
        "rescan_at",
        "rescanned_at",
        "forecast_made_at",
        "forecast_p50_at",
        "forecast_p90_at",
        "forecast_stalled_since",
        "revival_watch_from",
        "revival_checked_at",
        "set_aside_until",
        "settle_s",
        "give_up_after_s",
        "forecast_rate_per_s",
        "revival_watch_s",
    ],
    "attempts": ["sent_at", "answered_at"],
    "events": ["at"],
    "instances": ["observed_at", "machine_observed_at", "last_sent_at"],
}
"""Columns in which PostgreSQL alone would take an infinite value."""


def upgrade() -> None:
    op.create_table(
        "clock_steps",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("steps_s", sa.BigInteger(), nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("away_s", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_clock_steps")),
    )
    op.create_table(
        "operations",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("partition", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("request_hash", sa.Text(), nullable=False),
        sa.Column("duplicates_merged", sa.Integer(), nullable=False),
        sa.Column("jobs_total", sa.Integer(), nullable=False),
        sa.Column("jobs_unfinished", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reterminate_for_s", sa.Float(), nullable=True),
        sa.Column("reterminates_for", sa.Text(), nullable=True),
        sa.Column("reterminate_round", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("first_called_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("turn", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (outcome IS NOT NULL)", name=op.f("ck_operations_outcome")
        ),
        sa.CheckConstraint(
            "(jobs_unfinished = 0) = (finished_at IS NOT NULL)",
            name=op.f("ck_operations_finished_at"),
        ),
        sa.CheckConstraint(
            "jobs_unfinished BETWEEN 0 AND jobs_total", name=op.f("ck_operations_jobs_unfinished")
        ),
        sa.CheckConstraint("length(reason) > 0", name=op.f("ck_operations_reason")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_operations")),
        sa.UniqueConstraint("id", name=op.f("uq_operations_id")),
        sa.UniqueConstraint(
            "requested_by",
            "idempotency_key",
            name=op.f("uq_operations_requested_by_idempotency_key"),
        ),
    )
    op.create_table(
        "partitions",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=True),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("trouble_code", sa.Text(), nullable=True),
        sa.Column("trouble_message", sa.Text(), nullable=True),
        sa.Column("trouble_advice", sa.Text(), nullable=True),
        sa.Column("allowed_per_s", sa.Float(), nullable=True),
        sa.Column("followed_s", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("turn", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_partitions")),
    )
    probes = op.create_table(
        "probes",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("filler", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_probes")),
    )
    op.create_table(
        "replicas",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("partitions", sa.JSON(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replicas")),
    )
    op.create_table(
        "terminations",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("partition", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("settle_s", sa.Float(), nullable=False),
        sa.Column("give_up_after_s", sa.Float(), nullable=False),
        sa.Column("on_submitted", sa.Text(), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("evidence", sa.Integer(), nullable=False),
        sa.Column("job_name", sa.Text(), nullable=True),
        sa.Column("job_state", sa.Text(), nullable=True),
        sa.Column("job_end_time", sa.Text(), nullable=True),
        sa.Column("job_next_action", sa.Text(), nullable=True),
        sa.Column("observed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("instances", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("instances_total", sa.BigInteger(), nullable=True),
        sa.Column("instances_live", sa.BigInteger(), nullable=True),
        sa.Column("instances_observed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("instances_submitted", sa.BigInteger(), nullable=True),
        sa.Column("tasks", sa.JSON(), nullable=False),
        sa.Column("poll_kind", sa.Text(), nullable=False),
        sa.Column("next_poll_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("terminate_after", sa.DateTime(timezone=True), nullable=True),
        sa.Column("priority", sa.Boolean(), nullable=False),
        sa.Column("outcome_unknown", sa.Boolean(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("run", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("calls_begun_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("first_sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("acknowledged_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("give_up_from", sa.DateTime(timezone=True), nullable=True),
        sa.Column("settle_from", sa.DateTime(timezone=True), nullable=True),
        sa.Column("confirm_from", sa.DateTime(timezone=True), nullable=True),
        sa.Column("problem", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("unconfirmed", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("capture", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("capture_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("captured_run", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("awaits_capture", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("machines_total", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("machines_up", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("machines_gone", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("machines_listed", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("machines_observed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("machines_all_observed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("machines_problem", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("last_progress_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("escalate", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("escalation_level", sa.Text(), server_default=sa.text("'none'"), nullable=False),
        sa.Column("escalation_started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("escalation_round", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("escalation_finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("rescan", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("rescan_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("rescanned_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("history", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("forecast_made_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("forecast_rate_per_s", sa.Float(), nullable=True),
        sa.Column("forecast_p50_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("forecast_p90_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("forecast_stalled_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revival_watch_s", sa.Float(), server_default=sa.text("0"), nullable=False),
        sa.Column("revival_watch_from", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revival_checked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revival", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("turn", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_turn", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("set_aside", sa.Text(), nullable=True),
        sa.Column("set_aside_until", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state IN ('verified', 'already_finished', 'not_found', 'refused', 'withdrawn', 'unverified')) = (finished_at IS NOT NULL)",
            name=op.f("ck_terminations_finished_at"),
        ),
        sa.CheckConstraint(
            "state IN ('queued', 'held', 'sending', 'draining', 'settling', 'verified', 'already_finished', 'not_found', 'refused', 'withdrawn', 'unverified')",
            name=op.f("ck_terminations_state"),
        ),
        sa.CheckConstraint("evidence BETWEEN 0 AND 5", name=op.f("ck_terminations_evidence")),
        sa.CheckConstraint(
            "finished_at IS NULL OR (next_poll_at IS NULL AND terminate_after IS NULL)",
            name=op.f("ck_terminations_idle"),
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_terminations")),
        sa.UniqueConstraint("id", name=op.f("uq_terminations_id")),
    )
    op.create_index(
        "ix_terminations_capture",
        "terminations",
        ["partition", sa.literal_column("priority DESC"), "turn", "last_turn", "seq"],
        unique=False,
        sqlite_where=sa.text("captured_run < run AND finished_at IS NULL"),
        postgresql_where=sa.text("captured_run < run AND finished_at IS NULL"),
    )
    op.create_index(
        "ix_terminations_counted",
        "terminations",
        ["partition", "state", "instances_observed_at"],
        unique=False,
    )
    op.create_index("ix_terminations_job", "terminations", ["job_id"], unique=False)
    op.create_index(
        "ix_terminations_machines",
        "terminations",
        ["partition"],
        unique=False,
        sqlite_where=sa.text(
            "machines_total > 0 AND machines_observed_at IS NULL AND finished_at IS NULL"
        ),
        postgresql_where=sa.text(
            "machines_total > 0 AND machines_observed_at IS NULL AND finished_at IS NULL"
        ),
    )
    op.create_index(
        "ix_terminations_poll",
        "terminations",
        ["partition", "poll_kind", "state", "next_poll_at"],
        unique=False,
        sqlite_where=sa.text("next_poll_at IS NOT NULL"),
        postgresql_where=sa.text("next_poll_at IS NOT NULL"),
    )
    op.create_index(
        "ix_terminations_rescan",
        "terminations",
        ["partition"],
        unique=False,
        sqlite_where=sa.text(
            "finished_at IS NULL AND (escalation_started_at IS NOT NULL OR asked_at IS NOT NULL)"
        ),
        postgresql_where=sa.text(
            "finished_at IS NULL AND (escalation_started_at IS NOT NULL OR asked_at IS NOT NULL)"
        ),
    )
    op.create_index(
        "ix_terminations_revival",
        "terminations",
        ["partition", "revival_checked_at"],
        unique=False,
        sqlite_where=sa.text("revival_checked_at IS NOT NULL"),
        postgresql_where=sa.text("revival_checked_at IS NOT NULL"),
    )
    op.create_index(
        "ix_terminations_set_aside",
        "terminations",
        ["partition", "set_aside_until"],
        unique=False,
        sqlite_where=sa.text("set_aside IS NOT NULL"),
        postgresql_where=sa.text("set_aside IS NOT NULL"),
    )
    op.create_index(
        "ix_terminations_turn",
        "terminations",
        [
            "partition",
            sa.literal_column("priority DESC"),
            "turn",
            "last_turn",
            "seq",
            "terminate_after",
        ],
        unique=False,
        sqlite_where=sa.text("terminate_after IS NOT NULL"),
        postgresql_where=sa.text("terminate_after IS NOT NULL"),
    )
    op.create_index(
        "ix_terminations_unseen",
        "terminations",
        ["partition", "poll_kind", "turn", "seq", "next_poll_at"],
        unique=False,
        sqlite_where=sa.text("job_state IS NULL AND next_poll_at IS NOT NULL"),
        postgresql_where=sa.text("job_state IS NULL AND next_poll_at IS NOT NULL"),
    )
    op.create_index(
        "uq_terminations_live_job",
        "terminations",
        ["account", "region", "job_id"],
        unique=True,
        sqlite_where=sa.text("finished_at IS NULL"),
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.create_table(
        "attempts",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("termination_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("partition", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("code", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(answered_at IS NULL) = (outcome IS NULL)", name=op.f("ck_attempts_answered_at")
        ),
        sa.ForeignKeyConstraint(
            ["termination_id"], ["terminations.id"], name=op.f("fk_attempts_termination_id")
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_attempts")),
        sa.UniqueConstraint(
            "termination_id", "number", name=op.f("uq_attempts_termination_id_number")
        ),
    )
    op.create_index(
        "ix_attempts_partition_sent_at", "attempts", ["partition", "sent_at"], unique=False
    )
    op.create_index(
        "uq_attempts_open",
        "attempts",
        ["termination_id", "target"],
        unique=True,
        sqlite_where=sa.text("answered_at IS NULL"),
        postgresql_where=sa.text("answered_at IS NULL"),
    )
    op.create_table(
        "events",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("operation_id", sa.Text(), nullable=True),
        sa.Column("termination_id", sa.Text(), nullable=True),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("from_state", sa.Text(), nullable=True),
        sa.Column("to_state", sa.Text(), nullable=True),
        sa.Column("evidence", sa.Integer(), nullable=True),
        sa.Column("why", sa.Text(), nullable=True),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("facts", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "(operation_id IS NULL) <> (termination_id IS NULL)",
            name=op.f("ck_events_operation_or_termination"),
        ),
        sa.CheckConstraint("length(hash) = 64", name=op.f("ck_events_hash")),
        sa.CheckConstraint("number > 0", name=op.f("ck_events_number")),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operations.id"], name=op.f("fk_events_operation_id")
        ),
        sa.ForeignKeyConstraint(
            ["termination_id"], ["terminations.id"], name=op.f("fk_events_termination_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sa.UniqueConstraint("operation_id", "number", name=op.f("uq_events_operation_id_number")),
        sa.UniqueConstraint(
            "termination_id", "number", name=op.f("uq_events_termination_id_number")
        ),
    )
    op.create_table(
        "instances",
        sa.Column(
            "termination_seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("instance_index", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("machine_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("observed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("machine", sa.Text(), nullable=True),
        sa.Column("machine_observed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("rescanned", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("last_sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["termination_seq"], ["terminations.seq"], name=op.f("fk_instances_termination_seq")
        ),
        sa.PrimaryKeyConstraint(
            "termination_seq", "task", "instance_index", "machine_id", name=op.f("pk_instances")
        ),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_instances_machine_gone",
        "instances",
        ["termination_seq", "machine_observed_at"],
        unique=False,
        sqlite_where=sa.text("machine IN ('gone', 'terminated')"),
        postgresql_where=sa.text("machine IN ('gone', 'terminated')"),
    )
    op.create_index(
        "ix_instances_machine_left",
        "instances",
        ["termination_seq", "machine_observed_at"],
        unique=False,
        sqlite_where=sa.text(
            "machine_id <> '' AND (machine IS NULL OR machine IN ('up', 'missing'))"
        ),
        postgresql_where=sa.text(
            "machine_id <> '' AND (machine IS NULL OR machine IN ('up', 'missing'))"
        ),
    )
    op.create_index(
        "ix_instances_rescanned",
        "instances",
        ["termination_seq"],
        unique=False,
        sqlite_where=sa.text("rescanned"),
        postgresql_where=sa.text("rescanned"),
    )
    op.create_table(
        "operation_terminations",
        sa.Column("operation_id", sa.Text(), nullable=False),
        sa.Column("termination_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operations.id"], name=op.f("fk_operation_terminations_operation_id")
        ),
        sa.ForeignKeyConstraint(
            ["termination_id"],
            ["terminations.id"],
            name=op.f("fk_operation_terminations_termination_id"),
        ),
        sa.PrimaryKeyConstraint(
            "operation_id", "termination_id", name=op.f("pk_operation_terminations")
        ),
    )
    op.create_index(
        "ix_operation_terminations_termination",
        "operation_terminations",
        ["termination_id"],
        unique=False,
    )
    op.bulk_insert(probes, [{"id": 1, "number": 0}])
    op.execute(
        "INSERT INTO clock_steps (id, steps_s, began_at, away_s)"
        " VALUES (0, 0, '2000-01-01 00:00:00.000000', 0)"
    )
    if op.get_context().dialect.name == "postgresql":
        _refuse_infinities()


def _refuse_infinities() -> None:
    for table, columns in TIMES_AND_NUMBERS.items():
        finite = [f"({name} > '-infinity' AND {name} < 'infinity')" for name in columns]
        op.create_check_constraint(op.f(f"ck_{table}_finite"), table, " AND ".join(finite))
