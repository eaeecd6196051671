"""Jobs that are watched for coming back, and operations that keep them down."""

import sqlalchemy as sa
from alembic import op

from orchestrator.store.schema import UtcDateTime

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    zero = sa.text("0")
    for table, column in (
        ("operations", sa.Column("keep_down_s", sa.Float(), nullable=True)),
        ("operations", sa.Column("keeps_down_for", sa.Text(), nullable=True)),
        (
            "operations",
            sa.Column("keep_down_round", sa.Integer(), server_default=zero, nullable=False),
        ),
        (
            "terminations",
            sa.Column("come_back_watch_s", sa.Float(), server_default=zero, nullable=False),
        ),
        ("terminations", sa.Column("come_back_watched_at", UtcDateTime(), nullable=True)),
        ("terminations", sa.Column("revival", sa.JSON(none_as_null=True), nullable=True)),
    ):
        op.add_column(table, column)
    watched = sa.text("come_back_watched_at IS NOT NULL")
    op.create_index(
        "ix_terminations_come_back",
        "terminations",
        ["partition", "come_back_watched_at"],
        sqlite_where=watched,
        postgresql_where=watched,
    )
