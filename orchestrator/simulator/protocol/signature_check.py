"""Check that a request was signed with the secret key of its secret id.

Written from the vendor's description (cloud.tencent.com/document/api/599/15903 and 15902) and from
what its clients really send. The clients disagree about the host: ``tccli`` sends and signs a whole
URL as Host, and the Node SDK signs the host without its port. So the literal header is tried first,
then the header without the port, each as sent and in lower case. The Node SDK also derives the
service from the host, so the service in the scope may be anything but another service of this
cloud.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from datetime import UTC, datetime
from itertools import product
from typing import TYPE_CHECKING, Final

from orchestrator.simulator.errors import ApiError
from orchestrator.simulator.protocol.request_parser import (
    TC3,
    ApiRequest,
    PlainClaim,
    Request,
    Tc3Claim,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

SKEW_MAX_S: Final = 300
PORT: Final = re.compile(r":\d+/?$")
UNSIGNED: Final = "UNSIGNED-PAYLOAD"
DIGESTS: Final[Mapping[str, str]] = {"HmacSHA1": "sha1", "HmacSHA256": "sha256"}


def verify(
    request: Request,
    api_request: ApiRequest,
    *,
    foreign_services: Collection[str],
    secret_keys: Mapping[str, str],
    now: float,
) -> None:
    """Raise ``ApiError`` with an ``AuthFailure`` code if the signature is not valid.

    ``foreign_services``: services to which the called action does not belong. ``secret_keys`` maps
    secret ids to keys. ``now`` is in seconds since the epoch.
    """
    claim = api_request.claim
    key = secret_keys.get(claim.secret_id)
    if key is None:
        raise ApiError("AuthFailure.SecretIdNotFound", "The SecretId is not found.")
    if abs(now - api_request.timestamp) > SKEW_MAX_S:
        raise ApiError("AuthFailure.SignatureExpire", "The signature has expired.")
    if isinstance(claim, Tc3Claim):
        valid = claim.service not in foreign_services and _is_valid_tc3(
            request, claim, api_request.timestamp, key
        )
    else:
        valid = _is_valid_plain(request, claim, key)
    if not valid:
        raise ApiError(
            "AuthFailure.SignatureFailure",
            "The provided credentials could not be validated. Please check your signature.",
        )


def _is_valid_tc3(request: Request, claim: Tc3Claim, timestamp: int, key: str) -> bool:
    date = datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d")
    if claim.date != date or not {"content-type", "host"} <= set(claim.signed_headers):
        return False
    scope = f"{date}/{claim.service}/tc3_request"
    signing_key = f"TC3{key}".encode()
    for part in scope.split("/"):
        signing_key = _hmac(signing_key, part)
    for headers in _canonical_headers(request, claim):
        digest = hashlib.sha256(_canonical_request(request, claim, headers).encode()).hexdigest()
        to_sign = f"{TC3}\n{timestamp}\n{scope}\n{digest}"
        if hmac.compare_digest(_hmac(signing_key, to_sign).hex(), claim.signature):
            return True
    return False


def _canonical_request(request: Request, claim: Tc3Claim, headers: str) -> str:
    query = request.query if request.method == "GET" else ""
    unsigned = request.header("X-TC-Content-SHA256") == UNSIGNED
    payload = UNSIGNED.encode() if unsigned else request.body
    return "\n".join(
        (
            request.method,
            "/",
            query,
            headers,
            ";".join(claim.signed_headers),
            hashlib.sha256(payload).hexdigest(),
        )
    )


def _canonical_headers(request: Request, claim: Tc3Claim) -> Iterator[str]:
    values = {name: (request.header(name) or "").strip() for name in claim.signed_headers}
    for host, lowered in product(_hosts(request), (False, True)):
        lines = {**values, "host": host}
        yield "".join(
            f"{name}:{lines[name].lower() if lowered else lines[name]}\n"
            for name in claim.signed_headers
        )


def _is_valid_plain(request: Request, claim: PlainClaim, key: str) -> bool:
    digest = DIGESTS.get(claim.method)
    if digest is None:
        return False
    text = "&".join(f"{name}={claim.signed[name]}" for name in sorted(claim.signed))
    for host in _hosts(request):
        to_sign = f"{request.method}{host}/?{text}".encode()
        signature = base64.b64encode(hmac.new(key.encode(), to_sign, digest).digest())
        if hmac.compare_digest(signature, claim.signature.encode()):
            return True
    return False


def _hosts(request: Request) -> tuple[str, str]:
    host = (request.header("Host") or "").strip()
    return host, PORT.sub("", host)


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
