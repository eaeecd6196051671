"""Terminations whose account and region are in the configuration of no replica."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from sqlalchemy import and_, case, func, literal, or_, select, update

from orchestrator.domain.decisions.manual_end import end_manually
from orchestrator.domain.errors import NotFound, NotPossible
from orchestrator.domain.model.attempt import INTERRUPTED, TERMINATE_JOB
from orchestrator.domain.model.lifecycle import LIVE_STATES
from orchestrator.services.ports import Waiting
from orchestrator.store.mapping.decoding import Unreadable, decoded
from orchestrator.store.mapping.termination_rows import from_row
from orchestrator.store.schema import (
    UtcDateTime,
    attempts,
    operation_terminations,
    operations,
    partitions,
    replicas,
    terminations,
)
from orchestrator.store.sql import whole_seconds
from orchestrator.store.terminations.decision_writes import write_decision

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.domain.decisions.decision import Decision
    from orchestrator.domain.model.termination import Termination
    from orchestrator.store.database.database import Database
    from orchestrator.store.database.transaction import Transaction

COUNTED_FOR: Final = timedelta(seconds=10)
ENDED_AT_ONCE: Final = 100
"""Terminations that are ended in one transaction: other writes wait for it."""
_INTERRUPTED: Final = {"outcome": INTERRUPTED, "code": None, "request_id": None}


class StoredUnconfigured:
    """Implements :class:`orchestrator.services.ports.Unconfigured`."""

    def __init__(
        self, database: Database, configured: Collection[str], now: Callable[[], datetime]
    ) -> None:
        """Take the partitions that this replica is configured for as ``configured``."""
        self._database = database
        self._configured = frozenset(configured)
        self._now = now
        self._counted: tuple[datetime, list[Waiting]] | None = None

    async def waiting(self) -> list[Waiting]:
        """Return counts up to COUNTED_FOR old, because /readyz is requested often."""
        now = self._now()
        if self._counted is None or not timedelta() <= now - self._counted[0] < COUNTED_FOR:
            self._counted = now, await self._count()
        return self._counted[1]

    async def _count(self) -> list[Waiting]:
        t = terminations.c
        async with self._database.read() as connection:
            known = await connection.execute(select(partitions.c.name))
            unknown = set(known.scalars()) - await self._served(connection)
            if not unknown:
                return []
            live = t.state.in_(LIVE_STATES)
            ended_s = whole_seconds(literal(self._now(), UtcDateTime()), t.revival_watch_from)
            watched = and_(t.revival_checked_at.is_not(None), ended_s < t.revival_watch_s)
            found = await connection.execute(
                select(
                    t.account,
                    t.region,
                    func.count(case((live, 1))).label("jobs"),
                    func.count(case((watched, 1))).label("watched"),
                )
                .where(t.partition.in_(sorted(unknown)), or_(live, watched))
                .group_by(t.account, t.region)
                .order_by(t.account, t.region)
            )
            return [
                Waiting(account=r.account, region=r.region, jobs=r.jobs, watched=r.watched)
                for r in found
            ]

    async def _served(self, connection: AsyncConnection) -> frozenset[str]:
        """Return the partitions that a live replica is configured for; SQLite has only this one."""
        if not self._database.dialect.shared:
            return self._configured
        others = await connection.execute(select(replicas.c.partitions))
        return self._configured.union(*others.scalars())

    async def end(self, operation_id: str, *, by: str, reason: str) -> None:
        """End the unfinished terminations of an operation; raises NotFound, NotPossible."""

        async def work(transaction: Transaction) -> bool:
            await self._require_unserved(transaction, operation_id)
            rows = await _unfinished(transaction, operation_id)
            at = self._now()
            sent = await _sent(transaction, rows)
            shared = await _shared(transaction, rows)
            for before in rows:
                untouched = before.id not in sent and before.id not in shared
                decision = end_manually(before, at, by=by, reason=reason, untouched=untouched)
                await _end(transaction, before, decision, at)
            return bool(rows)

        while await self._database.write(work):
            self._counted = None

    async def _require_unserved(self, transaction: Transaction, operation_id: str) -> None:
        found = await transaction.execute(
            select(operations.c.partition, operations.c.account, operations.c.region).where(
                operations.c.id == operation_id
            )
        )
        operation = found.one_or_none()
        if operation is None:
            raise NotFound(f"no operation {operation_id}; GET /v1/operations lists them")
        if operation.partition in await self._served(transaction.connection):
            raise NotPossible(
                f"account {operation.account!r} and its region {operation.region!r} are configured:"
                " only an operation whose account or region is not configured can be stopped; this "
                "one continues to its end"
            )


async def _unfinished(transaction: Transaction, operation_id: str) -> list[Termination]:
    """Return a batch of its unfinished terminations, without rows that cannot be decoded."""
    link = operation_terminations
    query = (
        select(terminations)
        .join(link, link.c.termination_id == terminations.c.id)
        .where(link.c.operation_id == operation_id, terminations.c.finished_at.is_(None))
        .order_by(terminations.c.seq)
        .limit(ENDED_AT_ONCE)
    )
    rows = await decoded(transaction.connection, query, from_row)
    return [row for row in rows if not isinstance(row, Unreadable)]


async def _sent(transaction: Transaction, rows: Sequence[Termination]) -> set[str]:
    """Return the ids of those that an API call was made for."""
    ids = [row.id for row in rows]
    made = select(attempts.c.termination_id).where(attempts.c.termination_id.in_(ids)).distinct()
    return set((await transaction.execute(made)).scalars())


async def _shared(transaction: Transaction, rows: Sequence[Termination]) -> set[str]:
    """Return the ids of those that belong to more than one operation."""
    link, ids = operation_terminations.c, [row.id for row in rows]
    wanted = select(link.termination_id).where(link.termination_id.in_(ids))
    grouped = wanted.group_by(link.termination_id).having(func.count() > 1)
    return set((await transaction.execute(grouped)).scalars())


async def _end(
    transaction: Transaction, before: Termination, decision: Decision, at: datetime
) -> None:
    """End one termination, and close its attempts whose answers nobody awaits."""
    orphaned = attempts.c.termination_id == before.id, attempts.c.answered_at.is_(None)
    actions = set((await transaction.execute(select(attempts.c.action).where(*orphaned))).scalars())
    call = {"answer": _INTERRUPTED} if TERMINATE_JOB in actions else None
    if await write_decision(transaction, before, decision, at, call) and actions:
        await transaction.execute(
            update(attempts).where(*orphaned).values(answered_at=at, outcome=INTERRUPTED)
        )
