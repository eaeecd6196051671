"""Upgrades of a database to this version's schema, by Alembic."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect
from sqlalchemy.exc import DBAPIError

from orchestrator.domain.errors import ConfigurationError, StoreUnavailable
from orchestrator.store.database.url import dialect_of
from orchestrator.store.schema import operations

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

_PASSING: Final = ("08", "40001", "40P01", "53", "55000", "55P03", "57P")
"""SQLSTATEs, or their classes, of problems that pass: a lost connection, a conflict with another
transaction, too few resources, a database that accepts no connections, a lock timeout, a server
that starts or ends (PostgreSQL's manual, appendix A)."""

_UNVERSIONED: Final = (
    f"the database has a table {operations.name!r}, but its schema revision (in the table "
    "alembic_version) is missing: restore that from a backup, or name an empty database"
)


_PACKAGE: Final = Path(__file__).parents[2]
_PACKED: Final = _PACKAGE / "_migrations"
MIGRATIONS: Path = _PACKED if (_PACKED / "env.py").exists() else _PACKAGE.parent / "migrations"
"""Folder inside the wheel, or the one beside the package in a checkout."""


def alembic_config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    if connection is not None:
        config.attributes["connection"] = connection
    return config


@dataclass(frozen=True, slots=True)
class Upgraded:
    """Result of an upgrade; ``before`` is the revision before it, None for a new database."""

    name: str
    before: str | None
    revision: str

    def __str__(self) -> str:
        if self.before is None:
            return f"{self.name}: created, at schema revision {self.revision}"
        if self.before != self.revision:
            return f"{self.name}: upgraded from schema revision {self.before} to {self.revision}"
        return f"{self.name}: at schema revision {self.revision}"


async def upgrade(url: str) -> Upgraded:
    """Upgrade the database at ``url`` to this version's schema, or create it.

    Raises StoreUnavailable if the database cannot be used now, ConfigurationError if manual action
    is required first.
    """
    dialect = dialect_of(url)
    dialect.prepare()
    engine = dialect.upgrader()
    try:
        async with engine.begin() as connection:
            await dialect.before_upgrade(connection)
            before, revision = await connection.run_sync(_upgrade)
            return Upgraded(dialect.name, before, revision)
    except (DBAPIError, OSError) as error:
        why = dialect.why_unavailable(error) or str(getattr(error, "orig", error))
        message = f"{dialect.name} cannot be used: {why}; {dialect.advice(error)}"
        if dialect.shared and _passes(error):
            raise StoreUnavailable(message) from error
        raise ConfigurationError([f"database.url: {message}"]) from error
    finally:
        await engine.dispose()


def _passes(error: DBAPIError | OSError) -> bool:
    """Return whether the server may become usable without a change of its URL."""
    if isinstance(error, DBAPIError):
        state = getattr(error.orig, "sqlstate", None)
        return state.startswith(_PASSING) if state else error.connection_invalidated
    # A plain ConnectionError means a server without TLS, or a single standby.
    permanent = (ssl.SSLError, FileNotFoundError, PermissionError)
    return not isinstance(error, permanent) and type(error) is not ConnectionError


def _upgrade(connection: Connection) -> tuple[str | None, str]:
    """Upgrade, and return the revisions before and after."""
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
    if current is None and inspect(connection).has_table(operations.name):
        raise ConfigurationError([_UNVERSIONED])
    command.upgrade(config, "head")
    return current, str(head)
