"""Replies, and their delivery to the client: complete, truncated, late or not at all."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from orchestrator.simulator.errors import ApiError
from orchestrator.simulator.traffic.fault_injection import Fault, Rule
from orchestrator.simulator.traffic.quota import limit_exceeded

if TYPE_CHECKING:
    from collections.abc import Mapping

JSON: Final = "application/json"
"""Without a charset: the vendor's SDK ignores errors under any other content type."""
GATEWAY_PAGE: Final = b"<html><body><h1>500 Internal Server Error</h1></body></html>"


class Delivery(Enum):
    """The delivery of a reply."""

    WHOLE = auto()
    TRUNCATED = auto()
    """Content-Length is that of the whole body, but the connection is closed after half of it."""
    CUT = auto()
    """The connection is closed after ``delay_s`` without a response."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response and its delivery."""

    status: int
    content_type: str
    body: bytes
    delivery: Delivery = Delivery.WHOLE
    delay_s: float = 0.0


def success(document: Mapping[str, object], request_id: str) -> Reply:
    return _envelope({**document, "RequestId": request_id})


def failure(error: ApiError, request_id: str) -> Reply:
    """Return an error reply; its status is 200 (cloud.tencent.com/document/product/664/51412)."""
    return _envelope(
        {"Error": {"Code": error.code, "Message": error.message}, "RequestId": request_id}
    )


NOT_FOUND_CODES: Final[Mapping[str, str]] = {
    "DescribeTask": "ResourceNotFound.Task",
    "TerminateTaskInstance": "ResourceNotFound.TaskInstance",
}


def reply_without_effect(rule: Rule, action: str, *, limit_per_s: int, request_id: str) -> Reply:
    """Return the reply to a call that had no effect because of a fault."""
    if rule.fault is Fault.NOT_FOUND and action == "DescribeJobs":
        return success({"JobSet": [], "TotalCount": 0}, request_id)
    error = _error(rule.fault, action, limit_per_s)
    if error is not None:
        return failure(error, request_id)
    if rule.fault is Fault.HTTP_500:
        return _gateway_page()
    delay_s = rule.hang_s if rule.fault is Fault.HANG else 0.0
    return Reply(0, "", b"", Delivery.CUT, delay_s)


def _error(fault: Fault, action: str, limit_per_s: int) -> ApiError | None:
    """Return the API error of a fault; None if the fault has no API error."""
    match fault:
        case Fault.NOT_FOUND:
            code = NOT_FOUND_CODES.get(action, "ResourceNotFound.Job")
            return ApiError(code, "The resource is not found.")
        case Fault.FORBIDDEN:
            return ApiError("UnauthorizedOperation", "You are not authorized.")
        case Fault.THROTTLE:
            return limit_exceeded(limit_per_s + 1, limit_per_s)
        case Fault.INTERNAL_ERROR:
            return ApiError("InternalError", "An internal error occurred.")
        case _:
            return None


def corrupted_reply(reply: Reply, fault: Fault) -> Reply:
    """Return the reply to a call that took effect, as changed by a fault."""
    if fault is Fault.TRUNCATE:
        return replace(reply, delivery=Delivery.TRUNCATED)
    if fault is Fault.LOST_ANSWER:
        return replace(reply, delivery=Delivery.CUT)
    if fault is Fault.CHARSET:
        return replace(reply, content_type=f"{JSON}; charset=utf-8")
    return _gateway_page()


def _envelope(response: Mapping[str, object]) -> Reply:
    return Reply(200, JSON, json.dumps({"Response": response}).encode())


def _gateway_page() -> Reply:
    return Reply(500, "text/html", GATEWAY_PAGE)
