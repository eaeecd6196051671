"""Explanations as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from orchestrator.domain.model.error_detail import ErrorDetail
    from orchestrator.domain.model.termination import Termination
    from orchestrator.domain.pacing.quota import Rate

    Explainer = Callable[[Termination, "ExplanationContext"], "Explanation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What a termination waits for, and what comes next.

    ``next_action``: what happens next; in a final state, what a person can do, or None.
    ``next_action_at``: None if no time is known.
    """

    waiting_for: str
    next_action: str | None = None
    next_action_at: datetime | None = None


UNEXPLAINED: Final = Explanation(
    waiting_for="the next step of its `state`; the explanation failed, see the daemon's log"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplanationContext:
    """What an explanation needs besides the termination.

    ``jobs_ahead``: number of jobs for which TerminateJob is sent before this one.
    ``rate``: TerminateJob rate of the partition; None if this replica is not configured for it.
    ``trouble``: why the API calls of the partition fail now.
    ``capture_wait_s``: how long TerminateJob waits for the capture of the job's machines.
    ``configured``: whether any replica is configured for the partition.
    ``other_replica``: the replica that holds the partition, or held it last, if it is not this one.
    """

    now: datetime
    jobs_ahead: int
    rate: Rate | None
    trouble: ErrorDetail | None
    capture_wait_s: float
    configured: bool = True
    other_replica: str | None = None
