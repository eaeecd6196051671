"""Operations: requests to terminate jobs, and their outcomes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from orchestrator.domain.model.lifecycle import PROVEN_STATES, State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.domain.model.termination import TerminationRequest

KEY_LIFETIME: Final = timedelta(days=7)
"""Time for which a request with the idempotency key of an operation returns that operation."""


class Outcome(StrEnum):
    """Outcomes of a finished operation."""

    VERIFIED = "verified"
    """Every job is proven stopped."""
    PARTIAL = "partial"
    """Some jobs are proven stopped, and some are not."""
    FAILED = "failed"
    """No job is proven stopped."""
    WITHDRAWN = "withdrawn"
    """Every job was withdrawn."""


def outcome(jobs_by_state: Mapping[State, int]) -> Outcome:
    """Return the outcome of an operation whose jobs are all in a final state."""
    total = sum(jobs_by_state.values())
    stopped = sum(jobs_by_state.get(state, 0) for state in PROVEN_STATES)
    if stopped == total:
        return Outcome.VERIFIED
    if jobs_by_state.get(State.WITHDRAWN, 0) == total:
        return Outcome.WITHDRAWN
    return Outcome.PARTIAL if stopped else Outcome.FAILED


@dataclass(frozen=True, slots=True, kw_only=True)
class NewOperation:
    """A validated request, ready to be stored.

    ``request_hash`` is the SHA-256 of the request's meaning: the same idempotency key with another
    hash is another request.
    """

    id: str
    account: str
    region: str
    partition: str
    job_ids: tuple[str, ...]
    duplicates_merged: int
    reason: str
    requested_by: str
    idempotency_key: str | None
    request_hash: str
    request: TerminationRequest
    reterminate_for_s: float | None = None
    """Time after a job stopped during which a revival is terminated again; None: never."""
    reterminates_for: str | None = None
    """The original operation, if this one terminates its revived job again."""
    reterminate_round: int = 0
    """Number of times in a row that the job was terminated again, including this one."""
