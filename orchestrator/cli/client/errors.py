"""Errors of requests to the daemon, and the environment variables that name it."""

from __future__ import annotations

from typing import Final

from orchestrator.domain.errors import OrchestratorError

URL_VARIABLE: Final = "ORCHESTRATOR_URL"
TOKEN_VARIABLE: Final = "ORCHESTRATOR_TOKEN"  # noqa: S105 - a name


class RequestFailed(OrchestratorError):
    """The daemon answered with an error; ``errors`` has a line for each mistake."""

    def __init__(self, status: int, title: str, detail: str, errors: tuple[str, ...] = ()) -> None:
        super().__init__(f"{title}: {detail}")
        self.status = status
        self.errors = errors


class Unreachable(OrchestratorError):
    """No daemon answers at the URL."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(
            f"no orchestrator answers at {url} ({why}); start one with `orchestrator serve`, "
            f"or name another with --url or {URL_VARIABLE}"
        )
