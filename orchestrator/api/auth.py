"""Who calls: bearer tokens, of which only the SHA-256 is configured."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Final

from aiohttp import web

from orchestrator.api.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp.typedefs import Handler, Middleware

CALLER: Final = web.RequestKey("caller", str)
LOCAL_CALLER: Final = "local"
"""Who calls where no tokens are configured: anyone who reaches the loopback address."""
OPEN_PATHS: Final = ("/livez", "/readyz")


def middleware(tokens: Mapping[str, str]) -> Middleware:
    """Middleware that names the caller; ``tokens`` are SHA-256 hex digests by caller."""

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in OPEN_PATHS:
            request[CALLER] = _caller(request, tokens) if tokens else LOCAL_CALLER
        return await handler(request)

    return authenticate


def _caller(request: web.Request, tokens: Mapping[str, str]) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    digest = hashlib.sha256(token.strip().encode()).hexdigest()
    callers = [name for name, known in tokens.items() if hmac.compare_digest(known, digest)]
    if scheme.lower() != "bearer" or not callers:
        raise Problem(
            401,
            "unauthorized",
            "Who calls is not known",
            "send 'Authorization: Bearer TOKEN' with a token that [auth] lists",
            headers={"WWW-Authenticate": 'Bearer realm="orchestrator"'},
        )
    return callers[0]
