"""The whole history of an operation, for its certificate."""

from __future__ import annotations

from collections import defaultdict
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Final

from sqlalchemy import select

from orchestrator.services.ports import (
    AttemptRecord,
    EventRecord,
    OperationHistory,
    TerminationHistory,
)
from orchestrator.store.mapping.decoding import legible
from orchestrator.store.mapping.termination_rows import all_shown
from orchestrator.store.records.queries import attempt_record, event_record
from orchestrator.store.schema import (
    attempts,
    events,
    operation_terminations,
    operations,
    terminations,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.store.database.database import Database

TERMINATIONS_AT_ONCE: Final = 50
"""Terminations of one page; between two pages everything else in this process goes on."""


class SqlHistories:
    """Implements :class:`orchestrator.services.ports.Histories`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def history(self, operation_id: str) -> AsyncIterator[OperationHistory | None]:
        """Open the history of an operation, read in one snapshot; None if it does not exist."""
        async with self._database.read(for_request=True) as connection:
            query = select(operations).where(operations.c.id == operation_id)
            found = await legible(connection, query)
            if not found:
                yield None
                return
            (row,) = found
            own = select(events).where(events.c.operation_id == operation_id)
            own_events = await legible(connection, own.order_by(events.c.number))
            async with aclosing(_pages(connection, operation_id)) as pages:
                yield OperationHistory(
                    id=row["id"],
                    account=row["account"],
                    region=row["region"],
                    reason=row["reason"],
                    requested_by=row["requested_by"],
                    created_at=row["created_at"],
                    finished_at=row["finished_at"],
                    outcome=row["outcome"],
                    events=tuple(event_record(event) for event in own_events),
                    terminations=pages,
                )


async def _pages(
    connection: AsyncConnection, operation_id: str
) -> AsyncGenerator[list[TerminationHistory], None]:
    link = operation_terminations.c
    linked = select(link.termination_id).where(link.operation_id == operation_id)
    ids = list((await connection.execute(linked)).scalars())
    for start in range(0, len(ids), TERMINATIONS_AT_ONCE):
        yield await _page(connection, ids[start : start + TERMINATIONS_AT_ONCE])


async def _page(connection: AsyncConnection, ids: Sequence[str]) -> list[TerminationHistory]:
    wanted = select(terminations).where(terminations.c.id.in_(ids)).order_by(terminations.c.seq)
    rows = await all_shown(connection, wanted)
    attempts_of: dict[str, list[AttemptRecord]] = defaultdict(list)
    made = select(attempts).where(attempts.c.termination_id.in_(ids)).order_by(attempts.c.number)
    for attempt in await legible(connection, made):
        attempts_of[attempt["termination_id"]].append(attempt_record(attempt))
    events_of: dict[str, list[EventRecord]] = defaultdict(list)
    theirs = select(events).where(events.c.termination_id.in_(ids)).order_by(events.c.number)
    for event in await legible(connection, theirs):
        events_of[event["termination_id"]].append(event_record(event))
    return [
        TerminationHistory(
            termination=termination,
            attempts=tuple(attempts_of[row["id"]]),
            events=tuple(events_of[row["id"]]),
        )
        for row, termination in rows
    ]
