"""Stopped jobs that are watched for a revival: which are due, and the results of the checks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, update

from orchestrator.domain.audit.caveats import REVIVED
from orchestrator.domain.audit.event_facts import of_revival
from orchestrator.domain.clock_steps import elapsed_s
from orchestrator.domain.decisions.revival import revival_of
from orchestrator.domain.model.operation import NewOperation
from orchestrator.domain.model.termination import OnSubmitted
from orchestrator.store.mapping.termination_rows import revival_to_row
from orchestrator.store.partition.fenced_writes import CUTOFF, IN_PARTITION, LIMIT
from orchestrator.store.records import submission
from orchestrator.store.schema import operation_terminations, operations, terminations
from orchestrator.store.terminations import milestones
from orchestrator.store.terminations.set_aside import CLEARED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sqlalchemy import Row

    from orchestrator.domain.decisions.revival import RevivalCheck
    from orchestrator.domain.model.termination import Termination
    from orchestrator.store.database.transaction import Transaction

DUE_FOR_CHECK = (
    select(terminations)
    .where(IN_PARTITION, terminations.c.revival_checked_at <= CUTOFF)
    .order_by(terminations.c.revival_checked_at)
    .limit(LIMIT)
)
"""Terminations last checked for a revival before the cutoff, the longest ago first."""


async def write(
    transaction: Transaction,
    checks: Sequence[RevivalCheck],
    at: datetime,
    *,
    reterminate_max: int,
    new_id: Callable[[str], str],
) -> None:
    """Write the results of these checks, with the operations that terminate revived jobs again.

    ``new_id`` makes an id with a prefix.
    """
    for ends in (True, False):
        not_revived = [
            check.termination.id for check in checks if check.ends is ends and not check.came_back
        ]
        await transaction.execute(
            update(terminations)
            .where(
                terminations.c.id.in_(not_revived), terminations.c.revival_checked_at.is_not(None)
            )
            .values(revival_checked_at=None if ends else at, **CLEARED)
        )
    for check in checks:
        if check.came_back is not None:
            await _write_revival(transaction, check, at, reterminate_max, new_id)


async def _write_revival(
    transaction: Transaction,
    check: RevivalCheck,
    at: datetime,
    reterminate_max: int,
    new_id: Callable[[str], str],
) -> None:
    before, seen = check.termination, check.came_back
    assert seen is not None
    revival = revival_of(seen)
    again: NewOperation | None = None
    requested = None
    if not revival.ended:
        requested = await _requested_by(transaction, before, revival.at)
    if requested is not None:
        if requested.reterminate_round >= reterminate_max:
            revival = replace(revival, limit_reached=True)
        else:
            again = _next_operation(before, requested, at, revival.at, new_id("op"))
            revival = replace(revival, reterminated_by=again.id)
    written = await transaction.execute(
        update(terminations)
        .where(
            terminations.c.id == before.id,
            terminations.c.partition == before.partition,
            terminations.c.revival_checked_at == before.watch.checked_at,
        )
        .values(
            revival=revival_to_row(revival),
            revival_checked_at=None if check.ends else at,
            **CLEARED,
        )
    )
    if written.rowcount == 0:
        return
    if again is not None:
        await submission.create(transaction, [(again, [new_id("trm")])])
    transaction.record(at=at, termination_id=before.id, type=REVIVED, facts=of_revival(revival))
    milestones.revived(transaction, before, revival)


async def _requested_by(
    transaction: Transaction, termination: Termination, seen_at: datetime
) -> Row[Any] | None:
    """Return the operation that asks longest to terminate its job again, if one still does."""
    link = operation_terminations.c
    found = await transaction.execute(
        select(operations)
        .join(operation_terminations, link.operation_id == operations.c.id)
        .where(link.termination_id == termination.id, operations.c.reterminate_for_s.is_not(None))
        .order_by(operations.c.reterminate_for_s.desc(), operations.c.seq)
        .limit(1)
    )
    row = found.one_or_none()
    return row if row is not None and _remaining_s(termination, row, seen_at) > 0 else None


def _remaining_s(termination: Termination, requested: Row[Any], seen_at: datetime) -> float:
    began_at = termination.watch.began_at
    assert began_at is not None
    return float(requested.reterminate_for_s - (elapsed_s(began_at, seen_at) or 0.0))


def _next_operation(
    before: Termination, requested: Row[Any], at: datetime, seen_at: datetime, operation_id: str
) -> NewOperation:
    """Return the operation that terminates its job again; a SUBMITTED job is held."""
    first = requested.reterminates_for or requested.id
    reason = requested.reason
    if not requested.reterminates_for:
        reason = f"terminated again for {first}: {reason}"
    return NewOperation(
        id=operation_id,
        account=before.account,
        region=before.region,
        partition=before.partition,
        job_ids=(before.job_id,),
        duplicates_merged=0,
        reason=reason,
        requested_by=requested.requested_by,
        idempotency_key=None,
        request_hash="",
        request=replace(
            before.request, created_at=at, on_submitted=OnSubmitted.HOLD, not_before=None
        ),
        reterminate_for_s=_remaining_s(before, requested, seen_at),
        reterminates_for=first,
        reterminate_round=requested.reterminate_round + 1,
    )
