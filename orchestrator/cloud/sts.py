"""Temporary keys from STS: for a role that a long-lived key assumes, or the role of a TKE pod."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.cloud import fields, wire
from orchestrator.cloud.hosts import host_for
from orchestrator.cloud.keys import build_credential, unavailable, unix_time
from orchestrator.cloud.signing import signed_headers, unsigned_headers
from orchestrator.domain.errors import CloudError, CloudErrorKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.cloud.signing import Credential
    from orchestrator.cloud.transport import Transport
    from orchestrator.engine.ports import Clock

STS_ENDPOINT: Final = "sts.tencentcloudapi.com"
STS: Final = wire.Service("sts", "2018-08-13")
REGION: Final = "ap-guangzhou"
"""Region of AssumeRole, as in the vendor's SDK; STS serves all regions from any region."""
_POD_VARIABLES: Final = (
    "TKE_REGION",
    "TKE_PROVIDER_ID",
    "TKE_ROLE_ARN",
    "TKE_WEB_IDENTITY_TOKEN_FILE",
)
_CATALOGUE_ADVICE: Final = frozenset(
    {CloudErrorKind.NOT_SENT, CloudErrorKind.CREDENTIAL, CloudErrorKind.CLOCK_SKEW}
)
"""Kinds of errors for which the catalogue's advice is correct for STS, too."""
_ADVICE: Final = (
    "check that the role exists and trusts the caller, and check the provider's endpoint,"
    " session_name and duration_s"
)
_KEYS: Final = ("TmpSecretId", "TmpSecretKey", "Token")


@dataclass(frozen=True, slots=True, kw_only=True)
class PodIdentity:
    """Data that TKE puts into a pod whose service account is bound to a role."""

    region: str
    provider_id: str
    role_arn: str
    token: str


def sts_url(endpoint: str) -> str:
    """Return the URL of STS for its host or its URL; raise ValueError for any other text."""
    url = endpoint if "://" in endpoint else f"https://{endpoint}"
    try:
        host_for(url, REGION)
    except ValueError:
        raise ValueError("must be the host of STS, or its http(s)://HOST:PORT") from None
    return url.rstrip("/") + "/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sts:
    """STS client that uses the account's transport, and so its proxy and its CA file.

    Its methods raise CloudError of kind CREDENTIAL.
    """

    transport: Transport
    clock: Clock
    endpoint: str
    session_name: str
    duration_s: int

    async def assume_role(self, long_lived: Credential, *, role_arn: str) -> Credential:
        """Return temporary keys of ``role_arn``, which ``long_lived`` may assume.

        Vendor page: cloud.tencent.com/document/api/1312/48197.
        """
        return await self._keys("AssumeRole", REGION, {"RoleArn": role_arn}, long_lived)

    async def assume_pod_role(self, pod: PodIdentity) -> Credential:
        """Return temporary keys of the pod's role; the request is authenticated by the pod's token.

        Vendor page: cloud.tencent.com/document/api/1312/73070.
        """
        parameters = {
            "ProviderId": pod.provider_id,
            "WebIdentityToken": pod.token,
            "RoleArn": pod.role_arn,
        }
        return await self._keys("AssumeRoleWithWebIdentity", pod.region, parameters, None)

    async def _keys(
        self,
        action: str,
        region: str,
        parameters: Mapping[str, str],
        signer: Credential | None,
    ) -> Credential:
        try:
            response = await self._ask(action, region, parameters, signer)
        except CloudError as error:
            raise unavailable(
                f"STS {action}: {error}",
                advice=error.advice if error.kind in _CATALOGUE_ADVICE else _ADVICE,
                request_id=error.request_id,
            ) from error
        return _read(response, source=f"STS {action}")

    async def _ask(
        self,
        action: str,
        region: str,
        parameters: Mapping[str, str],
        signer: Credential | None,
    ) -> Mapping[str, object]:
        url = sts_url(self.endpoint)
        wanted = {"RoleSessionName": self.session_name, "DurationSeconds": self.duration_s}
        body = json.dumps({**parameters, **wanted}).encode()
        call = {
            "host": host_for(url, REGION),
            "action": action,
            "version": STS.version,
            "region": region,
        }
        at = self.clock.now()
        headers = (
            unsigned_headers(**call, at=at)
            if signer is None
            else signed_headers(signer, service=STS.name, **call, body=body, at=at)
        )
        answer = await self.transport.post(
            url, headers=headers, body=body, before_send=lambda: None
        )
        return wire.open_envelope(answer.status, answer.body)


def pod_identity() -> PodIdentity:
    """Read the variables and the token file of a TKE pod; block, and raise CloudError."""
    values = {name: os.environ.get(name, "").strip() for name in _POD_VARIABLES}
    missing = [name for name, value in values.items() if not value]
    if missing:
        raise unavailable(
            f"TKE OIDC: {', '.join(missing)} not set",
            advice="run the daemon in a TKE pod whose service account is bound to a CAM role, or"
            " use another credential provider",
        )
    path = Path(values["TKE_WEB_IDENTITY_TOKEN_FILE"])
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise unavailable(f"TKE OIDC: {path} cannot be read ({type(error).__name__})") from error
    return PodIdentity(
        region=values["TKE_REGION"],
        provider_id=values["TKE_PROVIDER_ID"],
        role_arn=values["TKE_ROLE_ARN"],
        token=token,
    )


def _read(response: Mapping[str, object], *, source: str) -> Credential:
    """Return the keys in a reply; raise CloudError that names the first missing field."""
    given = response.get("Credentials")
    if not isinstance(given, dict):
        raise _missing("Credentials", response, source)
    for name in _KEYS:
        if not isinstance(given.get(name), str) or not given[name]:
            raise _missing(f"Credentials.{name}", response, source)
    expires_at = unix_time(response.get("ExpiredTime"))
    if expires_at is None:
        raise _missing("ExpiredTime", response, source)
    secret_id, secret_key, token = (given[name] for name in _KEYS)
    return build_credential((secret_id, secret_key, token), expires_at=expires_at, source=source)


def _missing(field: str, response: Mapping[str, object], source: str) -> CloudError:
    return unavailable(
        f"{source}: {field} is missing in the reply of STS",
        advice="check the provider's endpoint: its reply does not match the documentation of STS",
        request_id=fields.optional_text(response, "RequestId"),
    )
