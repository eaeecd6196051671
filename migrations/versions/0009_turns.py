"""Operations take turns; the learnt rate of a partition is no whole number."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_GIVE_TURNS = """
UPDATE terminations SET turn = given.turn, last_turn = given.last_turn
FROM (
    SELECT termination_id, min(place) AS turn, min(places) AS last_turn
    FROM (
        SELECT link.termination_id AS termination_id,
               row_number() OVER (PARTITION BY link.operation_id ORDER BY waiting.seq) AS place,
               count(*) OVER (PARTITION BY link.operation_id) AS places
        FROM operation_terminations AS link
        JOIN terminations AS waiting ON waiting.id = link.termination_id
        WHERE waiting.finished_at IS NULL
    ) AS placed
    GROUP BY termination_id
) AS given
WHERE terminations.id = given.termination_id
"""
_LAST_TURNS = """
UPDATE operations SET turn = (
    SELECT max(waiting.turn)
    FROM operation_terminations AS link
    JOIN terminations AS waiting ON waiting.id = link.termination_id
    WHERE link.operation_id = operations.id AND waiting.call_at IS NOT NULL
)
WHERE finished_at IS NULL
"""


def upgrade() -> None:
    zero = sa.text("0")
    op.add_column("operations", sa.Column("turn", sa.BigInteger(), nullable=True))
    for table, name in (
        ("terminations", "turn"),
        ("terminations", "last_turn"),
        ("partitions", "turn"),
    ):
        op.add_column(table, sa.Column(name, sa.BigInteger(), server_default=zero, nullable=False))
    with op.batch_alter_table("partitions") as partitions:
        partitions.alter_column(
            "allowed_per_s", existing_type=sa.BigInteger(), type_=sa.Float(), existing_nullable=True
        )
    op.execute(_GIVE_TURNS)
    op.execute(_LAST_TURNS)
    for name, columns, condition in (
        ("turn", ["turn", "last_turn", "seq", "call_at"], "call_at IS NOT NULL"),
        ("capture", ["turn", "last_turn", "seq"], "captured_run < run AND finished_at IS NULL"),
    ):
        op.drop_index(f"ix_terminations_{name}", table_name="terminations")
        op.create_index(
            f"ix_terminations_{name}",
            "terminations",
            ["partition", sa.text("first_in_line DESC"), *columns],
            sqlite_where=sa.text(condition),
            postgresql_where=sa.text(condition),
        )
    unseen = sa.text("job_state IS NULL AND look_at IS NOT NULL")
    op.create_index(
        "ix_terminations_unseen",
        "terminations",
        ["partition", "look", "turn", "seq", "look_at"],
        sqlite_where=unseen,
        postgresql_where=unseen,
    )
