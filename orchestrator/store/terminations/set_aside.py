"""Terminations that a loop could not process: no loop reads them again for a while."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import func, or_, select, update

from orchestrator.store.schema import terminations
from orchestrator.store.terminations.row_locks import unlocked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.store.database.transaction import Transaction

AGAIN_AFTER_S = 60.0

_T = terminations.c
READ_BY_LOOPS = _T.set_aside_until.is_(None)
CLEARED = {"set_aside": None, "set_aside_until": None}
"""Values of a termination once a decision on it was written."""


async def write(transaction: Transaction, partition: str, reasons: Mapping[str, str]) -> list[str]:
    """Set these terminations of a partition aside, each for its reason.

    Returns the ids of those that were not set aside for that reason before.
    """
    until = await transaction.clock() + timedelta(seconds=AGAIN_AFTER_S)
    new = []
    for termination_id, why in sorted(reasons.items()):
        this = (_T.id == termination_id, _T.partition == partition)
        known = await transaction.scalar(select(_T.set_aside).where(*this))
        await transaction.execute(
            update(terminations).where(*this).values(set_aside=why, set_aside_until=until)
        )
        if known != why:
            new.append(termination_id)
    return new


async def next_at(connection: AsyncConnection, partition: str, now: datetime) -> datetime | None:
    """Return when the first of them is to be read again; ``now`` if a clock was put back since."""
    first = select(func.min(_T.set_aside_until, type_=_T.set_aside_until.type))
    at: datetime | None = await connection.scalar(
        first.where(_T.partition == partition, _T.set_aside.is_not(None))
    )
    return now if at is not None and at > _latest_possible(now) else at


async def retry_due(transaction: Transaction, partition: str, now: datetime) -> bool:
    """Let the loops read those again that are due; each counts as set aside until its decision.

    Returns whether there was one, apart from those whose row is locked.
    """
    due = unlocked(
        _T.partition == partition,
        _T.set_aside.is_not(None),
        or_(_T.set_aside_until <= now, _T.set_aside_until > _latest_possible(now)),
    )
    taken = await transaction.execute(
        update(terminations).where(_T.id.in_(due)).values(set_aside_until=None)
    )
    return taken.rowcount > 0


def _latest_possible(now: datetime) -> datetime:
    """Return a limit: a later time was written by a clock that was put back since."""
    return now + timedelta(seconds=2 * AGAIN_AFTER_S)
