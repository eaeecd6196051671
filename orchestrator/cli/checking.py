"""A configuration in a few lines, without its secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.settings import Account, Settings


def summary(settings: Settings) -> Iterator[str]:
    server, engine = settings.server, settings.engine
    callers = ", ".join(token.name for token in settings.auth.tokens)
    yield f"server     {server.host}:{server.port}, callers: {callers or 'anyone on this machine'}"
    yield f"database   {settings.database.url}"
    yield (
        f"engine     settles for {engine.settle_s:g} s, gives up after {engine.give_up_after_s:g} s"
    )
    for name, account in settings.accounts.items():
        yield from _account(name, account)


def _account(name: str, account: Account) -> Iterator[str]:
    yield f"account    {name}, credentials: {account.credentials.provider}"
    for region in account.regions:
        default = " (default)" if region == account.default_region else ""
        yield f"  region   {region}{default} at {account.host(region)}"
    quotas = ", ".join(f"{action} {calls}" for action, calls in account.quotas.model_dump().items())
    yield f"  quotas   {quotas} a second"
