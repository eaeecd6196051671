"""Manual end of a termination whose account is not configured, so that nothing follows it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.domain.decisions.decision import apply_event
from orchestrator.domain.model.error_detail import ClientCode, ErrorDetail
from orchestrator.domain.model.lifecycle import Event

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.decisions.decision import Decision
    from orchestrator.domain.model.termination import Termination


def end_manually(
    termination: Termination, now: datetime, *, by: str, reason: str, untouched: bool
) -> Decision:
    """End the termination: withdrawn if ``untouched``, else unverified.

    ``untouched``: TerminateJob was never sent and no other operation wants the job. Otherwise the
    job may be live and is not read any more, so it cannot be verified.
    """
    account = f"account {termination.account!r} and its region {termination.region!r}"
    why = f"stopped by {by} ({reason}): {account} are not configured"
    if untouched:
        return apply_event(termination, Event.WITHDRAWN, now, why=why)
    problem = ErrorDetail(
        code=ClientCode.ACCOUNT_NOT_CONFIGURED,
        message=f"{account} are not configured, so the job could not be followed; it was "
        f"ended by {by}",
        advice="check the job in the console and terminate there what is live, or configure the "
        "account and request the termination again",
    )
    return apply_event(replace(termination, problem=problem), Event.GAVE_UP, now, why=why)
