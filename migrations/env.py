"""Alembic's entry: runs on the connection that orchestrator.store.database.migrations hands over.

Logging is left alone: Alembic's usual fileConfig call would disable the daemon's loggers.
"""

from typing import Literal

from alembic import context

from orchestrator.store.schema import UtcDateTime, metadata


def render_item(kind: str, item: object, _context: object) -> str | Literal[False]:
    """Render our own type as the one that the database has, for ``alembic revision``.

    A migration imports nothing of the program, which changes while the migration must not.
    """
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    render_item=render_item,
)
with context.begin_transaction():
    context.run_migrations()
