"""How drains went so far, and when they will be over."""

import sqlalchemy as sa
from alembic import op

from orchestrator.store.schema import UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("history", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("forecast_made_at", UtcDateTime(), nullable=True),
        sa.Column("forecast_rate_per_s", sa.Float(), nullable=True),
        sa.Column("forecast_p50_at", UtcDateTime(), nullable=True),
        sa.Column("forecast_p90_at", UtcDateTime(), nullable=True),
        sa.Column("forecast_stalled_since", UtcDateTime(), nullable=True),
    ):
        op.add_column("terminations", column)
