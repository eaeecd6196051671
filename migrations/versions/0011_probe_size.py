"""What a probe writes beside its number: as much as a request does."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("probes", sa.Column("filler", sa.LargeBinary(), nullable=True))
