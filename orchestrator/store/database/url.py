"""The URL of a database as it stands in the configuration."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.paths import absolute, possible
from orchestrator.store.database.postgresql import Postgresql
from orchestrator.store.database.postgresql_url import FORM, PostgresqlUrl
from orchestrator.store.database.sqlite import LONGEST_SUFFIX, Sqlite

if TYPE_CHECKING:
    from orchestrator.store.database.dialect import Dialect

_SQLITE: Final = re.compile(r"sqlite(?:\+aiosqlite)?:///(?P<path>[^?\0]+)")


def database_url(given: str, folder: Path) -> str:
    """Return the URL with its paths, relative to ``folder``, made absolute; raises ValueError."""
    if given.startswith("postgres"):
        return str(PostgresqlUrl.parse(given, folder))
    path = sqlite_file(given)
    if path is None or path.name == ":memory:":
        raise ValueError(f"must be sqlite:///PATH of a file, or {FORM}")
    made = absolute(path, folder)
    possible(Path(f"{made.resolve()}{LONGEST_SUFFIX}"))
    return f"sqlite:///{made}"


def sqlite_file(url: str) -> Path | None:
    """Return the file of an SQLite database; None for another database."""
    found = _SQLITE.fullmatch(url)
    return Path(found["path"]) if found else None


def shown(url: str) -> str:
    """Return what may be shown of the URL: its path, or the URL without the password."""
    path = sqlite_file(url)
    return PostgresqlUrl.parse(url, Path()).shown if path is None else _absolute(path)


def dialect_of(url: str) -> Dialect:
    """Return the dialect of the database at ``url``."""
    path = sqlite_file(url)
    if path is None:
        return Postgresql(PostgresqlUrl.parse(url, Path()))
    return Sqlite(Path(_absolute(path)))


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - resolve() would hide the name of a symbolic link
