"""Who calls: bearer tokens, of which only the SHA-256 is configured."""

from __future__ import annotations

import hmac
import logging
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from aiohttp import web

from orchestrator.api.problems import Problem
from orchestrator.domain.tokens import digest, wrong_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aiohttp.typedefs import Handler, Middleware

CALLER: Final = web.RequestKey("caller", str)
LOCAL_CALLER: Final = "local"
"""Who calls where no tokens are configured: anyone who reaches the loopback address."""
LOCAL_NAME: Final = "localhost"
OPEN_PATHS: Final = ("/livez", "/readyz", "/metrics")


log = logging.getLogger(__name__)


def middleware(tokens: Mapping[str, str]) -> Middleware:
    """Middleware that names the caller; ``tokens`` are SHA-256 hex digests by caller."""
    logged: set[str] = set()

    def note_wrong_digest(token: bytes) -> None:
        for name in tokens.keys() - logged:
            if wrong := wrong_digest(token, tokens[name]):
                logged.add(name)
                log.warning("[auth]: a caller's token is not that of %r: %s", name, wrong)

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in OPEN_PATHS:
            request[CALLER] = (
                _caller(request, tokens, note_wrong_digest) if tokens else _local_caller(request)
            )
        return await handler(request)

    return authenticate


def _caller(
    request: web.Request, tokens: Mapping[str, str], not_known: Callable[[bytes], None]
) -> str:
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    # As the bytes were: the parser keeps those that are no UTF-8 as surrogates.
    token = text.strip().encode(errors="surrogateescape")
    of_token = digest(token)
    callers = [name for name, known in tokens.items() if hmac.compare_digest(known, of_token)]
    if scheme.lower() != "bearer" or not callers:
        not_known(token)
        raise Problem(
            401,
            "unauthorized",
            "Who calls is not known",
            "send 'Authorization: Bearer TOKEN' with a token that [auth] lists",
            headers={"WWW-Authenticate": 'Bearer realm="orchestrator"'},
        )
    return callers[0]


def _local_caller(request: web.Request) -> str:
    """Refuse what a browser sends for a page whose name was rebound to the loopback address."""
    host = request.headers.get("Host", LOCAL_NAME)
    if not _is_local(host):
        raise Problem(
            421,
            "misdirected",
            "This host is not served",
            "call the loopback address by its number or as localhost, or configure [[auth.tokens]]",
        )
    return LOCAL_CALLER


def _is_local(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == LOCAL_NAME or ip_address(name).is_loopback
    except ValueError:
        return False
