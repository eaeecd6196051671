"""The configuration: read for a command, and told in a few lines without its secrets."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from orchestrator import settings
from orchestrator.access import credentials_of, opened_transports
from orchestrator.app import SystemClock
from orchestrator.cli import resources
from orchestrator.cli.exit_codes import FAILED
from orchestrator.cli.output import printing
from orchestrator.domain.errors import CloudError, ConfigurationError
from orchestrator.settings import routes
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


def warnings(found: Settings, config: Path | None) -> tuple[str, ...]:
    """What may not be meant; raises ConfigurationError for what the daemon does not start with."""
    advice = settings.advise(found, os.environ, settings.config_path(config))
    if advice.errors:
        raise ConfigurationError([*advice.errors, *map(WARNING.format, advice.warnings)])
    return advice.warnings


def run(found: Settings, config: Path | None) -> int:
    """Tell what the settings say, what of it may not be meant, and whether there are keys."""
    out, err = printing.out(), printing.err()
    advised = warnings(found, config)
    for text in summary(found):
        printing.line(out, text)
    # What is logged meanwhile is told below; without a handler it would be printed as it came.
    logging.getLogger().addHandler(logging.NullHandler())
    failures = asyncio.run(try_credentials(found))
    for text in advised:
        # Keys that are missing here are told once: by what became of loading them.
        if text.partition(": ")[0] not in failures:
            printing.line(err, WARNING.format(printing.clean(text)))
    for setting, why in failures.items():
        printing.line(err, f"error: {setting}: {printing.clean(why)}")
    return FAILED if failures else 0


async def try_credentials(found: Settings) -> dict[str, str]:
    """Load the keys of every account, all at once; of those that fail, the setting and why.

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
    failures = {}
    for name, result in zip(transports, results, strict=True):
        if isinstance(result, CloudError):
            failures[f"accounts.{name}.credentials"] = f"{result.message}; {result.advice}"
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
