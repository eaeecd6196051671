"""Lists in pages: ``limit`` and an opaque ``page_token``."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from orchestrator.api.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is asked for: ``limit`` rows after position ``after``."""

    kind: str
    after: int
    limit: int

    @classmethod
    def of(cls, request: web.Request, kind: str) -> Page:
        """Read ``limit`` and ``page_token``; raises Problem."""
        return cls(kind, _after(request, kind), _limit(request))

    def next_token(self, positions: Sequence[int]) -> str | None:
        """The token of the next page, given this page's positions; None where it is the last."""
        if len(positions) < self.limit:
            return None
        return base64.urlsafe_b64encode(f"{self.kind}:{positions[-1]}".encode()).decode()


def _limit(request: web.Request) -> int:
    given = request.query.get("limit", str(LIMIT_DEFAULT))
    if not (given.isascii() and given.isdigit() and 1 <= int(given[:6]) <= LIMIT_MAX):
        raise Problem(
            400, "bad-limit", "limit cannot be used", f"limit must be a number, 1 to {LIMIT_MAX}"
        )
    return int(given)


def _after(request: web.Request, kind: str) -> int:
    token = request.query.get("page_token")
    if token is None:
        return 0
    try:
        token_kind, _, after = base64.urlsafe_b64decode(token).decode("ascii").partition(":")
        if token_kind == kind and after.isdigit() and len(after) <= len(str(2**63)):
            return int(after)
    except (binascii.Error, ValueError):
        pass
    raise Problem(
        400,
        "bad-page-token",
        "page_token cannot be used",
        "use next_page_token of an earlier answer of this list, or none for the first page",
    )
