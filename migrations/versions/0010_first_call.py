"""When the first call of an operation was made."""

import sqlalchemy as sa
from alembic import op

from orchestrator.store.schema import UtcDateTime

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("operations", sa.Column("first_called_at", UtcDateTime(), nullable=True))
    op.execute(
        "UPDATE operations SET first_called_at = (SELECT min(a.sent_at) FROM attempts a"
        " JOIN operation_terminations o ON o.termination_id = a.termination_id"
        " WHERE o.operation_id = operations.id) WHERE finished_at IS NULL"
    )
