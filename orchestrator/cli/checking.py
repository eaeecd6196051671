"""The configuration: read for a command, and told in a few lines without its secrets."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from orchestrator import settings
from orchestrator.access import credentials_of, opened_transports
from orchestrator.app import SystemClock
from orchestrator.cli import printing, resources
from orchestrator.cli.failures import NOT_WELL
from orchestrator.domain.errors import CloudError, ConfigurationError
from orchestrator.settings import routes
from orchestrator.settings.loading import CONFIG_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator.settings import Account, Settings

log = logging.getLogger(__name__)


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


def run(found: Settings, config: Path | None) -> int:
    """Tell what the settings say, what may be wrong with it, and whether there are keys."""
    out, err = printing.out(), printing.err()
    for text in summary(found):
        printing.line(out, text)
    for text in settings.warnings(found, settings.config_path(config)):
        printing.line(err, f"warning: {printing.clean(text)}")
    failures = asyncio.run(try_credentials(found))
    for text in failures:
        printing.line(err, f"error: {printing.clean(text)}")
    return NOT_WELL if failures else 0


def log_warnings(found: Settings, config: Path | None) -> None:
    """Tell a log what ``check-config`` would tell a person."""
    for text in settings.warnings(found, settings.config_path(config)):
        log.warning(text)


async def try_credentials(found: Settings) -> list[str]:
    """Load the keys of every account, all at once; what is wrong with those that fail.

    The cloud is called only as far as a provider needs it, and each is given up after 10 s.
    """
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        transports = opened_transports(found, stack)
        results = await asyncio.gather(
            *(
                credentials_of(name, found, clock, transport).get()
                for name, transport in transports.items()
            ),
            return_exceptions=True,
        )
    failures = []
    for name, result in zip(transports, results, strict=True):
        if isinstance(result, CloudError):
            failures.append(f"accounts.{name}.credentials: {result.message}; {result.advice}")
        elif isinstance(result, BaseException):
            raise result
    return failures


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
