"""Brings a database to this version's schema by Alembic."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError

from orchestrator.domain.errors import ConfigurationError
from orchestrator.store.database import sqlite_engine

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection


_DISK: Final = "see whether its disk is full or failing"
_ADVICE: Final = {
    sqlite3.SQLITE_BUSY: "another process holds its write lock: end that one, and start again",
    sqlite3.SQLITE_FULL: _DISK,
    sqlite3.SQLITE_IOERR: _DISK,
}
_ANY_ADVICE: Final = "give the path of a database of this program, or of a file that it may create"


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
    engine = sqlite_engine(url)
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(_upgrade)
    except DBAPIError as error:
        # The lowest byte is the kind of error, the others tell more of it.
        kind = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        advice = _ADVICE.get(kind, _ANY_ADVICE)
        raise ConfigurationError(
            [f"database.url: {engine.url.database} cannot be used: {error.orig}; {advice}"]
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
