"""Checks of a valid configuration for values that cannot work, or that are probably mistakes.

Each line of advice names its setting or its file. No line repeats a value that may be a secret.
"""

from __future__ import annotations

import os
import re
import stat
from collections import defaultdict
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from orchestrator.cloud.hosts import is_loopback
from orchestrator.cloud.profiles import places
from orchestrator.domain.regions import KNOWN
from orchestrator.domain.tokens import wrong_digest
from orchestrator.settings.loading import read_file
from orchestrator.settings.placeholders import UNFILLED, is_placeholder
from orchestrator.store.database.sqlite import unfit
from orchestrator.store.database.url import sqlite_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from orchestrator.settings.sections import Account, Credentials, Settings

    Found = Iterator[str]

TOKEN_VARIABLE: Final = "ORCHESTRATOR_TOKEN"  # noqa: S105 - a name
SECRET_ID_VARIABLE: Final = "TENCENTCLOUD_SECRET_ID"  # noqa: S105 - a name
SECRET_KEY_VARIABLE: Final = "TENCENTCLOUD_SECRET_KEY"  # noqa: S105 - a name
NEEDED_VARIABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "environment": (SECRET_ID_VARIABLE, SECRET_KEY_VARIABLE),
    "tke-oidc": (
        "TKE_REGION",
        "TKE_PROVIDER_ID",
        "TKE_WEB_IDENTITY_TOKEN_FILE",
        "TKE_ROLE_ARN",
    ),
}
"""Variables that a credential provider requires, by provider."""
_VENDOR: Final = "tencentcloudapi.com"
_SECRET_ID: Final = re.compile(r"(AKID|IKID)[0-9A-Za-z]{9}")
"""Prefix of a SecretId on both sites; a SecretKey almost never has it."""
_EXAMPLE_SHA256: Final = "0123456789abcdef" * 4
"""The example in config/orchestrator.toml."""
_NO_REGIONS: Final = frozenset({"intl", "internal", "{region}"})
"""Labels in host names of the vendor that are not regions."""
_SECRET_NAMES: Final = frozenset({"secret_key", "token"})
_PASSWORD_IN_URL: Final = re.compile(r"://[^/@\s:]*:[^/@\s]+@")


@dataclass(frozen=True, slots=True)
class Advice:
    """``errors`` prevent the start of the daemon; ``warnings`` are logged at the start."""

    errors: tuple[str, ...]
    warnings: tuple[str, ...]


def advise(settings: Settings, environment: Mapping[str, str], file: Path | None = None) -> Advice:
    """Return errors and warnings about ``settings`` that no single setting shows.

    ``environment`` has the variables of the daemon; ``file`` is the file of ``settings``.
    """
    accounts = [(f"accounts.{name}", account) for name, account in settings.accounts.items()]
    errors = [error for name, account in accounts for error in _other_site(name, account)]
    errors += _unfilled_variables(settings, environment)
    errors += _no_database(settings)
    errors += [each for name, account in accounts for each in _no_key_file(name, account)]
    errors += _wrong_digests(settings, environment)
    warnings = [each for name, account in accounts for each in _sts_of_other_site(name, account)]
    warnings += [each for name, account in accounts for each in _unknown_regions(name, account)]
    warnings += [
        each
        for name, account in accounts
        for each in _missing_variables(name, account.credentials, environment)
    ]
    warnings += _swapped_keys(settings, environment)
    warnings += _example_digests(settings)
    warnings += _shared_budgets(settings, environment)
    warnings += [each for name, account in accounts for each in _plain_http(name, account)]
    warnings += _readable_files(settings, file)
    return Advice(tuple(errors), tuple(warnings))


def _other_site(name: str, account: Account) -> Found:
    """Yield errors for an endpoint of another product, and for endpoints of different sites."""
    region = account.regions[0]
    hosts = {"endpoint": account.host(region), "cvm_endpoint": account.cvm_host(region)}
    sites = {setting: _site(host) for setting, host in hosts.items() if host}
    for setting, product in (("endpoint", "batch"), ("cvm_endpoint", "cvm")):
        host = hosts[setting]
        if host and sites[setting] and not host.startswith(f"{product}."):
            yield f"{name}.{setting}: {host} does not serve {product}: use a host {product}.*"
    if None not in sites.values() and len(set(sites.values())) > 1:
        names = ", ".join(f"{setting} is on the {site} site" for setting, site in sites.items())
        yield (
            f"{name}.cvm_endpoint: {names}: the keys of one site are not valid on the other, so "
            "use endpoints of one site"
        )


def _sts_of_other_site(name: str, account: Account) -> Found:
    host = urlsplit(account.credentials.sts_endpoint or "").hostname or ""
    site, site_of_sts = _site(account.host(account.regions[0])), _site(host)
    if site and site_of_sts and site != site_of_sts:
        yield (
            f"{name}.credentials.endpoint: {host} is on the {site_of_sts} site, but endpoint is on "
            f"the {site} site: use the STS host of the {site} site"
        )


def _site(host: str) -> str | None:
    """Return the vendor's site of a host; None for a host that is not the vendor's."""
    host = host.partition(":")[0]
    if not host.endswith(f".{_VENDOR}"):
        return None
    return "international" if host.endswith(f".intl.{_VENDOR}") else "China"


def _unknown_regions(name: str, account: Account) -> Found:
    regions = [("regions", region) for region in account.regions]
    regions += [
        (setting, region)
        for setting, endpoint in _endpoints(account).items()
        for region in _regions_of(urlsplit(endpoint or "").hostname or "")
    ]
    for setting, region in regions:
        if region not in KNOWN:
            close = get_close_matches(region, KNOWN, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            yield f"{name}.{setting}: {region} is not a region that this version knows{hint}"


def _endpoints(account: Account) -> dict[str, str | None]:
    """Return the configured endpoints, by the name of the setting."""
    return {
        "endpoint": account.endpoint,
        "cvm_endpoint": account.cvm_endpoint,
        "credentials.endpoint": account.credentials.sts_endpoint,
    }


def _regions_of(host: str) -> list[str]:
    """Return the regions in the name of a vendor's host."""
    if _site(host) is None:
        return []
    _, *parts = host.removesuffix(f".{_VENDOR}").split(".")
    return [part for part in parts if part not in _NO_REGIONS]


def _swapped_keys(settings: Settings, environment: Mapping[str, str]) -> Found:
    keys = {}
    for name, account in settings.accounts.items():
        credentials = account.credentials
        if credentials.provider == "environment":
            keys[SECRET_KEY_VARIABLE] = environment.get(SECRET_KEY_VARIABLE, "").strip()
        elif credentials.secret_key:
            setting = f"accounts.{name}.credentials.secret_key"
            keys[setting] = credentials.secret_key.get_secret_value()
    for place, key in keys.items():
        if _SECRET_ID.match(key):
            yield (
                f"{place}: begins with {key[:4]} like a SecretId: set the SecretKey here, and the "
                "SecretId in the other setting"
            )


def _example_digests(settings: Settings) -> Found:
    for each in settings.auth.tokens:
        if each.sha256 == _EXAMPLE_SHA256:
            yield (
                f"auth.tokens: the sha256 of {each.name!r} is the example, which no token has: run "
                'printf %s "$TOKEN" | sha256sum and use its result'
            )


def _missing_variables(
    name: str, credentials: Credentials, environment: Mapping[str, str]
) -> Found:
    needed = NEEDED_VARIABLES.get(credentials.provider, ())
    missing = [variable for variable in needed if not environment.get(variable, "").strip()]
    if missing:
        yield (
            f"{name}.credentials: provider {credentials.provider} needs {', '.join(missing)} in "
            "the environment of the daemon: not set in this environment"
        )


def _unfilled_variables(settings: Settings, environment: Mapping[str, str]) -> Found:
    providers = {account.credentials.provider for account in settings.accounts.values()}
    for provider in sorted(providers & NEEDED_VARIABLES.keys()):
        for variable in NEEDED_VARIABLES[provider]:
            if is_placeholder(environment.get(variable, "")):
                yield f"{variable}: {UNFILLED}"


def _no_database(settings: Settings) -> Found:
    """Yield an error if the SQLite file can be neither opened nor created."""
    path = sqlite_file(settings.database.url)
    if path is None:
        return
    # Path.is_dir raises if this user may not read the parent folder.
    if os.path.isdir(path):  # noqa: PTH112
        yield f"database.url: {path} is a folder: give the path of a file in it"
    elif not os.path.isdir(path.parent):  # noqa: PTH112
        yield (
            f"database.url: the folder {path.parent} does not exist: create it, or give the path "
            "of a file in another folder"
        )
    elif why := unfit(path):
        yield why


def _no_key_file(name: str, account: Account) -> Found:
    """Yield an error if ``path`` is given and is neither a regular file nor a pipe."""
    path = account.credentials.path
    mode = _mode(path) if path is not None and account.credentials.provider == "profile" else 0
    if mode and not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        yield (
            f"{name}.credentials.path: {path} is not a regular file: give the path of the file "
            "with the keys"
        )


def _wrong_digests(settings: Settings, environment: Mapping[str, str]) -> Found:
    """Yield errors for digests that do not match the token in $ORCHESTRATOR_TOKEN, if it is set."""
    token = environment.get(TOKEN_VARIABLE, "").strip()
    for each in settings.auth.tokens if token else ():
        if wrong := wrong_digest(token.encode(errors="surrogateescape"), each.sha256):
            yield f"auth.tokens: the sha256 of {each.name!r} is wrong: {wrong} ({TOKEN_VARIABLE})"


def _shared_budgets(settings: Settings, environment: Mapping[str, str]) -> Found:
    """Yield warnings for accounts that share a quota: the cloud counts by sub-account and host."""
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
                "quota there, so divide it between their [accounts.NAME.quotas]"
            )


def _source(credentials: Credentials, environment: Mapping[str, str]) -> tuple[object, ...]:
    """Return the identity of the keys' source, equal for accounts that must have the same keys."""
    if credentials.provider == "environment" and (found := environment.get(SECRET_ID_VARIABLE)):
        return (found,)
    return credentials.source


def _plain_http(name: str, account: Account) -> Found:
    for setting, endpoint in _endpoints(account).items():
        parts = urlsplit(endpoint or "")
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            yield (
                f"{name}.{setting} is plain http to another host: anyone on the network path can "
                "read the requests and change the replies; use https://"
            )


def _readable_files(settings: Settings, file: Path | None) -> Found:
    held = list(_secrets(read_file(file)[0], "")) if file else []
    if file and held and _world_readable(file):
        yield _readable(file, f"it contains {', '.join(held)}")
    accounts = settings.accounts.values()
    for path in sorted({path for account in accounts for path in _key_files(account.credentials)}):
        if _world_readable(path):
            yield _readable(path, "it contains keys")


def _key_files(credentials: Credentials) -> list[Path]:
    if credentials.provider != "profile":
        return []
    return places(credentials.path, credentials.profile)


def _readable(path: Path, reason: str) -> str:
    return f"every user of this host can read {path}, and {reason}: run chmod 600 {path}"


def _world_readable(path: Path) -> bool:
    """Return whether every user can read a regular file; other files need their usual modes."""
    mode = _mode(path)
    return os.name == "posix" and stat.S_ISREG(mode) and bool(mode & stat.S_IROTH)


def _mode(path: Path) -> int:
    """Return type and permissions of a file; 0 if they cannot be read."""
    try:
        return path.expanduser().stat().st_mode
    except (OSError, RuntimeError):
        return 0


def _secrets(table: object, place: str) -> Found:
    """Yield the names of the settings in a TOML table that contain a secret."""
    for name, value in table.items() if isinstance(table, dict) else ():
        if not isinstance(value, str):
            yield from _secrets(value, f"{place}{name}.")
        elif value and (name in _SECRET_NAMES or _PASSWORD_IN_URL.search(value)):
            yield f"{place}{name}"
