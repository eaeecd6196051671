"""Files that are installed with the package."""

from __future__ import annotations

from pathlib import Path

from orchestrator.domain.errors import ConfigurationError


def config_file(name: str) -> Path:
    """Return the path of a file of ``config``; raise ConfigurationError if it is not installed.

    A wheel has these files in ``orchestrator/_config``, a checkout has them beside the package.
    """
    package = Path(__file__).parent.parent
    for directory in (package / "_config", package.parent / "config"):
        if (directory / name).is_file():
            return directory / name
    raise ConfigurationError(
        [f"{name} is missing from this installation: install the package again"]
    )
