"""Alembic's entry: runs on the connection that orchestrator.store.database.migrations hands over.

Logging is left alone: Alembic's usual fileConfig call would disable the daemon's loggers.
"""

from alembic import context

from orchestrator.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
