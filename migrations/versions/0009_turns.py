"""The learnt rate of a partition, which is no whole number."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("partitions") as partitions:
        partitions.alter_column(
            "allowed_per_s", existing_type=sa.BigInteger(), type_=sa.Float(), existing_nullable=True
        )
