"""Validation of configured file paths."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

_IMPOSSIBLE: Final = (errno.ENAMETOOLONG, errno.ELOOP)


def absolute(given: str | Path, folder: Path) -> Path:
    """Return the absolute path; ``given`` may be relative to ``folder``, or begin with ``~``.

    Raises ValueError if no file can exist at the path: a name is too long, it contains NUL, or its
    symbolic links form a loop.
    """
    try:
        expanded = Path(given).expanduser()
    except RuntimeError:
        raise ValueError("the home folder of this user is unknown: give the full path") from None
    # resolve() would replace the link that the user named.
    path = Path(os.path.abspath(folder / expanded))  # noqa: PTH100
    try:
        path.stat()
    except ValueError:
        raise ValueError("cannot be the path of a file: it contains the character NUL") from None
    except OSError as error:
        if error.errno in _IMPOSSIBLE:
            raise ValueError(f"cannot be the path of a file: {error.strerror}") from None
    return path


def possible(path: Path) -> Path:
    """Return ``path`` unchanged; raise ValueError if no file can exist there."""
    absolute(path, Path())
    return path
