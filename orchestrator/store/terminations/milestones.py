"""Log lines about operations, each written after the commit of what it reports.

A line stands alone: it has the ids, and text that people typed is quoted and escaped.
"""

from __future__ import annotations

import logging
from functools import partial
from logging import ERROR, INFO, WARNING
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, select, update

from orchestrator.domain.model.attempt import TERMINATE_INSTANCES, TERMINATE_TASK_INSTANCE
from orchestrator.domain.model.lifecycle import Event, State
from orchestrator.domain.model.operation import Outcome
from orchestrator.domain.model.termination import EscalationLevel
from orchestrator.store.schema import operation_terminations, operations

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from sqlalchemy import Row

    from orchestrator.domain.decisions.decision import Decision
    from orchestrator.domain.model.operation import NewOperation
    from orchestrator.domain.model.termination import Revival, Termination
    from orchestrator.store.database.transaction import Transaction

log = logging.getLogger(__name__)

# Store the time of the first call for the operations of a termination that had none before.
_SET_FIRST_CALLED_AT = (
    update(operations)
    .where(
        operations.c.id.in_(
            select(operation_terminations.c.operation_id).where(
                operation_terminations.c.termination_id == bindparam("termination_id")
            )
        ),
        operations.c.first_called_at.is_(None),
    )
    .values(first_called_at=bindparam("called_at"))
    .returning(operations.c.id)
)


def accepted(transaction: Transaction, new: NewOperation) -> None:
    _log(
        transaction,
        "operation %s accepted: %s of account %r in %s, requested by %r: %r",
        new.id,
        _jobs(len(new.job_ids)),
        new.account,
        new.region,
        new.requested_by,
        new.reason,
    )


async def called(
    transaction: Transaction, termination_id: str, job_id: str, action: str, at: datetime
) -> None:
    """Store when a job was first called, and log the first termination request of an operation."""
    first = await transaction.execute(
        _SET_FIRST_CALLED_AT, {"termination_id": termination_id, "called_at": at}
    )
    for operation_id in sorted(first.scalars()):
        _log(
            transaction,
            "operation %s: first termination request: %s for %s",
            operation_id,
            action,
            job_id,
        )


def moved(transaction: Transaction, decision: Decision) -> None:
    """Log an escalation, and a job that runs again in its settle window."""
    after = decision.after
    match decision.event:
        case Event.ESCALATED:
            line, facts = "is escalated: %s: %s", (decision.why, _escalation(after))
            manual = after.escalation.level is EscalationLevel.MANUAL
            _log_about(transaction, after, line, *facts, level=ERROR if manual else INFO)
        case Event.SEEN_LIVE_AGAIN:
            line = "is not stopped after all: %s"
            _log_about(transaction, after, line, decision.why, level=WARNING)


def revived(transaction: Transaction, termination: Termination, revival: Revival) -> None:
    observed = f"runs again after it had stopped ({revival.job_state})"
    next_step = "it is not terminated again; if it must stop, request its termination again"
    if revival.reterminated_by:
        next_step = f"operation {revival.reterminated_by} terminates it again"
    elif revival.ended:
        observed = f"ran again after it had stopped, and has ended again ({revival.job_state})"
        next_step = "find out who calls RetryJobs"
    elif revival.limit_reached:
        next_step = (
            "it keeps running: it was terminated again as often as engine.reterminate_max allows; "
            "find out who calls RetryJobs, then request its termination again"
        )
    _log_about(transaction, termination, "%s: %s", observed, next_step, level=WARNING)


def finished(
    transaction: Transaction,
    operation: Row[Any],
    outcome: Outcome,
    jobs_by_state: Mapping[State, int],
    *,
    took_s: float | None,
) -> None:
    good = outcome in (Outcome.VERIFIED, Outcome.WITHDRAWN)
    _log(
        transaction,
        "operation %s of account %r finished: %s%s, %s: %s%s",
        operation.id,
        operation.account,
        outcome,
        "" if took_s is None else f" after {took_s:.1f} s",
        _jobs(sum(jobs_by_state.values())),
        ", ".join(f"{state} {jobs_by_state[state]}" for state in State if state in jobs_by_state),
        "" if good else f"; orchestrator status {operation.id} says why, and what to do",
        level=INFO if good else WARNING,
    )


def _jobs(count: int) -> str:
    return f"{count} job{'' if count == 1 else 's'}"


def _escalation(after: Termination) -> str:
    match after.escalation.level:
        case EscalationLevel.INSTANCES:
            return f"{TERMINATE_TASK_INSTANCE} for each live one, round {after.escalation.round}"
        case EscalationLevel.MACHINES:
            return f"{TERMINATE_INSTANCES} for the machine of each live one"
        case _:
            return (
                "the daemon has no other means left: stop them by hand; "
                f"GET /v1/terminations/{after.id} has the commands (next_action)"
            )


def _log_about(
    transaction: Transaction, termination: Termination, line: str, *args: object, level: int
) -> None:
    _log(
        transaction,
        f"%s (%s, account %r in %s) {line}",
        *(termination.job_id, termination.id, termination.account, termination.region),
        *args,
        level=level,
    )


def _log(transaction: Transaction, line: str, *args: object, level: int = INFO) -> None:
    transaction.after_commit(partial(log.log, level, line, *args))
