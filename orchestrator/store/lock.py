"""One process a database: a second one would spend the same quota again."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from orchestrator.domain.errors import ConfigurationError
from orchestrator.store.sqlite import PRIVATE
from orchestrator.store.url import sqlite_file

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def only_process(url: str) -> Iterator[None]:
    """Hold PATH.lock beside the SQLite file at ``url``; raises ConfigurationError if held.

    PATH is where the file is, whatever links lead there.  The kernel lets go of the lock however
    the process ends.  A PostgreSQL database may be shared.
    """
    file = sqlite_file(url)
    if file is None:
        yield
        return
    path = f"{file.resolve()}.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
    except OSError as error:
        raise ConfigurationError(
            [
                (
                    f"database.url: {path} cannot be written: {error.strerror}; give the path of a "
                    "database in a folder that this user may write"
                )
            ]
        ) from error
    with suppress(PermissionError):
        os.fchmod(descriptor, PRIVATE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ConfigurationError(
            [
                (
                    f"database.url: another daemon runs on this database and holds {path}: stop it "
                    "first, give this one a database of its own, or have both use PostgreSQL"
                )
            ]
        ) from error
    try:
        yield
    finally:
        os.close(descriptor)
