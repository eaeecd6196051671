"""What a valid configuration says that cannot work, or that may not be meant.

Each line names the setting, or the file, that it is about.  No line repeats a value that may be a
secret.
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
"""What a provider of credentials takes from the environment."""
_VENDOR: Final = "tencentcloudapi.com"
_SECRET_ID: Final = re.compile(r"(AKID|IKID)[0-9A-Za-z]{9}")
"""How a SecretId begins, on either site; a SecretKey does by the rarest chance only."""
_EXAMPLE_SHA256: Final = "0123456789abcdef" * 4
"""As config/orchestrator.toml has it."""
_NO_REGIONS: Final = frozenset({"intl", "internal", "{region}"})
"""Parts of the vendor's names of hosts that name no region."""
_SECRET_NAMES: Final = frozenset({"secret_key", "token"})
_PASSWORD_IN_URL: Final = re.compile(r"://[^/@\s:]*:[^/@\s]+@")


@dataclass(frozen=True, slots=True)
class Advice:
    """``errors``: the daemon does not start with them.  ``warnings``: it does, and logs them."""

    errors: tuple[str, ...]
    warnings: tuple[str, ...]


def advise(settings: Settings, environment: Mapping[str, str], file: Path | None = None) -> Advice:
    """Check what no single setting shows.

    ``environment`` is that of the daemon, and ``file`` the one that the settings come from.
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
    """Endpoints of another product, or of the site where the account has no keys."""
    region = account.regions[0]
    hosts = {"endpoint": account.host(region), "cvm_endpoint": account.cvm_host(region)}
    sites = {setting: _site(host) for setting, host in hosts.items() if host}
    for setting, product in (("endpoint", "batch"), ("cvm_endpoint", "cvm")):
        host = hosts[setting]
        if host and sites[setting] and not host.startswith(f"{product}."):
            yield f"{name}.{setting}: {host} does not serve {product}: name a host {product}.*"
    if None not in sites.values() and len(set(sites.values())) > 1:
        names = ", ".join(f"{setting} is on the {site} site" for setting, site in sites.items())
        yield f"{name}.cvm_endpoint: {names}: keys of one site are not known on the other"


def _sts_of_other_site(name: str, account: Account) -> Found:
    host = urlsplit(account.credentials.sts_endpoint or "").hostname or ""
    site, site_of_sts = _site(account.host(account.regions[0])), _site(host)
    if site and site_of_sts and site != site_of_sts:
        yield (
            f"{name}.credentials.endpoint: {host} is on the {site_of_sts} site, endpoint on the "
            f"{site} site: name the STS host of that site"
        )


def _site(host: str) -> str | None:
    """Which of the vendor's two sites a host belongs to; None for a host of somebody else."""
    host = host.partition(":")[0]
    if not host.endswith(f".{_VENDOR}"):
        return None
    return "international" if host.endswith(f".intl.{_VENDOR}") else "China"


def _unknown_regions(name: str, account: Account) -> Found:
    named = [("regions", region) for region in account.regions]
    named += [
        (setting, part)
        for setting, endpoint in _endpoints(account).items()
        for part in _places(urlsplit(endpoint or "").hostname or "")
    ]
    for setting, region in named:
        if region not in KNOWN:
            close = get_close_matches(region, KNOWN, n=1)
            meant = f"; is {close[0]} meant?" if close else ""
            yield f"{name}.{setting}: {region} is no region that this version knows{meant}"


def _endpoints(account: Account) -> dict[str, str | None]:
    """As they are configured, by the name of the setting."""
    return {
        "endpoint": account.endpoint,
        "cvm_endpoint": account.cvm_endpoint,
        "credentials.endpoint": account.credentials.sts_endpoint,
    }


def _places(host: str) -> list[str]:
    """The regions that a host of the vendor's names."""
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
                f"{place}: begins with {key[:4]}, as a SecretId does: give the SecretKey here, and "
                "the SecretId in the place of the other"
            )


def _example_digests(settings: Settings) -> Found:
    for each in settings.auth.tokens:
        if each.sha256 == _EXAMPLE_SHA256:
            yield (
                f"auth.tokens: the sha256 of {each.name!r} is the example's, which no token has: "
                'printf %s "$TOKEN" | sha256sum makes the one to give'
            )


def _missing_variables(
    name: str, credentials: Credentials, environment: Mapping[str, str]
) -> Found:
    needed = NEEDED_VARIABLES.get(credentials.provider, ())
    missing = [variable for variable in needed if not environment.get(variable, "").strip()]
    if missing:
        yield (
            f"{name}.credentials: provider {credentials.provider} needs {', '.join(missing)} in "
            "the environment of the daemon, and here they are not set"
        )


def _unfilled_variables(settings: Settings, environment: Mapping[str, str]) -> Found:
    providers = {account.credentials.provider for account in settings.accounts.values()}
    for provider in sorted(providers & NEEDED_VARIABLES.keys()):
        for variable in NEEDED_VARIABLES[provider]:
            if is_placeholder(environment.get(variable, "")):
                yield f"{variable}: {UNFILLED}"


def _no_database(settings: Settings) -> Found:
    """Where its file cannot be one; it is made where there is none."""
    path = sqlite_file(settings.database.url)
    if path is None:
        return
    # Path.is_dir raises where this user may not look.
    if os.path.isdir(path):  # noqa: PTH112
        yield f"database.url: {path} is a folder: give the path of a file in it"
    elif not os.path.isdir(path.parent):  # noqa: PTH112
        yield (
            f"database.url: the folder {path.parent} does not exist: create it, or give the path "
            "of a file elsewhere"
        )
    elif why := unfit(path):
        yield why


def _no_key_file(name: str, account: Account) -> Found:
    """A pipe may give keys, too; of the vendor's own places each is tried."""
    path = account.credentials.path
    mode = _mode(path) if path is not None and account.credentials.provider == "profile" else 0
    if mode and not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        yield (
            f"{name}.credentials.path: {path} is no regular file: give the path of the file that "
            "holds the keys"
        )


def _wrong_digests(settings: Settings, environment: Mapping[str, str]) -> Found:
    """Where the token itself is known here, as it is to a person who uses the command line."""
    token = environment.get(TOKEN_VARIABLE, "").strip()
    for each in settings.auth.tokens if token else ():
        if wrong := wrong_digest(token.encode(errors="surrogateescape"), each.sha256):
            yield f"auth.tokens: the sha256 of {each.name!r} is wrong: {wrong} ({TOKEN_VARIABLE})"


def _shared_budgets(settings: Settings, environment: Mapping[str, str]) -> Found:
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


def _plain_http(name: str, account: Account) -> Found:
    for setting, endpoint in _endpoints(account).items():
        parts = urlsplit(endpoint or "")
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            yield (
                f"{name}.{setting} is plain http to another host: whoever is on the way can read "
                "the calls and change the answers; use https://"
            )


def _readable_files(settings: Settings, file: Path | None) -> Found:
    held = list(_secrets(read_file(file)[0], "")) if file else []
    if file and held and _world_readable(file):
        yield _readable(file, f"it holds {', '.join(held)}")
    accounts = settings.accounts.values()
    for path in sorted({path for account in accounts for path in _files(account.credentials)}):
        if _world_readable(path):
            yield _readable(path, "it holds keys")


def _files(credentials: Credentials) -> list[Path]:
    if credentials.provider != "profile":
        return []
    return places(credentials.path, credentials.profile)


def _readable(path: Path, why: str) -> str:
    return f"every user of this host can read {path}, and {why}: chmod 600 {path}"


def _world_readable(path: Path) -> bool:
    """Of regular files alone: others need the modes of a folder or of a device."""
    mode = _mode(path)
    return os.name == "posix" and stat.S_ISREG(mode) and bool(mode & stat.S_IROTH)


def _mode(path: Path) -> int:
    """Its type and permissions; 0 where it cannot be looked at."""
    try:
        return path.expanduser().stat().st_mode
    except (OSError, RuntimeError):
        return 0


def _secrets(table: object, place: str) -> Found:
    """Where a TOML document holds a secret."""
    for name, value in table.items() if isinstance(table, dict) else ():
        if not isinstance(value, str):
            yield from _secrets(value, f"{place}{name}.")
        elif value and (name in _SECRET_NAMES or _PASSWORD_IN_URL.search(value)):
            yield f"{place}{name}"
