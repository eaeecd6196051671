"""What the log tells of operations: one line each, written once what it tells is committed.

A line stands alone: it has the ids, and what people typed is quoted and escaped in it.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, select, update

from orchestrator.domain.model.attempt import TERMINATE_INSTANCES, TERMINATE_TASK_INSTANCE
from orchestrator.domain.model.lifecycle import Event, State
from orchestrator.domain.model.termination import EscalationLevel
from orchestrator.store.schema import operation_terminations, operations

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from sqlalchemy import Row

    from orchestrator.domain.decisions.transitions import Decision
    from orchestrator.domain.model.operation import NewOperation, Outcome
    from orchestrator.domain.model.termination import Revival, Termination
    from orchestrator.store.database.transaction import Transaction

log = logging.getLogger(__name__)

_CALLED_FIRST = (
    update(operations)
    .where(
        operations.c.id.in_(
            select(operation_terminations.c.operation_id).where(
                operation_terminations.c.termination_id == bindparam("this")
            )
        ),
        operations.c.first_called_at.is_(None),
    )
    .values(first_called_at=bindparam("its_at"))
    .returning(operations.c.id)
)


def accepted(transaction: Transaction, new: NewOperation) -> None:
    _tell(
        transaction,
        "operation %s accepted: %s of account %r in %s, asked for by %r: %r",
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
    """Note a call that is about to leave, and tell of it where it is an operation's first."""
    first = await transaction.execute(_CALLED_FIRST, {"this": termination_id, "its_at": at})
    for operation_id in sorted(first.scalars()):
        _tell(transaction, "operation %s: first call: %s for %s", operation_id, action, job_id)


def moved(transaction: Transaction, decision: Decision) -> None:
    """Tell of stragglers that are escalated, and of jobs that run again."""
    after = decision.after
    match decision.event:
        case Event.ESCALATED:
            _tell_of(transaction, after, "is escalated: %s: %s", decision.why, _escalation(after))
        case Event.SEEN_LIVE_AGAIN:
            _tell_of(transaction, after, "is not down after all: %s", decision.why)


def revived(transaction: Transaction, termination: Termination, revival: Revival) -> None:
    next_step = "it is not kept down"
    if revival.reterminated_by:
        next_step = f"operation {revival.reterminated_by} brings it down again"
    elif revival.limit_reached:
        next_step = "it was brought down again as often as engine.reterminate_max allows"
    _tell_of(
        transaction,
        termination,
        "was revived after it was down, and was seen %s: %s",
        revival.job_state,
        next_step,
    )


def finished(
    transaction: Transaction,
    operation: Row[Any],
    outcome: Outcome,
    jobs_by_state: Mapping[State, int],
    *,
    took_s: float | None,
) -> None:
    _tell(
        transaction,
        "operation %s of account %r finished: %s%s, %s: %s",
        operation.id,
        operation.account,
        outcome,
        "" if took_s is None else f" after {took_s:.1f} s",
        _jobs(sum(jobs_by_state.values())),
        ", ".join(f"{state} {jobs_by_state[state]}" for state in State if state in jobs_by_state),
    )


def _jobs(count: int) -> str:
    return f"{count} job{'' if count == 1 else 's'}"


def _escalation(after: Termination) -> str:
    match after.escalation_level:
        case EscalationLevel.INSTANCES:
            return f"{TERMINATE_TASK_INSTANCE} for each live one, round {after.escalation_round}"
        case EscalationLevel.MACHINES:
            return f"{TERMINATE_INSTANCES} for the machine of each live one"
        case _:
            return "left to a person"


def _tell_of(transaction: Transaction, of: Termination, what: str, *args: object) -> None:
    _tell(
        transaction,
        f"%s (%s, account %r in %s) {what}",
        *(of.job_id, of.id, of.account, of.region),
        *args,
    )


def _tell(transaction: Transaction, line: str, *args: object) -> None:
    transaction.after_commit(partial(log.info, line, *args))
