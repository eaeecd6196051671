"""Passwords from the file that PostgreSQL's own tools read (libpq, "The Password File").

asyncpg reads that file as well, but leaves the backslashes in a password that holds a colon.
"""

from __future__ import annotations

import getpass
import logging
import os
import re
import stat
from pathlib import Path
from typing import Final

_FIELD: Final = re.compile(r"((?:\\.|[^\\:])*\\?)(?::|$)")
_DEFAULT_PORT: Final = "5432"

log = logging.getLogger(__name__)


def password_for(host: str, port: int | None, database: str, user: str | None) -> str | None:
    """Return PGPASSWORD, else the password of the first matching line of the password file.

    That file is PGPASSFILE or ~/.pgpass. None if no line matches.
    """
    if given := os.environ.get("PGPASSWORD"):
        return given
    wanted = (
        "localhost" if host.startswith("/") else host,
        str(port or os.environ.get("PGPORT") or _DEFAULT_PORT),
        database,
        user or os.environ.get("PGUSER") or getpass.getuser(),
    )
    for line in _lines():
        fields = [
            re.sub(r"\\(.)", r"\1", found) for found in _FIELD.findall(line)[: len(wanted) + 1]
        ]
        *patterns, password = fields if len(fields) > len(wanted) else [""]
        matches = zip(patterns, wanted, strict=True)
        if patterns and all(pattern in ("*", value) for pattern, value in matches):
            return password
    return None


def _lines() -> list[str]:
    # Path.expanduser raises if there is no home folder.
    path = Path(os.path.expanduser(os.environ.get("PGPASSFILE") or "~/.pgpass"))  # noqa: PTH111
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            log.warning("%s is ignored because other users may read it: chmod 600", path)
            return []
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        log.warning("%s is ignored: %s", path, error)
        return []
    return [line for line in lines if line and not line.startswith("#")]
