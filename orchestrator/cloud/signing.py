"""TC3-HMAC-SHA256 signatures of POST requests with a JSON body; the time is an argument.

Vendor page: cloud.tencent.com/document/api/1130/46710. The signed headers are ``content-type`` and
``host``, as in the vendor's Python SDK.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

ALGORITHM: Final = "TC3-HMAC-SHA256"
CONTENT_TYPE: Final = "application/json"
LANGUAGE: Final = "en-US"
SIGNED_HEADERS: Final = "content-type;host"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Credential:
    """A key pair; temporary keys also have a token and an expiry. Its repr shows no secret."""

    secret_id: str
    secret_key: str
    token: str | None = None
    expires_at: datetime | None = None

    def __repr__(self) -> str:
        return "Credential(***)"


def authorization(
    credential: Credential, *, service: str, host: str, body: bytes, timestamp_s: int
) -> str:
    """Return the Authorization header of a POST of ``body`` to ``/`` on ``host`` (port included).

    ``service`` is the vendor's short name of the product. ``timestamp_s`` is Unix time; the date in
    the scope is derived from it, so that both are on the same side of midnight.
    """
    date = datetime.fromtimestamp(timestamp_s, UTC).date().isoformat()
    scope = f"{date}/{service}/tc3_request"
    request_lines = (
        "POST",
        "/",
        "",
        f"content-type:{CONTENT_TYPE}",
        f"host:{host}",
        "",
        SIGNED_HEADERS,
        hashlib.sha256(body).hexdigest(),
    )
    request_digest = hashlib.sha256("\n".join(request_lines).encode()).hexdigest()
    text = "\n".join((ALGORITHM, str(timestamp_s), scope, request_digest))
    key = f"TC3{credential.secret_key}".encode()
    for step in (date, service, "tc3_request"):
        key = hmac.digest(key, step.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    return (
        f"{ALGORITHM} Credential={credential.secret_id}/{scope}, "
        f"SignedHeaders={SIGNED_HEADERS}, Signature={signature}"
    )


def signed_headers(
    credential: Credential,
    *,
    service: str,
    host: str,
    action: str,
    version: str,
    region: str,
    body: bytes,
    at: datetime,
) -> dict[str, str]:
    """Return all headers of a request to ``service`` that is sent at the aware time ``at``."""
    timestamp_s = int(at.timestamp())
    headers = _headers(host=host, action=action, version=version, region=region, at=at)
    headers["Authorization"] = authorization(
        credential, service=service, host=host, body=body, timestamp_s=timestamp_s
    )
    if credential.token is not None:
        headers["X-TC-Token"] = credential.token
    return headers


def unsigned_headers(
    *, host: str, action: str, version: str, region: str, at: datetime
) -> dict[str, str]:
    """Return all headers of a request whose body, not a signature, proves the caller's identity."""
    headers = _headers(host=host, action=action, version=version, region=region, at=at)
    headers["Authorization"] = "SKIP"
    return headers


def _headers(*, host: str, action: str, version: str, region: str, at: datetime) -> dict[str, str]:
    return {
        "Content-Type": CONTENT_TYPE,
        "Host": host,
        "X-TC-Action": action,
        "X-TC-Version": version,
        "X-TC-Region": region,
        "X-TC-Timestamp": str(int(at.timestamp())),
        "X-TC-Language": LANGUAGE,
    }
