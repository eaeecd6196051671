"""What a valid configuration says that cannot work, or that may not be meant.

Each line names the setting that it is about.  No line repeats a value that may be a secret.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator.settings.sections import Credentials, Settings

SECRET_ID_VARIABLE = "TENCENTCLOUD_SECRET_ID"  # noqa: S105 - a name


@dataclass(frozen=True, slots=True)
class Advice:
    """``errors``: the daemon does not start with them.  ``warnings``: it does, and logs them."""

    errors: tuple[str, ...]
    warnings: tuple[str, ...]


def advise(settings: Settings, environment: Mapping[str, str]) -> Advice:
    """Check what no single setting shows; ``environment`` is that of the daemon."""
    return Advice(errors=(), warnings=tuple(_shared_budgets(settings, environment)))


def _shared_budgets(settings: Settings, environment: Mapping[str, str]) -> Iterator[str]:
    """Accounts that would spend one quota twice: the cloud counts by sub-account and host."""
    users: dict[tuple[object, str], list[str]] = defaultdict(list)
    for name, account in settings.accounts.items():
        hosts = {account.host(region) for region in account.regions}
        hosts |= {host for region in account.regions if (host := account.cvm_host(region))}
        for host in sorted(hosts):
            users[_source(account.credentials, environment), host].append(name)
    for (_, host), names in users.items():
        if len(names) > 1:
            yield (
                f"accounts {', '.join(sorted(names))} use one SecretId on {host}: they share one "
                "quota there, so divide [accounts.NAME.quotas] between them"
            )


def _source(credentials: Credentials, environment: Mapping[str, str]) -> tuple[object, ...]:
    """Equal for two accounts whose keys must be the same."""
    if credentials.provider == "environment" and (found := environment.get(SECRET_ID_VARIABLE)):
        return (found,)
    return credentials.source
