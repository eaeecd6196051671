"""What a configuration says that may be meant, and is dangerous or expensive where it is not."""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from orchestrator.cloud.hosts import is_loopback
from orchestrator.cloud.profiles import places
from orchestrator.settings.loading import read_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator.settings.sections import Credentials, Settings

_SECRET_NAMES: Final = frozenset({"secret_key", "token"})
_PASSWORD_IN_URL: Final = re.compile(r"://[^/@\s:]*:[^/@\s]+@")


def warnings(settings: Settings, file: Path | None) -> list[str]:
    """All of them; ``file`` is the one that the settings come from."""
    return [*settings.shared_budgets(), *_plain_http(settings), *_readable_files(settings, file)]


def _plain_http(settings: Settings) -> Iterator[str]:
    for name, account in settings.accounts.items():
        endpoints = {
            "endpoint": account.endpoint,
            "cvm_endpoint": account.cvm_endpoint,
            "credentials.endpoint": account.credentials.sts_endpoint,
        }
        for setting, endpoint in endpoints.items():
            parts = urlsplit(endpoint or "")
            if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
                yield (
                    f"accounts.{name}.{setting} is plain http to another host: whoever is on the "
                    "way can read the calls and change the answers; use https://"
                )


def _readable_files(settings: Settings, file: Path | None) -> Iterator[str]:
    held = list(_secrets(read_file(file)[0], "")) if file else []
    if file and held and _world_readable(file):
        yield _readable(file, f"it holds {', '.join(held)}")
    accounts = settings.accounts.values()
    for path in sorted({path for account in accounts for path in _files(account.credentials)}):
        if _world_readable(path):
            yield _readable(path, "it holds keys")


def _files(credentials: Credentials) -> list[Path]:
    if credentials.provider != "profile":
        return []
    return places(credentials.path, credentials.profile)


def _readable(path: Path, why: str) -> str:
    return f"every user of this host can read {path}, and {why}: chmod 600 {path}"


def _world_readable(path: Path) -> bool:
    try:
        return os.name == "posix" and bool(path.expanduser().stat().st_mode & stat.S_IROTH)
    except (OSError, RuntimeError):
        return False


def _secrets(table: object, place: str) -> Iterator[str]:
    """Where a TOML document holds a secret."""
    for name, value in table.items() if isinstance(table, dict) else ():
        if not isinstance(value, str):
            yield from _secrets(value, f"{place}{name}.")
        elif value and (name in _SECRET_NAMES or _PASSWORD_IN_URL.search(value)):
            yield f"{place}{name}"
