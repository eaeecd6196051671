"""Parser of HTTP requests into API requests: action, region, parameters and claimed signature.

Two signature families are supported: TC3-HMAC-SHA256 with common parameters in headers, over POST
``application/json`` or GET, and the older HmacSHA1/HmacSHA256 with everything in the form or the
query (cloud.tencent.com/document/api/599/15901 and the pages next to it).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from orchestrator.simulator.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TC3: Final = "TC3-HMAC-SHA256"
FORM: Final = "application/x-www-form-urlencoded"
COMMON_PARAMETERS: Final = frozenset(
    {
        "Action",
        "Language",
        "Nonce",
        "Region",
        "RequestClient",
        "SecretId",
        "Signature",
        "SignatureMethod",
        "Timestamp",
        "Token",
        "Version",
    }
)
DEPTH_MAX: Final = 8
INDEX: Final = re.compile(r"[0-9]{1,9}")
SECONDS: Final = re.compile(r"[0-9]{1,12}")
AUTHORIZATION: Final = re.compile(
    TC3 + r"\s+Credential=(?P<id>[^/,\s]+)/(?P<date>[^/,\s]+)/(?P<service>[^/,\s]+)/tc3_request"
    r"\s*,\s*SignedHeaders=(?P<headers>[^,\s]+)\s*,\s*Signature=(?P<signature>[0-9a-f]+)\s*"
)


@dataclass(frozen=True, slots=True)
class Request:
    """A raw HTTP request; ``target`` is the undecoded path and query, headers keep their case."""

    method: str
    target: str
    headers: Sequence[tuple[str, str]]
    body: bytes

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    def header(self, name: str) -> str | None:
        """Return the first header of this name, ignoring case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


@dataclass(frozen=True, slots=True)
class Tc3Claim:
    """The claims of a TC3 ``Authorization`` header."""

    secret_id: str
    date: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str


@dataclass(frozen=True, slots=True)
class PlainClaim:
    """The claims in the parameters of an HmacSHA1 or HmacSHA256 request."""

    secret_id: str
    method: str
    signed: Mapping[str, str]
    """Every parameter except ``Signature``, decoded."""
    signature: str


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A parsed request; ``textual``: its numbers and flags are text."""

    action: str
    version: str
    region: str
    timestamp: int
    params: Mapping[str, object]
    textual: bool
    claim: Tc3Claim | PlainClaim


def parse(request: Request) -> ApiRequest:
    """Parse a request; raise ``ApiError`` if the API would not accept its form."""
    if request.method not in {"GET", "POST"}:
        raise ApiError("UnsupportedProtocol", "Only GET and POST requests are supported.")
    if request.target.partition("?")[0] != "/":
        raise ApiError("InvalidRequest", "The path of a request is `/`.")
    if request.header("Authorization") is None:
        return _parse_plain(request)
    return _parse_tc3(request)


def unflatten(pairs: Sequence[tuple[str, str]]) -> dict[str, object]:
    """Nest ``JobIds.0=a`` and ``Filters.0.Values.0=b``; keys 0, 1, 2 ... become a list."""
    tree: dict[str, object] = {}
    for key, value in pairs:
        *parents, leaf = key.split(".")
        if len(parents) > DEPTH_MAX:
            raise ApiError("InvalidParameter", "A parameter is nested too deeply.")
        node = tree
        for part in parents:
            child = node.setdefault(part, {})
            if not isinstance(child, dict):
                raise ApiError("InvalidParameter", f"The parameter `{key}` contradicts another.")
            node = child
        node[leaf] = value
    return {name: _as_lists(value) for name, value in tree.items()}


def _as_lists(node: object) -> object:
    if not isinstance(node, dict):
        return node
    if all(isinstance(key, str) and INDEX.fullmatch(key) for key in node):
        return [_as_lists(node[key]) for key in sorted(node, key=int)]
    return {key: _as_lists(value) for key, value in node.items()}


def _parse_tc3(request: Request) -> ApiRequest:
    match = AUTHORIZATION.fullmatch(request.header("Authorization") or "")
    if match is None:
        raise ApiError("AuthFailure.InvalidAuthorization", "The Authorization header is malformed.")
    claim = Tc3Claim(
        secret_id=match["id"],
        date=match["date"],
        service=match["service"],
        signed_headers=tuple(match["headers"].lower().split(";")),
        signature=match["signature"],
    )
    textual = request.method == "GET"
    return ApiRequest(
        action=_required(request.header("X-TC-Action"), "Action"),
        version=_required(request.header("X-TC-Version"), "Version"),
        region=_required(request.header("X-TC-Region"), "Region"),
        timestamp=_timestamp(request.header("X-TC-Timestamp")),
        params=unflatten(_pairs(request.query)) if textual else _json_object(request),
        textual=textual,
        claim=claim,
    )


def _parse_plain(request: Request) -> ApiRequest:
    given = dict(_pairs(_plain_text(request)))
    signed = {name: value for name, value in given.items() if name != "Signature"}
    claim = PlainClaim(
        secret_id=_required(given.get("SecretId"), "SecretId"),
        method=given.get("SignatureMethod", "HmacSHA1"),
        signed=signed,
        signature=_required(given.get("Signature"), "Signature"),
    )
    own = [(name, value) for name, value in given.items() if name not in COMMON_PARAMETERS]
    return ApiRequest(
        action=_required(given.get("Action"), "Action"),
        version=_required(given.get("Version"), "Version"),
        region=_required(given.get("Region"), "Region"),
        timestamp=_timestamp(given.get("Timestamp")),
        params=unflatten(own),
        textual=True,
        claim=claim,
    )


def _plain_text(request: Request) -> str:
    if request.method == "GET":
        return request.query
    if (request.header("Content-Type") or "").partition(";")[0].strip().lower() != FORM:
        raise ApiError("AuthFailure.InvalidAuthorization", "The Authorization header is missing.")
    return _text(request.body)


def _pairs(text: str) -> list[tuple[str, str]]:
    return parse_qsl(text, keep_blank_values=True)


def _json_object(request: Request) -> Mapping[str, object]:
    if (request.header("Content-Type") or "").partition(";")[0].strip() != "application/json":
        raise ApiError("InvalidRequest", "The content type of a POST is `application/json`.")
    try:
        document: object = json.loads(_text(request.body))
    except (ValueError, RecursionError):
        raise ApiError("InvalidRequest", "The body is not valid JSON.") from None
    if not isinstance(document, dict):
        raise ApiError("InvalidRequest", "The body is not a JSON object.")
    return document


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise ApiError("InvalidRequest", "The body is not UTF-8.") from None


def _timestamp(text: str | None) -> int:
    given = _required(text, "Timestamp")
    if not SECONDS.fullmatch(given):
        raise ApiError("InvalidParameter", "The parameter `Timestamp` is not a number.")
    return int(given)


def _required(value: str | None, name: str) -> str:
    if not value:
        raise ApiError("MissingParameter", f"The request is missing a required parameter `{name}`.")
    return value
