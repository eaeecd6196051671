"""Writer of events: it links each event to the one before it of the same subject.

A writer may read the last event of a subject and append to it because it holds the lock of the
subject's row: a transition has updated the termination's row, and the end of an operation has
locked the operation's. If a writer failed to do so, two events would get the same number, and the
database would refuse one of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, func, select

from orchestrator.domain.audit.hash_chain import ACCEPTED, Head
from orchestrator.store.chunks import chunks
from orchestrator.store.schema import events, operations, terminations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Column, Select, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

_NULL: Final = dict.fromkeys(column.name for column in events.columns if column.name != "id")


def _heads(subjects: Table, subject_id: Column[Any]) -> Select[Any]:
    """Select the last event of each of these subjects, with one index lookup for each."""
    others = events.alias("others")
    last = (
        select(func.max(others.c.number))
        .where(others.c[subject_id.name] == subjects.c.id)
        .scalar_subquery()
    )
    return (
        select(subjects.c.id, events.c.number, events.c.hash)
        .select_from(subjects)
        .join(events, (subject_id == subjects.c.id) & (events.c.number == last))
        .where(subjects.c.id.in_(bindparam("subject_ids", expanding=True)))
    )


# By the column of the subject: the number and the hash of the last event of each subject.
_HEADS: Final = {
    "termination_id": _heads(terminations, events.c.termination_id),
    "operation_id": _heads(operations, events.c.operation_id),
}


async def chained(
    connection: AsyncConnection, recorded: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the rows of the recorded events, in this order, with numbers, facts and hashes."""
    heads: dict[str, Head] = {}
    for kind, statement in _HEADS.items():
        new = {event.get(kind) for event in recorded if event["type"] == ACCEPTED}
        known = {event[kind] for event in recorded if event.get(kind)} - new
        for batch in chunks(sorted(known)):
            found = await connection.execute(statement, {"subject_ids": batch})
            heads |= {subject_id: Head(number, last) for subject_id, number, last in found}
    rows = []
    for event in recorded:
        subject_id = event.get("termination_id") or event["operation_id"]
        head = heads.get(subject_id) or Head.of_new(subject_id)
        row = head.append(_NULL | event)
        heads[subject_id] = Head(row["number"], row["hash"])
        rows.append(row)
    return rows
