"""Indented JSON for people: ``?pretty``, without a value or ``true``, on any GET."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

PARAMETER: Final = "pretty"
VALUES: Final = ("", "true")
METHODS: Final = ("GET", "HEAD")
CONTENT_TYPES: Final = ("application/json", "application/problem+json")
INDENT: Final = 2


@web.middleware
async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Indent the JSON of a response, problems included.

    A response with a Repr-Digest, such as a certificate, stays as it is byte for byte.
    """
    response = await handler(request)
    if (
        request.method in METHODS
        and request.query.get(PARAMETER) in VALUES
        and isinstance(response, web.Response)
        and response.content_type in CONTENT_TYPES
        and "Repr-Digest" not in response.headers
        and response.text
    ):
        response.text = json.dumps(json.loads(response.text), indent=INDENT) + "\n"
    return response
