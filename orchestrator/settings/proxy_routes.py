"""Description of the proxies that the accounts use, without passwords."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orchestrator.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.settings.sections import Settings


def routes(settings: Settings, environment: Mapping[str, str]) -> dict[str, list[str]]:
    """Return by account one line per route: the hosts that are called, and the proxy.

    Raises ConfigurationError if a variable does not name a valid proxy.
    """
    problems: list[str] = []
    lines: dict[str, list[str]] = {}
    for name, account in settings.accounts.items():
        egress = settings.egress_of(name, environment)
        hosts_by_route: dict[str, list[str]] = defaultdict(list)
        try:
            for url in account.urls():
                proxy = egress.proxy_for(url)
                route = f"through proxy {proxy.shown}" if proxy else "directly"
                hosts_by_route[route].append(urlsplit(url).netloc)
        except ConfigurationError as error:
            problems += error.problems
        lines[name] = [f"{', '.join(hosts)} {route}" for route, hosts in hosts_by_route.items()]
    if problems:
        raise ConfigurationError(sorted(set(problems)))
    return lines
