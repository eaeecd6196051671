"""Pagination: ``limit`` and an opaque ``page_token``."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from orchestrator.api.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1000
POSITION_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Page:
    """The requested part of the list at ``path``: ``limit`` rows after position ``after``."""

    path: str
    after: int
    limit: int

    @classmethod
    def of(cls, request: web.Request) -> Page:
        """Read ``limit`` and ``page_token``; raises Problem."""
        return cls(request.path, _after(request), _limit(request))

    def next_token(self, positions: Sequence[int]) -> str | None:
        """Return the token of the next page, given this page's positions; None on the last page."""
        if len(positions) < self.limit:
            return None
        return base64.urlsafe_b64encode(f"{self.path} {positions[-1]}".encode()).decode()


def _limit(request: web.Request) -> int:
    limit = parse_int(request.query.get("limit", str(LIMIT_DEFAULT)))
    if limit is None or not 1 <= limit <= LIMIT_MAX:
        raise Problem(400, "bad-limit", "Invalid limit", f"use a number from 1 to {LIMIT_MAX}")
    return limit


def _after(request: web.Request) -> int:
    token = request.query.get("page_token")
    if token is None:
        return 0
    try:
        decoded = base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except ValueError:
        decoded = ""
    path, _, after = decoded.partition(" ")
    position = parse_int(after)
    if path != request.path or position is None or not 1 <= position <= POSITION_MAX:
        raise Problem(
            400,
            "bad-page-token",
            "Invalid page_token",
            "use next_page_token of an earlier page of this list, or none for the first page",
        )
    return position


def parse_int(text: str) -> int | None:
    """Return a number of at most 19 ASCII digits; None for any other text."""
    plain = text.isascii() and text.isdecimal() and len(text) <= len(str(POSITION_MAX))
    return int(text) if plain else None
