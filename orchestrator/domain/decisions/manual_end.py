"""What becomes of a termination that nobody can drive, where a person ends it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from orchestrator.domain.decisions.transitions import apply_event
from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.domain.model.lifecycle import Event

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.decisions.transitions import Decision
    from orchestrator.domain.model.termination import Termination

NOT_CONFIGURED: Final = "Client.AccountNotConfigured"
"""The code of a termination that was ended by hand, since its account is not configured."""


def stopped(
    termination: Termination, now: datetime, *, by: str, reason: str, untouched: bool
) -> Decision:
    """End it: ``untouched`` where no call was ever sent for it and no other operation wants it.

    What was called may be live: nobody looks at it any more, so that is not verified.
    """
    account = f"account {termination.account!r} and its region {termination.region!r}"
    why = f"stopped by {by} ({reason}): {account} are configured nowhere"
    if untouched:
        return apply_event(termination, Event.WITHDRAWN, now, why=why)
    problem = ErrorDetail(
        code=NOT_CONFIGURED,
        message=f"{account} are configured nowhere, so the job could not be followed; it was "
        f"ended by {by}",
        advice="look at the job in the console and end there what is live, or configure the "
        "account and submit the job again",
    )
    return apply_event(replace(termination, problem=problem), Event.GAVE_UP, now, why=why)
