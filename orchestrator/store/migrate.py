"""Brings a database to this version's schema by Alembic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError

from orchestrator.domain.errors import ConfigurationError
from orchestrator.store.url import dialect_of

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection


def _migrations() -> Path:
    """Inside the wheel as orchestrator/_migrations, beside the package in a checkout."""
    package = Path(__file__).parent.parent
    packed = package / "_migrations"
    return packed if (packed / "env.py").exists() else package.parent / "migrations"


def alembic_config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_migrations()).replace("%", "%%"))
    if connection is not None:
        config.attributes["connection"] = connection
    return config


async def upgrade(url: str) -> str:
    """Upgrade the database at ``url`` to this version's schema; returns the revision reached.

    Raises ConfigurationError where it cannot be used.
    """
    dialect = dialect_of(url)
    engine = dialect.upgrader()
    try:
        async with engine.begin() as connection:
            await dialect.before_upgrade(connection)
            return await connection.run_sync(_upgrade)
    except (DBAPIError, OSError) as error:
        why = dialect.why_unavailable(error) or str(getattr(error, "orig", error))
        raise ConfigurationError(
            [f"database.url: {dialect.name} cannot be used: {why}; {dialect.advice(error)}"]
        ) from error
    finally:
        await engine.dispose()


def _upgrade(connection: Connection) -> str:
    config = alembic_config(connection)
    script = ScriptDirectory.from_config(config)
    head = script.get_current_head()
    current = MigrationContext.configure(connection).get_current_revision()
    known = {revision.revision for revision in script.walk_revisions()}
    if current is not None and current not in known:
        raise ConfigurationError(
            [
                (
                    f"the database has schema revision {current}, unknown to this version: run the "
                    "newer version that upgraded it, or restore the backup from before"
                )
            ]
        )
    command.upgrade(config, "head")
    return str(head)
