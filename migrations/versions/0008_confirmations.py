"""What must be read again before a termination ends, and how far the clock has stepped."""

import sqlalchemy as sa
from alembic import op

from orchestrator.store.schema import UtcDateTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("instances_submitted", sa.BigInteger(), nullable=True),
        sa.Column("confirm_from", UtcDateTime(), nullable=True),
        sa.Column("unconfirmed", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("machines_all_observed_at", UtcDateTime(), nullable=True),
    ):
        op.add_column("terminations", column)
    op.add_column(
        "partitions",
        sa.Column("followed_s", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
    )
    op.create_table(
        "clock_steps",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("steps_s", sa.BigInteger(), nullable=False),
        sa.Column("began_at", UtcDateTime(), nullable=False),
        sa.Column("away_s", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_clock_steps")),
    )
    op.execute(
        "INSERT INTO clock_steps (id, steps_s, began_at, away_s)"
        " VALUES (0, 0, '2000-01-01 00:00:00.000000', 0)"
    )
    gone = sa.text("machine IN ('gone', 'terminated')")
    op.create_index(
        "ix_instances_machine_gone",
        "instances",
        ["termination_seq", "machine_observed_at"],
        sqlite_where=gone,
        postgresql_where=gone,
    )
