"""The configuration: read for a command, and told in a few lines without its secrets."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orchestrator import settings
from orchestrator.cli import resources
from orchestrator.domain.errors import ConfigurationError
from orchestrator.settings import routes
from orchestrator.settings.loading import CONFIG_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator.settings import Account, Settings


def load(path: Path | None) -> Settings:
    """``settings.load``; where there is no file and the environment alone does not do, say so."""
    try:
        return settings.load(path)
    except ConfigurationError as error:
        if path or os.environ.get(CONFIG_VARIABLE):
            raise
        example = resources.config_file("orchestrator.toml")
        hint = (
            f"no configuration file is given: name one with --config or {CONFIG_VARIABLE}; "
            f"{example} is an example"
        )
        raise ConfigurationError([hint, *error.problems]) from error


def summary(settings: Settings) -> Iterator[str]:
    server, engine = settings.server, settings.engine
    callers = ", ".join(token.name for token in settings.auth.tokens)
    yield f"server     {server.host}:{server.port}, callers: {callers or 'anyone on this machine'}"
    yield f"database   {settings.database.shown}"
    yield (
        f"engine     settles for {engine.settle_s:g} s, gives up after {engine.give_up_after_s:g} s"
    )
    ways = routes(settings, os.environ)
    for name, account in settings.accounts.items():
        yield from _account(name, account, ways[name])


def _account(name: str, account: Account, ways: list[str]) -> Iterator[str]:
    yield f"account    {name}, credentials: {account.credentials.provider}"
    for way in ways:
        yield f"  calls    {way}"
    for region in account.regions:
        default = " (default)" if region == account.default_region else ""
        machines = account.cvm_host(region) or "not looked at"
        yield f"  region   {region}{default} at {account.host(region)}, machines: {machines}"
    if account.terminate_machines:
        yield "  machines are ended where nothing else brings their instances down"
    quotas = ", ".join(f"{action} {calls}" for action, calls in account.quotas.model_dump().items())
    yield f"  quotas   {quotas} a second"
