"""Temporary credentials: from a machine's role, from an assumed role, from a TKE pod's identity."""

from __future__ import annotations

import asyncio
import importlib
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import aiohttp

from orchestrator.cloud import catalogue
from orchestrator.cloud.signing import Credential
from orchestrator.cloud.transport import read_at_most

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.domain.errors import CloudError
    from orchestrator.engine.ports import Clock

METADATA_ENDPOINT: Final = "http://metadata.tencentyun.com/latest/meta-data/"
METADATA_BYTES_MAX: Final = 64 * 1024
STS_ENDPOINT: Final = "sts.tencentcloudapi.com"
TKE_DURATION_S: Final = 7200
"""What the vendor's SDK asks for; it offers no way to ask for less or more."""

KeysOf = tuple[str | None, str | None, str | None]


async def from_machine_role(*, role: str | None, endpoint: str) -> Credential:
    """The keys of the role that is bound to this CVM instance.

    Vendor page: cloud.tencent.com/document/product/598/85616.  Read without the vendor's SDK, whose
    reader has no timeout and reports nothing of what went wrong.
    """
    folder = f"{endpoint.rstrip('/')}/cam/security-credentials/"
    try:
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            if role is None:
                async with session.get(folder) as answer:
                    role = (await read_at_most(answer, METADATA_BYTES_MAX)).decode().strip()
            async with session.get(folder + quote(role, safe="")) as answer:
                document: object = json.loads(await read_at_most(answer, METADATA_BYTES_MAX))
    except (aiohttp.ClientError, OSError, ValueError, RecursionError) as error:
        raise _machine_role_error(str(error) or type(error).__name__) from error
    if not isinstance(document, dict) or document.get("Code") != "Success":
        raise _machine_role_error("the metadata service gave no keys")
    try:
        expires_at = datetime.fromtimestamp(document["ExpiredTime"], UTC)
    except (LookupError, TypeError, ValueError, OverflowError, OSError) as error:
        raise _machine_role_error("the keys have no ExpiredTime") from error
    keys = (document.get("TmpSecretId"), document.get("TmpSecretKey"), document.get("Token"))
    return checked(keys, expires_at=expires_at, source="CVM role")


async def from_assumed_role(
    long_lived: Credential,
    *,
    role_arn: str,
    session_name: str,
    duration_s: int,
    endpoint: str,
    clock: Clock,
) -> Credential:
    """The keys of a role that a long-lived key may assume, good for ``duration_s``.

    Vendor page: cloud.tencent.com/document/api/1312/48197.
    """

    def keys() -> KeysOf:
        vendor = importlib.import_module("tencentcloud.common.credential")
        reader = vendor.STSAssumeRoleCredential(
            long_lived.secret_id,
            long_lived.secret_key,
            role_arn,
            session_name,
            duration_seconds=duration_s,
            endpoint=endpoint,
        )
        found: KeysOf = reader.get_credential_info()
        return found

    return await _from_vendor(keys, duration_s=duration_s, source="STS AssumeRole", clock=clock)


async def from_tke_identity(*, endpoint: str, clock: Clock) -> Credential:
    """The keys of the role of a TKE pod, found by the TKE_* variables that TKE sets in it.

    Vendor page: cloud.tencent.com/document/api/1312/73070.
    """

    def keys() -> KeysOf:
        vendor = importlib.import_module("tencentcloud.common.credential")
        reader = vendor.DefaultTkeOIDCRoleArnProvider().get_credentials()
        reader.endpoint = endpoint
        found: KeysOf = reader.get_credential_info()
        return found

    return await _from_vendor(keys, duration_s=TKE_DURATION_S, source="TKE OIDC", clock=clock)


async def _from_vendor(
    keys: Callable[[], KeysOf], *, duration_s: int, source: str, clock: Clock
) -> Credential:
    """Run the vendor's blocking reader in a thread.

    The expiry is counted from before the call: what the SDK keeps as expiry is altered by a margin
    of its own that differs from class to class.
    """
    expires_at = clock.now() + timedelta(seconds=duration_s)
    found = await asyncio.to_thread(_run, keys, source)
    return checked(found, expires_at=expires_at, source=source)


def _run(keys: Callable[[], KeysOf], source: str) -> KeysOf:
    vendor = importlib.import_module("tencentcloud.common.credential")
    try:
        return keys()
    except (vendor.TencentCloudSDKException, OSError, ValueError, LookupError, TypeError) as error:
        raise unavailable(f"{source}: {error}") from error


def checked(
    keys: tuple[object, object, object], *, expires_at: datetime | None = None, source: str
) -> Credential:
    """A credential of (secret id, secret key, token); raises CloudError if it cannot be one."""
    secret_id, secret_key, token = (key.strip() if isinstance(key, str) else None for key in keys)
    if not secret_id or not secret_key:
        raise unavailable(f"{source}: no secret id and secret key")
    if not all(key.isascii() and key.isprintable() for key in (secret_id, secret_key, token or "")):
        raise unavailable(f"{source}: the keys hold characters that no key has")
    return Credential(
        secret_id=secret_id, secret_key=secret_key, token=token or None, expires_at=expires_at
    )


def unavailable(why: str, *, advice: str | None = None) -> CloudError:
    return catalogue.error(catalogue.CREDENTIAL_UNAVAILABLE, why, advice=advice)


def _machine_role_error(why: str) -> CloudError:
    return unavailable(
        f"CVM role: {why}",
        advice="bind a CAM role to this CVM instance, or use another credential provider",
    )
