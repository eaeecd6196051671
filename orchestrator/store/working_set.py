"""The engine's view: which terminations are due, and the writes of its loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, insert, or_, select, update
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from orchestrator.domain.lifecycle import LIVE_STATES, State
from orchestrator.domain.terminations import Look
from orchestrator.store.rows import from_row
from orchestrator.store.schema import (
    attempts,
    operation_terminations,
    operations,
    partitions,
    terminations,
)
from orchestrator.store.transitions import write_decisions, write_move

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import Select
    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.domain.attempts import Answer, NewAttempt
    from orchestrator.domain.decide import Decision
    from orchestrator.domain.terminations import Problem, Termination
    from orchestrator.store.database import Database


class WorkingSet:
    """Implements :class:`orchestrator.engine.ports.Store`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def planned(
        self,
        partition: str,
        look: Look,
        limit: int,
        *,
        states: Sequence[State] = LIVE_STATES,
        seen: bool | None = None,
    ) -> list[Termination]:
        """Terminations to look at by ``look``, due or not, the soonest first.

        ``seen``: only those whose job a look has shown already, or has not; None: both.
        """
        query = select(terminations).where(
            terminations.c.partition == partition,
            terminations.c.look == look,
            terminations.c.look_at.is_not(None),
            terminations.c.state.in_(states),
        )
        if seen is not None:
            query = query.where(terminations.c.job_state.is_(None) != seen)
        return await self._fetch(query.order_by(terminations.c.look_at).limit(limit))

    async def callable(self, partition: str, now: datetime, limit: int) -> list[Termination]:
        """Terminations whose job may be called now, first in line first."""
        return await self._fetch(
            select(terminations)
            .where(terminations.c.partition == partition, terminations.c.call_at <= now)
            .order_by(terminations.c.first_in_line.desc(), terminations.c.seq)
            .limit(limit)
        )

    async def unanswered(self, partition: str) -> list[Termination]:
        """Terminations with an attempt whose answer was never written."""
        return await self._fetch(
            select(terminations)
            .join(attempts, attempts.c.termination_id == terminations.c.id)
            .where(terminations.c.partition == partition, attempts.c.answered_at.is_(None))
        )

    async def uncounted(
        self, partition: str, before: datetime, operation_ids: Sequence[str] | None, limit: int
    ) -> list[Termination]:
        """Draining jobs whose instances were not counted since ``before``, the longest ago first.

        Of these operations; None: of any, where the call was acknowledged before then, too.
        """
        if operation_ids is None:
            asked = terminations.c.acknowledged_at < before
        else:
            asked = terminations.c.id.in_(
                select(operation_terminations.c.termination_id).where(
                    operation_terminations.c.operation_id.in_(operation_ids)
                )
            )
        counted_at = terminations.c.instances_observed_at
        return await self._fetch(
            select(terminations)
            .where(
                terminations.c.partition == partition,
                terminations.c.state == State.DRAINING,
                terminations.c.look == Look.SWEEP,
                asked,
                or_(counted_at.is_(None), counted_at < before),
            )
            .order_by(counted_at.is_not(None), counted_at)
            .limit(limit)
        )

    async def next_call_at(self, partition: str) -> datetime | None:
        """When the next job may be called."""
        call_at = terminations.c.call_at
        async with self._database.read() as connection:
            found: datetime | None = await connection.scalar(
                select(func.min(call_at)).where(
                    terminations.c.partition == partition, call_at.is_not(None)
                )
            )
            return found

    async def apply(self, changes: Sequence[tuple[Termination, Decision]], at: datetime) -> int:
        """Write decisions in one transaction; returns how many changed a state."""

        async def work(connection: AsyncConnection) -> int:
            return await write_decisions(connection, changes, at)

        return await self._database.write(work)

    async def postpone(
        self, termination_ids: Sequence[str], until: datetime, *, calls: bool
    ) -> None:
        """Let no look of these (and no call, with ``calls``) be due before ``until``."""
        t = terminations.c
        columns = (t.look_at, t.call_at) if calls else (t.look_at,)

        async def work(connection: AsyncConnection) -> None:
            for column in columns:
                await connection.execute(
                    update(terminations)
                    .where(t.id.in_(termination_ids), column < until)
                    .values({column: until})
                )

        await self._database.write(work)

    async def start_attempt(
        self, before: Termination, decision: Decision, attempt: NewAttempt
    ) -> int | None:
        """Write the attempt and the move to sending; its number, or None if it moved meanwhile."""

        async def work(connection: AsyncConnection) -> int | None:
            if not await write_move(connection, before, decision, attempt.sent_at):
                return None
            made = await connection.scalar(
                select(func.count()).where(attempts.c.termination_id == before.id)
            )
            number = int(made or 0) + 1
            await connection.execute(
                insert(attempts).values(
                    termination_id=before.id,
                    number=number,
                    partition=before.partition,
                    action=attempt.action,
                    target=attempt.target,
                    sent_at=attempt.sent_at,
                )
            )
            return number

        return await self._database.write(work)

    async def finish_attempt(self, before: Termination, decision: Decision, answer: Answer) -> None:
        """Write the open attempt's answer and what was decided on it."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(
                update(attempts)
                .where(attempts.c.termination_id == before.id, attempts.c.answered_at.is_(None))
                .values(
                    answered_at=answer.at,
                    outcome=answer.outcome,
                    code=answer.code,
                    message=answer.message,
                    request_id=answer.request_id,
                )
            )
            await write_decisions(connection, [(before, decision)], answer.at)

        await self._database.write(work)

    async def adopt(self, *, account: str, region: str, partition: str) -> None:
        """Hand the unfinished work of a region to the partition that its calls go to now.

        The host in an account's configuration may have changed since it was submitted.  The
        partition's trouble is forgotten: what an earlier process met may be over.
        """

        async def work(connection: AsyncConnection) -> None:
            for table in (terminations, operations):
                await connection.execute(
                    update(table)
                    .where(
                        table.c.account == account,
                        table.c.region == region,
                        table.c.finished_at.is_(None),
                        table.c.partition != partition,
                    )
                    .values(partition=partition)
                )
            await connection.execute(
                update(partitions)
                .where(partitions.c.name == partition, partitions.c.trouble_code.is_not(None))
                .values(trouble_code=None, trouble_message=None, trouble_advice=None)
            )

        await self._database.write(work)

    async def set_trouble(self, partition: str, trouble: Problem | None) -> None:
        """Record that the partition's calls fail (or work again), for everyone who asks."""
        values = {
            "trouble_code": trouble.code if trouble else None,
            "trouble_message": trouble.message if trouble else None,
            "trouble_advice": trouble.advice if trouble else None,
        }

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(
                sqlite_insert(partitions)
                .values(name=partition, **values)
                .on_conflict_do_update(index_elements=["name"], set_=values)
            )

        await self._database.write(work)

    async def _fetch(self, query: Select[tuple[object, ...]]) -> list[Termination]:
        async with self._database.read() as connection:
            return [from_row(dict(row._mapping)) for row in await connection.execute(query)]  # noqa: SLF001
