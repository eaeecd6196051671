"""Locks of an SQLite file: a second process on it would spend the same API quota again."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.domain.errors import ConfigurationError
from orchestrator.store.database.sqlite import PRIVATE, unfit
from orchestrator.store.database.url import sqlite_file

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def only_process(url: str) -> Iterator[None]:
    """Lock the SQLite file at ``url`` and PATH.lock; raises ConfigurationError if it is locked.

    PATH is the real path of the file, after symbolic links. PATH.lock keeps the path locked if
    another file takes its place. The file itself is locked because a hard link or a bind mount
    gives it another PATH. The kernel releases the locks however the process ends. A PostgreSQL
    database may be shared, so nothing is locked.
    """
    file = sqlite_file(url)
    if file is None:
        yield
        return
    if why := unfit(file):
        raise ConfigurationError([why])
    path = file.resolve()
    with _locked(Path(f"{path}.lock")) as descriptor:
        with suppress(PermissionError):
            os.fchmod(descriptor, PRIVATE)
        # Closing any descriptor of the file releases the locks that SQLite holds for this process,
        # so this one is closed after all connections.
        with _locked(path):
            yield


@contextmanager
def _locked(path: Path) -> Iterator[int]:
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
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                [
                    (
                        f"database.url: another daemon runs on this database and holds {path}: "
                        "stop it first, give this one a database of its own, or have both use "
                        "PostgreSQL"
                    )
                ]
            ) from error
        yield descriptor
    finally:
        os.close(descriptor)
