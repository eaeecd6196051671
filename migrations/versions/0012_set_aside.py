"""Terminations that are set aside; PostgreSQL refuses infinite times and numbers."""

import sqlalchemy as sa
from alembic import op

from orchestrator.store.schema import UtcDateTime

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

TIMES = {
    "operations": ("created_at", "finished_at", "first_called_at"),
    "terminations": (
        *("not_before", "observed_at", "instances_observed_at", "look_at", "call_at"),
        *("called_at", "acknowledged_at", "give_up_from", "settle_from", "confirm_from"),
        *("created_at", "finished_at", "capture_at", "machines_observed_at"),
        *("machines_all_observed_at", "moved_at", "rung_at"),
        *("rung_done_at", "asked_at", "reading_at", "read_at", "forecast_made_at"),
        *("forecast_p50_at", "forecast_p90_at", "forecast_stalled_since"),
        *("come_back_watched_at", "set_aside_until"),
    ),
    "instances": ("observed_at", "machine_observed_at", "called_at"),
    "attempts": ("sent_at", "answered_at"),
    "events": ("at",),
    "replicas": ("expires_at",),
    "partitions": (),
    "clock_steps": ("began_at", "seen_at"),
}
NUMBERS = {
    "operations": ("keep_down_s",),
    "terminations": ("settle_s", "give_up_after_s", "forecast_rate_per_s", "come_back_watch_s"),
    "partitions": ("allowed_per_s",),
}

NUMBERS_INSTEAD = {"allowed_per_s": None}
"""Of what 0 would not do for; None: as many as are configured."""


def upgrade() -> None:
    op.add_column("terminations", sa.Column("set_aside", sa.Text(), nullable=True))
    op.add_column("terminations", sa.Column("set_aside_until", UtcDateTime(), nullable=True))
    set_aside = sa.text("set_aside IS NOT NULL")
    op.create_index(
        "ix_terminations_set_aside",
        "terminations",
        ["partition", "set_aside_until"],
        sqlite_where=set_aside,
        postgresql_where=set_aside,
    )
    # It means at once, as null does; PostgreSQL has stored the year 1 as -infinity.
    op.execute("UPDATE terminations SET not_before = NULL WHERE not_before < '2000-01-01'")
    if op.get_context().dialect.name == "postgresql":
        _refuse_infinities()


def _refuse_infinities() -> None:
    for name, times in TIMES.items():
        numbers = NUMBERS.get(name, ())
        table = sa.table(name, *(sa.column(column) for column in (*times, *numbers)))
        finite = [f"({c.name} > '-infinity' AND {c.name} < 'infinity')" for c in table.c]
        for column, is_finite in zip(table.c, finite, strict=True):
            instead = sa.func.now() if column.name in times else NUMBERS_INSTEAD.get(column.name, 0)
            op.execute(table.update().values({column: instead}).where(sa.text(f"NOT {is_finite}")))
        op.create_check_constraint(op.f(f"ck_{name}_finite"), name, " AND ".join(finite))
