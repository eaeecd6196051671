"""Files that come with the package."""

from __future__ import annotations

from pathlib import Path

from orchestrator.domain.errors import ConfigurationError


def config_file(name: str) -> Path:
    """Inside the wheel at orchestrator/_config, beside the package in a checkout."""
    package = Path(__file__).parent.parent
    for directory in (package / "_config", package.parent / "config"):
        if (directory / name).is_file():
            return directory / name
    raise ConfigurationError([f"{name} did not come with this installation"])
