"""The `check-config` command, and the loading of the configuration for all commands."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from orchestrator import settings
from orchestrator.access import credentials_of, opened_transports
from orchestrator.cli import resources
from orchestrator.cli.exit_codes import FAILED
from orchestrator.cli.output import printing
from orchestrator.daemon import SystemClock
from orchestrator.domain.errors import CloudError, ConfigurationError
from orchestrator.settings import routes
from orchestrator.settings.loading import CONFIG_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator.settings import Account, Settings

WARNING: Final = "warning: {}"


def load(path: Path | None) -> Settings:
    """Load the settings; if no file was given and the environment is not enough, advise a file.

    Raise ConfigurationError with every mistake.
    """
    try:
        return settings.load(path)
    except ConfigurationError as error:
        if path or os.environ.get(CONFIG_VARIABLE):
            raise
        example = resources.config_file("orchestrator.toml")
        hint = (
            f"no configuration file is given: give one with --config or {CONFIG_VARIABLE}; "
            f"{example} is an example"
        )
        raise ConfigurationError([hint, *error.problems]) from error


def warnings(found: Settings, config: Path | None) -> tuple[str, ...]:
    """Return warnings about settings that may be unintended.

    Raise ConfigurationError for settings with which the daemon does not start.
    """
    advice = settings.advise(found, os.environ, settings.config_path(config))
    if advice.errors:
        raise ConfigurationError([*advice.errors, *map(WARNING.format, advice.warnings)])
    return advice.warnings


def run(found: Settings, config: Path | None) -> int:
    """Print a summary of the settings, the warnings, and each failure to load an account's keys."""
    out, err = printing.out(), printing.err()
    advised = warnings(found, config)
    for text in summary(found):
        printing.print_line(out, text)
    # The failures are printed below; without a handler, logging would also print them raw.
    logging.getLogger().addHandler(logging.NullHandler())
    failures = asyncio.run(try_credentials(found))
    for text in advised:
        # Missing keys are reported once: as the failure to load them.
        if text.partition(": ")[0] not in failures:
            printing.print_line(err, WARNING.format(printing.clean(text)))
    for setting, reason in failures.items():
        printing.print_line(err, f"error: {setting}: {printing.clean(reason)}")
    return FAILED if failures else 0


async def try_credentials(found: Settings) -> dict[str, str]:
    """Load the keys of all accounts concurrently; return setting and reason of each failure.

    The cloud is called only if a provider needs it. Each account is given up after 10 s.
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
        f"engine     settle window {engine.settle_s:g} s, "
        f"gives up after {engine.give_up_after_s:g} s"
    )
    routes_of = routes(settings, os.environ)
    for name, account in settings.accounts.items():
        yield from _account(name, account, routes_of[name])


def _account(name: str, account: Account, routes_used: list[str]) -> Iterator[str]:
    yield f"account    {name}, credentials: {account.credentials.provider}"
    for route in routes_used:
        yield f"  route    {route}"
    for region in account.regions:
        default = " (default)" if region == account.default_region else ""
        machines = account.cvm_host(region) or "not read"
        yield f"  region   {region}{default} at {account.host(region)}, machines: {machines}"
    if account.terminate_machines:
        yield "  machines are terminated if nothing else stops their instances"
    quotas = ", ".join(f"{action} {calls}" for action, calls in account.quotas.model_dump().items())
    yield f"  quotas   {quotas} per second"
