"""Where an account's keys come from."""

from __future__ import annotations

import asyncio
import configparser
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from orchestrator.cloud import temporary
from orchestrator.cloud.refreshing import RefreshingProvider
from orchestrator.cloud.temporary import checked, unavailable
from orchestrator.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from orchestrator.cloud.signing import Credential
    from orchestrator.engine.ports import Clock

PROFILE_PATH: Final = "~/.tencentcloud/credentials"
SESSION_NAME: Final = "batch-termination-orchestrator"

REQUIRED_OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "static": ("secret_id", "secret_key"),
    "environment": (),
    "profile": (),
    "cvm-role": (),
    "sts": ("secret_id", "secret_key", "role_arn"),
    "tke-oidc": (),
}
"""The kinds of provider, and what each cannot do without."""


class CredentialProvider(Protocol):
    """Gives the credential to sign the next call with."""

    async def get(self) -> Credential:
        """A credential that has not expired; raises CloudError of kind CREDENTIAL."""

    def invalidate(self, rejected: Credential) -> None:
        """Get a new one for the next caller, if ``rejected`` is the one that is given out."""


def build_provider(
    kind: str, options: Mapping[str, str | int | Path | None], clock: Clock
) -> CredentialProvider:
    """A provider of one of the kinds of ``REQUIRED_OPTIONS``.

    Options, secrets in the clear: ``secret_id``, ``secret_key`` and ``token`` (static, sts),
    ``path`` (profile), ``role`` (cvm-role), ``role_arn``, ``session_name`` and ``duration_s``
    (sts), ``endpoint`` (cvm-role: URL of the metadata, sts and tke-oidc: host or URL of STS).
    An option that is None is not given.  Nothing is read before the first ``get``.  Raises
    ConfigurationError.
    """
    if kind not in REQUIRED_OPTIONS:
        known = ", ".join(REQUIRED_OPTIONS)
        raise ConfigurationError([f"no credential provider {kind!r}: there are {known}"])
    given = {name: str(value) for name, value in options.items() if value is not None}
    missing = [name for name in REQUIRED_OPTIONS[kind] if name not in given]
    if missing:
        raise ConfigurationError([f"{kind} credentials need {name}" for name in missing])
    return RefreshingProvider(_loader(kind, given, clock), clock=clock)


def _loader(
    kind: str, options: Mapping[str, str], clock: Clock
) -> Callable[[], Awaitable[Credential]]:
    match kind:
        case "static":
            return functools.partial(_from_options, options)
        case "environment":
            return _from_environment
        case "profile":
            path = Path(options.get("path", PROFILE_PATH))
            return functools.partial(asyncio.to_thread, _from_profile, path)
        case "cvm-role":
            return functools.partial(
                temporary.from_machine_role,
                role=options.get("role"),
                endpoint=options.get("endpoint", temporary.METADATA_ENDPOINT),
            )
        case "sts":
            return functools.partial(_from_assumed_role, options, clock)
        case _:
            endpoint = options.get("endpoint", temporary.STS_ENDPOINT)
            return functools.partial(temporary.from_tke_identity, endpoint=endpoint, clock=clock)


async def _from_options(options: Mapping[str, str]) -> Credential:
    keys = (options["secret_id"], options["secret_key"], options.get("token"))
    return checked(keys, source="configuration")


async def _from_environment() -> Credential:
    """By the variables that the vendor's own tools read."""
    names = ("TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY", "TENCENTCLOUD_TOKEN")
    secret_id, secret_key, token = (os.environ.get(name) for name in names)
    if not secret_id or not secret_key:
        raise unavailable(
            "environment: no keys",
            advice="set TENCENTCLOUD_SECRET_ID and TENCENTCLOUD_SECRET_KEY where this runs",
        )
    return checked((secret_id, secret_key, token), source="environment")


def _from_profile(path: Path) -> Credential:
    """By the INI file that the vendor's own tools read."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.expanduser().read_text(encoding="utf-8"))
        keys = parser["default"]
    except (OSError, ValueError, KeyError, RuntimeError, configparser.Error) as error:
        raise unavailable(
            f"profile: {path} cannot be used ({type(error).__name__})",
            advice=f"write secret_id and secret_key below [default] in {path}",
        ) from error
    secret_id, secret_key, token = (
        keys.get(name, "").strip('"') for name in ("secret_id", "secret_key", "token")
    )
    return checked((secret_id, secret_key, token), source=f"profile {path}")


async def _from_assumed_role(options: Mapping[str, str], clock: Clock) -> Credential:
    return await temporary.from_assumed_role(
        await _from_options(options),
        role_arn=options["role_arn"],
        session_name=options.get("session_name", SESSION_NAME),
        duration_s=int(options.get("duration_s", "7200")),
        endpoint=options.get("endpoint", temporary.STS_ENDPOINT),
        clock=clock,
    )
