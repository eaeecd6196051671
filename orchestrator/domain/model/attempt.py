"""Attempts: requests sent to terminate a job, an instance or a machine, and their results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from orchestrator.domain.errors import CloudError

if TYPE_CHECKING:
    from datetime import datetime

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
    def of(cls, answer: str | CloudError, at: datetime) -> AttemptResult:
        """Return the result of a request, which was answered with a RequestId or failed."""
        if not isinstance(answer, CloudError):
            return cls(at=at, outcome=ACCEPTED, request_id=answer)
        return cls(
            at=at,
            outcome=answer.kind,
            code=answer.code,
            message=answer.message,
            request_id=answer.request_id,
        )
