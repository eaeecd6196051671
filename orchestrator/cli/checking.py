"""The configuration: read for a command, and told in a few lines without its secrets."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from orchestrator import settings
from orchestrator.cli import resources
from orchestrator.domain.errors import ConfigurationError
from orchestrator.settings.loading import CONFIG_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator.settings import Account, Settings

WARNING: Final = "warning: {}"


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


def warnings(loaded: Settings) -> tuple[str, ...]:
    """What may not be meant; raises ConfigurationError for what the daemon does not start with."""
    advice = settings.advise(loaded, os.environ)
    if advice.errors:
        raise ConfigurationError([*advice.errors, *map(WARNING.format, advice.warnings)])
    return advice.warnings


def summary(settings: Settings) -> Iterator[str]:
    server, engine = settings.server, settings.engine
    callers = ", ".join(token.name for token in settings.auth.tokens)
    yield f"server     {server.host}:{server.port}, callers: {callers or 'anyone on this machine'}"
    yield f"database   {settings.database.shown}"
    yield (
        f"engine     settles for {engine.settle_s:g} s, gives up after {engine.give_up_after_s:g} s"
    )
    for name, account in settings.accounts.items():
        yield from _account(name, account)


def _account(name: str, account: Account) -> Iterator[str]:
    yield f"account    {name}, credentials: {account.credentials.provider}"
    for region in account.regions:
        default = " (default)" if region == account.default_region else ""
        machines = account.cvm_host(region) or "not looked at"
        yield f"  region   {region}{default} at {account.host(region)}, machines: {machines}"
    if account.terminate_machines:
        yield "  machines are ended where nothing else brings their instances down"
    quotas = ", ".join(f"{action} {calls}" for action, calls in account.quotas.model_dump().items())
    yield f"  quotas   {quotas} a second"
