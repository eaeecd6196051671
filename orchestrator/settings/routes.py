"""Through which proxies the calls to the cloud go, in words without passwords."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orchestrator.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.settings.sections import Settings


def routes(settings: Settings, environment: Mapping[str, str]) -> dict[str, list[str]]:
    """A line for each way that an account's calls take, by account.

    Raises ConfigurationError where a variable names what cannot be a proxy.
    """
    problems: list[str] = []
    warnings: dict[str, list[str]] = {}
    for name, account in settings.accounts.items():
        egress = settings.egress_of(name, environment)
        hosts: dict[str, list[str]] = defaultdict(list)
        try:
            for url in account.urls():
                proxy = egress.proxy_for(url)
                way = f"through proxy {proxy.shown}" if proxy else "directly"
                hosts[way].append(urlsplit(url).netloc)
        except ConfigurationError as error:
            problems += error.problems
        warnings[name] = [f"{', '.join(called)} {way}" for way, called in hosts.items()]
    if problems:
        raise ConfigurationError(sorted(set(problems)))
    return warnings
