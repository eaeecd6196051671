"""The URL of a database, as a person gives it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from orchestrator.store.postgresql import Postgresql
from orchestrator.store.sqlite import Sqlite

if TYPE_CHECKING:
    from orchestrator.store.dialect import Dialect


def database_url(given: str) -> str:
    """What SQLAlchemy is given for the URL that a person gave; raises ValueError.

    PostgreSQL's is that of its own tools (postgresql.org, libpq, "Connection URIs"), with one host
    and sslmode the only parameter.
    """
    try:
        url = make_url(given)
    except (ArgumentError, ValueError):  # of the whole, of the port
        raise ValueError(_FORMS) from None
    match url.drivername:
        case "sqlite" | "sqlite+aiosqlite" if url.database and url.database != ":memory:":
            return f"sqlite+aiosqlite:///{given.partition(':///')[2]}"
        case "postgresql" | "postgres" | "postgresql+asyncpg" if url.database:
            query = dict(url.query)
            ssl = query.pop("sslmode", query.pop("ssl", None))
            if query:
                raise ValueError(f"{', '.join(query)}: only sslmode can be given")
            made = url.set(drivername="postgresql+asyncpg", query={"ssl": ssl} if ssl else {})
            return made.render_as_string(hide_password=False)
        case _:
            raise ValueError(_FORMS)


_FORMS: Final = "must be sqlite:///PATH of a file, or postgresql://USER:PASSWORD@HOST:PORT/NAME"


def dialect_of(url: str) -> Dialect:
    """How to speak to the database at ``url``."""
    parsed = make_url(url)
    return Sqlite(parsed) if parsed.get_backend_name() == "sqlite" else Postgresql(parsed)
