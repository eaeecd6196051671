"""Jobs that are down and watched for coming back: which are to be looked at, and what was seen."""

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
from orchestrator.store.partition.fenced import CUTOFF, IN_PARTITION, LIMIT
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

TO_WATCH = (
    select(terminations)
    .where(IN_PARTITION, terminations.c.revival_checked_at <= CUTOFF)
    .order_by(terminations.c.revival_checked_at)
    .limit(LIMIT)
)
"""Terminations whose watch looked last ``before`` then, the longest ago first."""


async def write(
    transaction: Transaction,
    looks: Sequence[RevivalCheck],
    at: datetime,
    *,
    reterminate_max: int,
    new_id: Callable[[str], str],
) -> None:
    """Write what these looks showed, with the operations that bring jobs down again.

    ``new_id`` makes an id with a prefix.
    """
    for ends in (True, False):
        same = [
            poll_kind.termination.id
            for poll_kind in looks
            if poll_kind.ends is ends and not poll_kind.came_back
        ]
        await transaction.execute(
            update(terminations)
            .where(terminations.c.id.in_(same), terminations.c.revival_checked_at.is_not(None))
            .values(revival_checked_at=None if ends else at, **CLEARED)
        )
    for poll_kind in looks:
        if poll_kind.came_back is not None:
            await _write_revival(transaction, poll_kind, at, reterminate_max, new_id)


async def _write_revival(
    transaction: Transaction,
    poll_kind: RevivalCheck,
    at: datetime,
    reterminate_max: int,
    new_id: Callable[[str], str],
) -> None:
    before, seen = poll_kind.termination, poll_kind.came_back
    assert seen is not None
    revival = revival_of(seen)
    again: NewOperation | None = None
    asked = None if revival.ended else await _reterminate(transaction, before, revival.at)
    if asked is not None:
        if asked.reterminate_round >= reterminate_max:
            revival = replace(revival, limit_reached=True)
        else:
            again = _again(before, asked, at, revival.at, new_id("op"))
            revival = replace(revival, reterminated_by=again.id)
    written = await transaction.execute(
        update(terminations)
        .where(
            terminations.c.id == before.id,
            terminations.c.partition == before.partition,
            terminations.c.revival_checked_at == before.revival_checked_at,
        )
        .values(
            revival=revival_to_row(revival),
            revival_checked_at=None if poll_kind.ends else at,
            **CLEARED,
        )
    )
    if written.rowcount == 0:
        return
    if again is not None:
        await submission.create(transaction, again, [new_id("trm")])
    transaction.record(at=at, termination_id=before.id, type=REVIVED, facts=of_revival(revival))
    milestones.revived(transaction, before, revival)


async def _reterminate(
    transaction: Transaction, termination: Termination, seen_at: datetime
) -> Row[Any] | None:
    """The operation that asks longest for its job to be kept down, if one still does then."""
    link = operation_terminations.c
    found = await transaction.execute(
        select(operations)
        .join(operation_terminations, link.operation_id == operations.c.id)
        .where(link.termination_id == termination.id, operations.c.reterminate_for_s.is_not(None))
        .order_by(operations.c.reterminate_for_s.desc(), operations.c.seq)
        .limit(1)
    )
    asked = found.one_or_none()
    return asked if asked is not None and _left_s(termination, asked, seen_at) > 0 else None


def _left_s(termination: Termination, asked: Row[Any], seen_at: datetime) -> float:
    assert termination.finished_at is not None
    return float(asked.reterminate_for_s - (elapsed_s(termination.finished_at, seen_at) or 0.0))


def _again(
    before: Termination, asked: Row[Any], at: datetime, seen_at: datetime, operation_id: str
) -> NewOperation:
    """The operation that brings its job down again; it is held where it is SUBMITTED."""
    first = asked.reterminates_for or asked.id
    reason = asked.reason if asked.reterminates_for else f"kept down for {first}: {asked.reason}"
    return NewOperation(
        id=operation_id,
        account=before.account,
        region=before.region,
        partition=before.partition,
        job_ids=(before.job_id,),
        duplicates_merged=0,
        reason=reason,
        requested_by=asked.requested_by,
        idempotency_key=None,
        request_hash="",
        on_submitted=OnSubmitted.HOLD,
        not_before=None,
        give_up_after_s=before.give_up_after_s,
        settle_s=before.settle_s,
        created_at=at,
        escalate=before.escalate,
        revival_watch_s=before.revival_watch_s,
        reterminate_for_s=_left_s(before, asked, seen_at),
        reterminates_for=first,
        reterminate_round=asked.reterminate_round + 1,
    )
