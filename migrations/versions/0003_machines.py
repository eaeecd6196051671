"""Machines that are captured before a job is called, and looked up once it is down."""

import sqlalchemy as sa
from alembic import op

from orchestrator.store.schema import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("run", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("called_at", UtcDateTime(), nullable=True),
        sa.Column("capture", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("capture_at", UtcDateTime(), nullable=True),
        sa.Column("captured_run", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("awaits_capture", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("machines_total", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("machines_up", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("machines_gone", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("machines_listed", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("machines_observed_at", UtcDateTime(), nullable=True),
        sa.Column("machines_problem", sa.JSON(none_as_null=True), nullable=True),
    ):
        op.add_column("terminations", column)
    _index_terminations(
        "ix_terminations_capture",
        ["partition", sa.text("first_in_line DESC"), "seq"],
        "captured_run < run AND finished_at IS NULL",
    )
    _index_terminations(
        "ix_terminations_machines",
        ["partition"],
        "machines_total > 0 AND machines_observed_at IS NULL AND finished_at IS NULL",
    )
    op.create_table(
        "instances",
        sa.Column(
            "termination_seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
        ),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("instance_index", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("machine_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("observed_at", UtcDateTime(), nullable=False),
        sa.Column("machine", sa.Text(), nullable=True),
        sa.Column("machine_observed_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["termination_seq"],
            ["terminations.seq"],
            name=op.f("fk_instances_termination_seq"),
        ),
        sa.PrimaryKeyConstraint(
            "termination_seq", "task", "instance_index", "machine_id", name=op.f("pk_instances")
        ),
        sqlite_with_rowid=False,
    )
    left = sa.text("machine_id <> '' AND (machine IS NULL OR machine IN ('up', 'missing'))")
    op.create_index(
        "ix_instances_machine_left",
        "instances",
        ["termination_seq", "machine_observed_at"],
        sqlite_where=left,
        postgresql_where=left,
    )


def _index_terminations(name: str, columns: list[str | sa.TextClause], where: str) -> None:
    op.create_index(
        name,
        "terminations",
        columns,
        sqlite_where=sa.text(where),
        postgresql_where=sa.text(where),
    )
