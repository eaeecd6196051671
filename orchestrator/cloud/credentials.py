"""Credential providers: the sources of an account's keys."""

from __future__ import annotations

import functools
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from orchestrator.cloud.keys import build_credential, unavailable
from orchestrator.cloud.machine_role import METADATA_ENDPOINT, from_machine_role
from orchestrator.cloud.profiles import DEFAULT_PROFILE, from_profile
from orchestrator.cloud.refreshing import RefreshingProvider
from orchestrator.cloud.sts import STS_ENDPOINT, Sts, pod_identity
from orchestrator.cloud.threads import OwnThread, StillBlocked
from orchestrator.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.cloud.signing import Credential
    from orchestrator.cloud.transport import Transport
    from orchestrator.engine.ports import Clock

    Options = Mapping[str, str | int | Path | None]
    T = TypeVar("T")

_LOG: Final = logging.getLogger(__name__)

SESSION_NAME: Final = "termination-orchestrator"
DURATION_S: Final = 7200

REQUIRED_OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "static": ("secret_id", "secret_key"),
    "environment": (),
    "profile": (),
    "cvm-role": (),
    "sts": ("secret_id", "secret_key", "role_arn"),
    "tke-oidc": (),
}
"""Required options, by kind of provider."""


class CredentialProvider(Protocol):
    """Source of the credential that signs the next request."""

    async def get(self) -> Credential:
        """Return a credential that has not expired; raise CloudError of kind CREDENTIAL."""

    def invalidate(self, rejected: Credential) -> None:
        """Load a new credential for the next ``get``, if ``rejected`` is the current one."""


def build_provider(
    kind: str,
    options: Options,
    clock: Clock,
    transport: Transport,
    *,
    account: str = "",
    reread: Callable[[], Options] | None = None,
) -> CredentialProvider:
    """Return a provider of ``kind``, which is one of ``REQUIRED_OPTIONS``; read nothing yet.

    Options, with secrets in clear text: ``secret_id``, ``secret_key`` and ``token`` (static, sts),
    ``path`` and ``profile`` (profile), ``role`` (cvm-role), ``role_arn`` (sts), ``session_name``
    and ``duration_s`` (sts, tke-oidc), ``endpoint`` (cvm-role: URL of the metadata service; sts and
    tke-oidc: host or URL of STS). None means that an option is not given. Raises
    ConfigurationError.

    ``reread`` returns the options as they are configured now; it may block, and it raises
    ConfigurationError. It is called before every load except the first, so that a key that was
    corrected in the configuration is used without a restart.
    """
    if kind not in REQUIRED_OPTIONS:
        known = ", ".join(REQUIRED_OPTIONS)
        raise ConfigurationError([f"no credential provider {kind!r}: choose one of {known}"])
    missing = [name for name in REQUIRED_OPTIONS[kind] if options.get(name) is None]
    if missing:
        raise ConfigurationError([f"{kind} credentials need {name}" for name in missing])
    source = _Source(kind, options, clock, transport, account, reread)
    return RefreshingProvider(source.load, clock=clock, account=account)


@dataclass(slots=True)
class _Source:
    """Loader of one account's credential, with the newest valid options."""

    kind: str
    options: Options
    clock: Clock
    transport: Transport
    account: str
    reread: Callable[[], Options] | None
    loaded: bool = False
    thread: OwnThread = field(default_factory=lambda: OwnThread("read credentials"))

    async def load(self) -> Credential:
        if self.loaded:
            await self._reread()
        self.loaded = True
        match self.kind:
            case "static":
                return self._given_keys()
            case "environment":
                return _from_environment()
            case "profile":
                path = Path(self._text("path", "")) if self.options.get("path") else None
                profile = self._text("profile", DEFAULT_PROFILE)
                return await self._blocking(functools.partial(from_profile, path, profile))
            case "cvm-role":
                role = self._text("role", "") or None
                endpoint = self._text("endpoint", METADATA_ENDPOINT)
                return await from_machine_role(role=role, endpoint=endpoint)
            case "sts":
                role_arn = self._text("role_arn", "")
                return await self._sts().assume_role(self._given_keys(), role_arn=role_arn)
            case _:
                return await self._sts().assume_pod_role(await self._blocking(pod_identity))

    async def _reread(self) -> None:
        if self.reread is None:
            return
        try:
            self.options = await self.thread.run(self.reread)
        except (ConfigurationError, StillBlocked) as error:
            reason = str(error) or "the previous read has not finished"
            _LOG.warning(
                "account %s: the configuration cannot be read again, so the previous values of the "
                "credentials section stay in use: %s",
                self.account,
                reason,
            )

    def _text(self, name: str, default: str) -> str:
        value = self.options.get(name)
        return default if value is None else str(value)

    def _given_keys(self) -> Credential:
        keys = tuple(self.options.get(name) for name in ("secret_id", "secret_key", "token"))
        return build_credential((keys[0], keys[1], keys[2]), source="configuration")

    def _sts(self) -> Sts:
        return Sts(
            transport=self.transport,
            clock=self.clock,
            endpoint=self._text("endpoint", STS_ENDPOINT),
            session_name=self._text("session_name", SESSION_NAME),
            duration_s=int(self._text("duration_s", str(DURATION_S))),
        )

    async def _blocking(self, function: Callable[[], T]) -> T:
        try:
            return await self.thread.run(function)
        except StillBlocked:
            raise unavailable(
                f"{self.kind}: the previous read of the keys has not finished",
                advice="check the file system of the key file",
            ) from None


def _from_environment() -> Credential:
    """Return the keys in the variables of the vendor's tools; raise CloudError."""
    names = ("TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY", "TENCENTCLOUD_TOKEN")
    secret_id, secret_key, token = (os.environ.get(name) for name in names)
    if not secret_id or not secret_key:
        raise unavailable(
            "environment: the keys are missing",
            advice="set TENCENTCLOUD_SECRET_ID and TENCENTCLOUD_SECRET_KEY in the environment of"
            " the daemon",
        )
    return build_credential((secret_id, secret_key, token), source="environment")
