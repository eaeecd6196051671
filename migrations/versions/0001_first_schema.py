"""Operations, terminations, attempts and events."""

import sqlalchemy as sa
from alembic import op

from orchestrator.store.schema import UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
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
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
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
        sa.Column("allowed_per_s", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_partitions")),
    )
    op.create_table(
        "replicas",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("partitions", sa.JSON(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replicas")),
    )
    probes = op.create_table(
        "probes",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_probes")),
    )
    op.bulk_insert(probes, [{"id": 1, "number": 0}])
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
        sa.Column("not_before", UtcDateTime(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("evidence", sa.Integer(), nullable=False),
        sa.Column("job_name", sa.Text(), nullable=True),
        sa.Column("job_state", sa.Text(), nullable=True),
        sa.Column("job_end_time", sa.Text(), nullable=True),
        sa.Column("job_next_action", sa.Text(), nullable=True),
        sa.Column("observed_at", UtcDateTime(), nullable=True),
        sa.Column("instances", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("instances_total", sa.BigInteger(), nullable=True),
        sa.Column("instances_live", sa.BigInteger(), nullable=True),
        sa.Column("instances_observed_at", UtcDateTime(), nullable=True),
        sa.Column("tasks", sa.JSON(), nullable=False),
        sa.Column("look", sa.Text(), nullable=False),
        sa.Column("look_at", UtcDateTime(), nullable=True),
        sa.Column("call_at", UtcDateTime(), nullable=True),
        sa.Column("first_in_line", sa.Boolean(), nullable=False),
        sa.Column("in_doubt", sa.Boolean(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("acknowledged_at", UtcDateTime(), nullable=True),
        sa.Column("give_up_from", UtcDateTime(), nullable=True),
        sa.Column("settle_from", UtcDateTime(), nullable=True),
        sa.Column("problem", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
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
            "finished_at IS NULL OR (look_at IS NULL AND call_at IS NULL)",
            name=op.f("ck_terminations_idle"),
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_terminations")),
        sa.UniqueConstraint("id", name=op.f("uq_terminations_id")),
    )
    with op.batch_alter_table("terminations", schema=None) as batch_op:
        batch_op.create_index(
            "ix_terminations_counted",
            ["partition", "state", "instances_observed_at"],
            unique=False,
        )
        batch_op.create_index("ix_terminations_job", ["job_id"], unique=False)
        batch_op.create_index(
            "ix_terminations_look",
            ["partition", "look", "look_at"],
            unique=False,
            sqlite_where=sa.text("look_at IS NOT NULL"),
            postgresql_where=sa.text("look_at IS NOT NULL"),
        )
        batch_op.create_index(
            "ix_terminations_turn",
            ["partition", sa.text("first_in_line DESC"), "seq", "call_at"],
            unique=False,
            sqlite_where=sa.text("call_at IS NOT NULL"),
            postgresql_where=sa.text("call_at IS NOT NULL"),
        )
        batch_op.create_index(
            "uq_terminations_live_job",
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
        sa.Column("sent_at", UtcDateTime(), nullable=False),
        sa.Column("answered_at", UtcDateTime(), nullable=True),
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
    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.create_index(
            "ix_attempts_partition_sent_at", ["partition", "sent_at"], unique=False
        )
        batch_op.create_index(
            "uq_attempts_open",
            ["termination_id"],
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
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("operation_id", sa.Text(), nullable=True),
        sa.Column("termination_id", sa.Text(), nullable=True),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("from_state", sa.Text(), nullable=True),
        sa.Column("to_state", sa.Text(), nullable=True),
        sa.Column("evidence", sa.Integer(), nullable=True),
        sa.Column("why", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(operation_id IS NULL) <> (termination_id IS NULL)",
            name=op.f("ck_events_operation_or_termination"),
        ),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operations.id"], name=op.f("fk_events_operation_id")
        ),
        sa.ForeignKeyConstraint(
            ["termination_id"], ["terminations.id"], name=op.f("fk_events_termination_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.create_index("ix_events_operation", ["operation_id"], unique=False)
        batch_op.create_index("ix_events_termination", ["termination_id"], unique=False)

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
    with op.batch_alter_table("operation_terminations", schema=None) as batch_op:
        batch_op.create_index(
            "ix_operation_terminations_termination", ["termination_id"], unique=False
        )
