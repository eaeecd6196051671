"""How each configured account reaches the cloud: its connections, and the source of its keys."""

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
    """Each account's own way to the cloud, open until ``stack`` ends; raises ConfigurationError."""
    made: dict[str, Transport] = {}
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
            made[name] = transport
    if problems:
        raise ConfigurationError(problems)
    return made


def credentials_of(
    name: str,
    settings: Settings,
    clock: Clock,
    transport: Transport,
    reread: Callable[[], Settings] | None = None,
) -> CredentialProvider:
    """The source of an account's keys; nothing is read yet."""
    configured = settings.accounts[name].credentials

    def options_now(reread: Callable[[], Settings]) -> Mapping[str, str | int | Path | None]:
        now = reread().accounts.get(name)
        if now is None or now.credentials.provider != configured.provider:
            place = f"accounts.{name}.credentials.provider"
            raise ConfigurationError([f"{place} has changed: restart to have it taken over"])
        return now.credentials.options()

    return build_provider(
        configured.provider,
        configured.options(),
        clock,
        transport,
        account=name,
        reread=functools.partial(options_now, reread) if reread else None,
    )
