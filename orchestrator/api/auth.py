"""Authentication: bearer tokens, of which only the SHA-256 is configured."""

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
"""Name of every caller if no tokens are configured: only the loopback address is served then."""
LOCAL_NAME: Final = "localhost"
OPEN_PATHS: Final = ("/livez", "/readyz", "/metrics")


log = logging.getLogger(__name__)


def middleware(tokens: Mapping[str, str]) -> Middleware:
    """Return middleware that identifies the caller.

    ``tokens``: SHA-256 hex digests of the tokens, by caller name.
    """
    logged: set[str] = set()

    def log_wrong_digest(token: bytes) -> None:
        for name in tokens.keys() - logged:
            if wrong := wrong_digest(token, tokens[name]):
                logged.add(name)
                log.warning(
                    "a request was refused: the sha256 of caller %r in [auth] is wrong: %s",
                    name,
                    wrong,
                )

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in OPEN_PATHS:
            request[CALLER] = (
                _caller(request, tokens, log_wrong_digest) if tokens else _local_caller(request)
            )
        return await handler(request)

    return authenticate


def _caller(
    request: web.Request, tokens: Mapping[str, str], on_unknown: Callable[[bytes], None]
) -> str:
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    # Restore the bytes as sent: aiohttp decodes bytes that are not UTF-8 to surrogates.
    token = text.strip().encode(errors="surrogateescape")
    token_digest = digest(token)
    callers = [name for name, known in tokens.items() if hmac.compare_digest(known, token_digest)]
    if scheme.lower() != "bearer" or not callers:
        on_unknown(token)
        raise Problem(
            401,
            "unauthorized",
            "Authentication required",
            "send 'Authorization: Bearer TOKEN' with a token that [auth] lists",
            headers={"WWW-Authenticate": 'Bearer realm="orchestrator"'},
        )
    return callers[0]


def _local_caller(request: web.Request) -> str:
    """Return the local caller; raises Problem for another Host, against DNS rebinding.

    A browser sends such a Host for a page whose name was rebound to the loopback address.
    """
    host = request.headers.get("Host", LOCAL_NAME)
    if not _is_local(host):
        raise Problem(
            421,
            "misdirected",
            "Misdirected request",
            "use the loopback address or localhost in the URL, or configure [[auth.tokens]]",
        )
    return LOCAL_CALLER


def _is_local(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == LOCAL_NAME or ip_address(name).is_loopback
    except ValueError:
        return False
