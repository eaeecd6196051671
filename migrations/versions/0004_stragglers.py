"""What is done about instances that do not go down, and their reading anew."""

import sqlalchemy as sa
from alembic import op

from orchestrator.store.schema import UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("moved_at", UtcDateTime(), nullable=True),
        sa.Column("rung", sa.Text(), server_default=sa.text("'none'"), nullable=False),
        sa.Column("rung_at", UtcDateTime(), nullable=True),
        sa.Column("rung_round", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("rung_done_at", UtcDateTime(), nullable=True),
        sa.Column("asked_at", UtcDateTime(), nullable=True),
        sa.Column("reading", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("reading_at", UtcDateTime(), nullable=True),
        sa.Column("read_at", UtcDateTime(), nullable=True),
    ):
        op.add_column("terminations", column)
    for column in (
        sa.Column("anew", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("called_at", UtcDateTime(), nullable=True),
    ):
        op.add_column("instances", column)
    _index("ix_instances_anew", "instances", ["termination_seq"], "anew")
    _index(
        "ix_terminations_read_anew",
        "terminations",
        ["partition"],
        "finished_at IS NULL AND (rung_at IS NOT NULL OR asked_at IS NOT NULL)",
    )
    op.drop_index("uq_attempts_open", table_name="attempts")
    _index(
        "uq_attempts_open",
        "attempts",
        ["termination_id", "target"],
        "answered_at IS NULL",
        unique=True,
    )


def _index(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    op.create_index(
        name,
        table,
        columns,
        unique=unique,
        sqlite_where=sa.text(where),
        postgresql_where=sa.text(where),
    )
