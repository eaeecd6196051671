"""Keys of the CAM role that is bound to the CVM instance of this process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import aiohttp

from orchestrator.cloud.keys import build_credential, unavailable, unix_time
from orchestrator.cloud.threads import Resolver
from orchestrator.cloud.transport import read_at_most, what_failed

if TYPE_CHECKING:
    from orchestrator.cloud.signing import Credential
    from orchestrator.domain.errors import CloudError

METADATA_ENDPOINT: Final = "http://metadata.tencentyun.com/latest/meta-data/"
_ANSWER_MAX_BYTES: Final = 64 * 1024


async def from_machine_role(*, role: str | None, endpoint: str) -> Credential:
    """Read the keys of ``role`` (None: the role that is bound) from the metadata service.

    Vendor page: cloud.tencent.com/document/product/598/85616. The request never uses a proxy, even
    if the environment names one: a proxy would return the keys of its own machine. Raises
    CloudError.
    """
    folder = f"{endpoint.rstrip('/')}/cam/security-credentials/"
    connector = aiohttp.TCPConnector(resolver=Resolver())
    try:
        async with aiohttp.ClientSession(connector=connector, raise_for_status=True) as session:
            name = role or (await _read(session, folder)).decode().strip()
            document: object = json.loads(await _read(session, folder + quote(name, safe="")))
    except (aiohttp.ClientError, OSError, ValueError, RecursionError) as error:
        raise _failed(what_failed(error)) from error
    if not isinstance(document, dict) or document.get("Code") != "Success":
        raise _failed("the metadata service returned no keys")
    expires_at = unix_time(document.get("ExpiredTime"))
    if expires_at is None:
        raise _failed("the keys have no ExpiredTime")
    keys = (document.get("TmpSecretId"), document.get("TmpSecretKey"), document.get("Token"))
    return build_credential(keys, expires_at=expires_at, source="CVM role")


async def _read(session: aiohttp.ClientSession, url: str) -> bytes:
    async with session.get(url) as answer:
        return await read_at_most(answer, _ANSWER_MAX_BYTES)


def _failed(reason: str) -> CloudError:
    return unavailable(
        f"CVM role: {reason}",
        advice="bind a CAM role to this CVM instance, or use another credential provider",
    )
