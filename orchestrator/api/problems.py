"""Errors as application/problem+json (RFC 9457): a status, a type, and what to do."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from aiohttp import web

from orchestrator.domain.errors import (
    Conflict,
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
"""Characters of an error of aiohttp that an answer repeats; what was sent may stand in them."""

log = logging.getLogger(__name__)


class Problem(OrchestratorError):
    """An answer that is an error; ``slug`` ends its type, ``more`` adds members."""

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
    InvalidRequest: (422, "invalid-request", "The request cannot be served", "{}"),
    Conflict: (422, "idempotency-key-reused", "The key was used before", "{}"),
    NotFound: (404, "not-found", "There is nothing here", "{}"),
    NotPossible: (409, "not-possible", "It is not possible as things are", "{}"),
    NotDriving: (503, "not-driving", "Jobs cannot be driven now", "{}; the log tells more"),
    StoreUnavailable: (
        503,
        "store-unavailable",
        "The database cannot be used now",
        "{}; try again, a POST under the same Idempotency-Key",
    ),
}
"""Status, slug, title, and the detail that the error's own words stand in."""


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
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return Problem(
            405,
            "method-not-allowed",
            "This method is not possible here",
            f"use {allowed}",
            headers={"Allow": allowed},
        )
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return Problem(
            413, "body-too-large", "The body is too large", "send at most 1 MiB; split the jobs"
        )
    if error.status == web.HTTPNotFound.status_code:
        detail = "no such path; the README lists every call"
        return Problem(404, NO_SUCH_PATH, "There is nothing here", detail)
    return Problem(error.status, "http", error.reason, str(error.text)[:ECHO_MAX])


@web.middleware
async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn everything that is raised into a problem."""
    try:
        return await handler(request)
    except OrchestratorError as error:
        problem = _of_domain(error)
        if problem is not None:
            return problem.response()
        log.exception("%s %s failed", request.method, request.path)
    except web.HTTPException as error:
        if error.status < web.HTTPBadRequest.status_code:
            raise
        return of_http(error).response()
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
    return Problem(
        500, "internal", "This is a fault of the orchestrator", "its log has the details"
    ).response()
