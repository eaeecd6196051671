"""Events chained by hash, with the facts that they rested on.

Those that are there are chained as they are; what they rested on was not kept.
"""

import sqlalchemy as sa
from alembic import op

from orchestrator.domain.audit.hash_chain import Head
from orchestrator.store.schema import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ROWS_AT_ONCE = 1000

events = sa.table(
    "events",
    sa.column("id", sa.BigInteger()),
    sa.column("at", UtcDateTime()),
    sa.column("operation_id", sa.Text()),
    sa.column("termination_id", sa.Text()),
    sa.column("type", sa.Text()),
    sa.column("from_state", sa.Text()),
    sa.column("to_state", sa.Text()),
    sa.column("evidence", sa.Integer()),
    sa.column("why", sa.Text()),
    sa.column("number", sa.Integer()),
    sa.column("hash", sa.Text()),
)


def upgrade() -> None:
    op.add_column("events", sa.Column("number", sa.Integer(), nullable=True))
    op.add_column("events", sa.Column("facts", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("events", sa.Column("hash", sa.Text(), nullable=True))
    _chain(op.get_bind())
    with op.batch_alter_table("events") as batch_op:
        batch_op.drop_index("ix_events_operation")
        batch_op.drop_index("ix_events_termination")
        batch_op.alter_column("number", existing_type=sa.Integer(), nullable=False)
        batch_op.alter_column("hash", existing_type=sa.Text(), nullable=False)
        batch_op.create_check_constraint(op.f("ck_events_number"), "number > 0")
        batch_op.create_check_constraint(op.f("ck_events_hash"), "length(hash) = 64")
        for subject in ("operation_id", "termination_id"):
            name = op.f(f"uq_events_{subject}_number")
            batch_op.create_unique_constraint(name, [subject, "number"])


def _chain(connection: sa.Connection) -> None:
    heads: dict[str, Head] = {}
    link = (
        sa.update(events)
        .where(events.c.id == sa.bindparam("of_id"))
        .values(number=sa.bindparam("as_number"), hash=sa.bindparam("as_hash"))
    )
    some = sa.select(events).where(events.c.id > sa.bindparam("after"))
    some = some.order_by(events.c.id).limit(ROWS_AT_ONCE)
    after = 0
    while rows := connection.execute(some, {"after": after}).mappings().all():
        linked = []
        for row in rows:
            subject_id = row["termination_id"] or row["operation_id"]
            head = heads.get(subject_id) or Head.of_new(subject_id)
            event = head.linked({**row, "facts": None})
            heads[subject_id] = Head(event["number"], event["hash"])
            linked.append(
                {"of_id": row["id"], "as_number": event["number"], "as_hash": event["hash"]}
            )
        connection.execute(link, linked)
        after = rows[-1]["id"]
