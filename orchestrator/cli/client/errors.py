"""Errors of requests to the daemon, and the environment variables for its URL and token."""

from __future__ import annotations

from typing import Final

from orchestrator.domain.errors import OrchestratorError

URL_VARIABLE: Final = "ORCHESTRATOR_URL"
TOKEN_VARIABLE: Final = "ORCHESTRATOR_TOKEN"  # noqa: S105 - the name of a variable


class RequestFailed(OrchestratorError):
    """Error response of the daemon; ``errors`` has one line for each mistake."""

    def __init__(self, status: int, title: str, detail: str, errors: tuple[str, ...] = ()) -> None:
        super().__init__(f"{title}: {detail}")
        self.status = status
        self.errors = errors


class Unreachable(OrchestratorError):
    """No daemon answers at the URL."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"no orchestrator answers at {url} ({reason}); start one with `orchestrator serve`, "
            f"or give the URL of another with --url or {URL_VARIABLE}"
        )
