"""Problem details (RFC 9457): every error as ``application/problem+json`` that says what to do."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from aiohttp import web

from orchestrator.domain.errors import (
    IdempotencyKeyReused,
    InvalidRequest,
    NotDriving,
    NotFound,
    NotPossible,
    OrchestratorError,
    StoreUnavailable,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp.typedefs import Handler

CONTENT_TYPE: Final = "application/problem+json"
TYPE: Final = "urn:orchestrator:problem:{}"
NO_SUCH_PATH: Final = "no-such-path"
RETRY_AFTER_S: Final = 5
ECHO_MAX: Final = 200
"""Characters of an aiohttp error that a problem repeats: the error may quote the request."""

log = logging.getLogger(__name__)


class Problem(OrchestratorError):
    """An error response; ``slug`` is the end of its type URN, ``more`` has additional members."""

    def __init__(
        self,
        status: int,
        slug: str,
        title: str,
        detail: str,
        *,
        more: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.slug = slug
        self.title = title
        self.detail = detail
        self.more = more or {}
        self.headers = headers or {}

    def response(self) -> web.Response:
        """Return the problem as an HTTP response."""
        return web.json_response(
            {
                "type": TYPE.format(self.slug),
                "title": self.title,
                "status": self.status,
                "detail": self.detail,
                **self.more,
            },
            status=self.status,
            content_type=CONTENT_TYPE,
            headers=self.headers,
        )


RETRY: Final = {"Retry-After": str(RETRY_AFTER_S)}
_OF_DOMAIN: Final[Mapping[type[OrchestratorError], tuple[int, str, str, str]]] = {
    InvalidRequest: (422, "invalid-request", "Invalid request", "{}"),
    IdempotencyKeyReused: (422, "idempotency-key-reused", "Idempotency-Key already used", "{}"),
    NotFound: (404, "not-found", "Not found", "{}"),
    NotPossible: (409, "not-possible", "Conflict with the current state", "{}"),
    NotDriving: (503, "not-driving", "Jobs are not being processed", "{}; see the daemon's log"),
    StoreUnavailable: (
        503,
        "store-unavailable",
        "Database unavailable",
        "{}; try again, and repeat a POST with the same Idempotency-Key",
    ),
}
"""Status, slug, title, and the template of the detail, which holds the error's message."""


def _of_domain(error: OrchestratorError) -> Problem | None:
    if isinstance(error, Problem):
        return error
    known = next((problem for kind, problem in _OF_DOMAIN.items() if isinstance(error, kind)), None)
    if known is None:
        return None
    status, slug, title, detail = known
    headers = RETRY if status == web.HTTPServiceUnavailable.status_code else {}
    return Problem(status, slug, title, detail.format(error), headers=headers)


def of_http(error: web.HTTPException) -> Problem:
    """Return an error of aiohttp as a problem."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return Problem(
            405,
            "method-not-allowed",
            "Method not allowed",
            f"use {allowed}",
            headers={"Allow": allowed},
        )
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return Problem(
            413, "body-too-large", "Content too large", "send at most 1 MiB; split the jobs"
        )
    if error.status == web.HTTPNotFound.status_code:
        detail = "no such path; config/README.md lists every path"
        return Problem(404, NO_SUCH_PATH, "Not found", detail)
    return Problem(error.status, "http", error.reason, str(error.text)[:ECHO_MAX])


@web.middleware
async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every exception into a problem."""
    try:
        return await handler(request)
    except OrchestratorError as error:
        problem = _of_domain(error)
        if problem is not None:
            return problem.response()
        log.exception(
            "request %s %s had an internal error and is answered 500; report this traceback",
            request.method,
            request.path,
        )
    except web.HTTPException as error:
        if error.status < web.HTTPBadRequest.status_code:
            raise
        return of_http(error).response()
    except Exception:
        log.exception(
            "request %s %s had an internal error and is answered 500; report this traceback",
            request.method,
            request.path,
        )
    return Problem(500, "internal", "Internal server error", "see the daemon's log").response()
