"""Paths as people configure them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

_NO_FILE_EVER: Final = (errno.ENAMETOOLONG, errno.ELOOP)


def absolute(given: str | Path, folder: Path) -> Path:
    """The path from the root on, where it is relative to ``folder`` or to a user's home.

    Raises ValueError where no file can be there, whoever makes it: its name is too long or holds
    NUL, or its symbolic links lead round in a circle.
    """
    try:
        expanded = Path(given).expanduser()
    except RuntimeError:
        raise ValueError("there is no such user's home folder: give the path itself") from None
    # resolve() would hide which link was named.
    path = Path(os.path.abspath(folder / expanded))  # noqa: PTH100
    try:
        path.stat()
    except ValueError:
        raise ValueError("cannot be the path of a file: it holds the character NUL") from None
    except OSError as error:
        if error.errno in _NO_FILE_EVER:
            raise ValueError(f"cannot be the path of a file: {error.strerror}") from None
    return path


def possible(path: Path) -> Path:
    """The path as it was given; raises ValueError where no file can be there."""
    absolute(path, Path())
    return path
