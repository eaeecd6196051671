"""Whether more than TerminateJob may be called for what does not go down."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "terminations",
        sa.Column("escalate", sa.Boolean(), server_default=sa.true(), nullable=False),
    )
