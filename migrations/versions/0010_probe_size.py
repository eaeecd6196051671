"""What a probe writes beside its number: as much as a request does."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("probes", sa.Column("filler", sa.LargeBinary(), nullable=True))
