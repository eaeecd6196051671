"""Transport and credential provider of each configured account."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from orchestrator.cloud.credentials import build_provider
from orchestrator.cloud.transport import AiohttpTransport
from orchestrator.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AsyncExitStack
    from pathlib import Path

    from orchestrator.cloud.credentials import CredentialProvider
    from orchestrator.cloud.transport import Transport
    from orchestrator.engine.ports import Clock
    from orchestrator.settings import Settings


def opened_transports(settings: Settings, stack: AsyncExitStack) -> dict[str, Transport]:
    """Return each account's transport, open until ``stack`` closes; raise ConfigurationError."""
    transports: dict[str, Transport] = {}
    problems = []
    for name in settings.accounts:
        try:
            transport = AiohttpTransport(
                connect_timeout_s=settings.engine.call_timeout_s / 2,
                total_timeout_s=settings.engine.call_timeout_s,
                egress=settings.egress_of(name, os.environ),
            )
        except ConfigurationError as error:
            problems += [f"accounts.{name}: {problem}" for problem in error.problems]
        else:
            stack.push_async_callback(transport.close)
            transports[name] = transport
    if problems:
        raise ConfigurationError(problems)
    return transports


def credentials_of(
    name: str,
    settings: Settings,
    clock: Clock,
    transport: Transport,
    reread: Callable[[], Settings] | None = None,
) -> CredentialProvider:
    """Return the credential provider of an account; read no key yet.

    ``reread`` returns the settings as they are now.
    """
    configured = settings.accounts[name].credentials

    def current_options(reread: Callable[[], Settings]) -> Mapping[str, str | int | Path | None]:
        account = reread().accounts.get(name)
        if account is None or account.credentials.provider != configured.provider:
            setting = f"accounts.{name}.credentials.provider"
            raise ConfigurationError([f"{setting} has changed: restart the daemon to apply it"])
        return account.credentials.options()

    return build_provider(
        configured.provider,
        configured.options(),
        clock,
        transport,
        account=name,
        reread=functools.partial(current_options, reread) if reread else None,
    )
