"""Attempts: requests sent to terminate a job, an instance or a machine, and their results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.errors import CloudError

TERMINATE_JOB: Final = "TerminateJob"
TERMINATE_TASK_INSTANCE: Final = "TerminateTaskInstance"
TERMINATE_INSTANCES: Final = "TerminateInstances"
PER_INSTANCE_ACTIONS: Final = (TERMINATE_TASK_INSTANCE, TERMINATE_INSTANCES)
"""Actions on a single task instance or its machine."""
ACCEPTED: Final = "accepted"
INTERRUPTED: Final = "interrupted"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAttempt:
    """A request that is about to be sent; ``target`` is the id of what it acts on."""

    action: str
    target: str
    sent_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptResult:
    """Result of a request: ``accepted``, ``interrupted``, or the kind of its error."""

    at: datetime
    outcome: str
    code: str | None = None
    message: str | None = None
    request_id: str | None = None

    @classmethod
    def from_error(cls, error: CloudError, at: datetime) -> AttemptResult:
        """Return the result of a request that failed with ``error``."""
        return cls(
            at=at,
            outcome=error.kind,
            code=error.code,
            message=error.message,
            request_id=error.request_id,
        )
