"""Steps of the database's clock: deadlines, settle windows and watches move along with them.

Such times are stored as they read by that clock.  Where it steps ahead by eight hours, all of them
would be over at once.  So replicas note each step while they live, as a sum, and the times of a
partition's terminations follow it whenever the partition is taken: the new epoch keeps out what was
decided by the time before.

- A step ahead moves all times along, and a step back undoes that.
- A step back beyond it moves no deadline, for it puts right a clock that was wrong as the daemon
  started (a hardware clock in local time, say): what was stored before that start is right again.
- After any step, all reads and calls that are planned are planned for now, or for ``not_before``.
- After an hour the sum begins anew: what is stored by then is stored by the clock as it is.

What has happened (``created_at``, ``finished_at``, events, attempts) stays as it was written.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, bindparam, case, literal, literal_column, or_, select, update

from orchestrator.domain.lifecycle import State
from orchestrator.store import schema
from orchestrator.store.decoding import Unreadable, decoded
from orchestrator.store.schema import UtcDateTime, instances, partitions, terminations
from orchestrator.store.sql import moved_by

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import ColumnElement

    from orchestrator.store.transaction import Transaction

UNDONE_WITHIN_S: Final = 3600.0
"""How long after a step another one may undo it."""
_STEPS: Final = schema.clock_steps
_T: Final = terminations.c
_STAYS: Final = ("created_at", "not_before", "finished_at")
"""Times of a termination that are no plan of the engine, but what was asked for, or happened."""
_TIMES: Final = [
    column for column in _T if isinstance(column.type, UtcDateTime) and column.name not in _STAYS
]
_PLANNED: Final = (
    *(_T.look_at, _T.call_at, _T.capture_at, _T.reading_at, _T.come_back_watched_at),
    _T.set_aside_until,
)
_LAST: Final = literal_column("'9999-12-31 23:59:59.999999'", UtcDateTime())
"""What sorts after it in SQLite is no time."""
_OF_INSTANCES: Final = [column for column in instances.c if isinstance(column.type, UtcDateTime)]
_DOCUMENTS: Final = {
    "capture": ("counted_at", "began_at", "ended_at"),
    "reading": ("counted_at", "began_at", "ended_at"),
    "unconfirmed": ("since", "last_at", "until"),
}
"""JSON columns, with the times in them."""


async def noted(transaction: Transaction) -> int:
    """The sum of all steps of late, in seconds."""
    return int(await transaction.scalar(select(_STEPS.c.steps_s)) or 0)


async def note(transaction: Transaction, known_s: int, by_s: int) -> None:
    """Note a step, unless another replica has noted one since ``known_s`` was read."""
    row = (await transaction.execute(select(_STEPS))).one()
    if row.steps_s != known_s:
        return
    now, steps_s = await transaction.clock(), known_s
    old = row.noted_at is not None and now - timedelta(seconds=by_s) - row.noted_at
    if old and old > timedelta(seconds=UNDONE_WITHIN_S):
        steps_s = 0
        await _begin_anew(transaction)
    await transaction.execute(update(_STEPS).values(steps_s=steps_s + by_s, noted_at=now))


async def _begin_anew(transaction: Transaction) -> None:
    await transaction.execute(update(partitions).values(followed_s=0))
    await transaction.execute(update(_STEPS).values(steps_s=0))


async def seen(transaction: Transaction, now: datetime) -> None:
    """Keep what the clock showed last, while a replica lives."""
    await transaction.execute(update(_STEPS).values(seen_at=now))


async def note_put_back(transaction: Transaction, tolerance_s: float) -> None:
    """Note that the clock stepped back while no replica lived: what it showed last lies ahead.

    Where it does not, a step back that was noted may have been undone meanwhile.
    """
    row = (await transaction.execute(select(_STEPS))).one()
    ahead_s = 0.0
    if row.seen_at is not None:
        ahead_s = (row.seen_at - await transaction.clock()).total_seconds()
    if ahead_s > tolerance_s:
        await note(transaction, row.steps_s, -round(ahead_s))
    elif row.steps_s < 0:
        await _begin_anew(transaction)


async def follow(transaction: Transaction, partition: str, steps_s: int) -> None:
    """Move the times of a partition's terminations by the steps that they have not followed yet."""
    of_partition = partitions.c.name == partition
    followed_s = await transaction.scalar(select(partitions.c.followed_s).where(of_partition))
    if followed_s == steps_s or followed_s is None:
        return
    await transaction.execute(update(partitions).where(of_partition).values(followed_s=steps_s))
    if by_s := max(steps_s, 0) - max(followed_s, 0):
        await _move(transaction, partition, by_s)
    await _plan_for_now(transaction, partition, await transaction.clock())


async def _move(transaction: Transaction, partition: str, by_s: int) -> None:
    live = (_T.partition == partition, _T.finished_at.is_(None))
    await _move_documents(transaction, live, timedelta(seconds=by_s))
    await transaction.execute(
        update(instances)
        .where(instances.c.termination_seq.in_(select(_T.seq).where(*live)))
        .values({column: moved_by(column, by_s) for column in _OF_INSTANCES})
    )
    await transaction.execute(
        update(terminations)
        .where(*live)
        # What was learnt of a drain is by the time before.
        .values({column: moved_by(column, by_s) for column in _TIMES} | {_T.history: None})
    )
    await transaction.execute(
        update(terminations)
        .where(_T.partition == partition, _T.finished_at.is_not(None))
        .where(_T.come_back_watched_at.is_not(None))
        .values(
            come_back_watched_at=moved_by(_T.come_back_watched_at, by_s),
            come_back_watch_s=_T.come_back_watch_s + by_s,
        )
    )


async def _move_documents(
    transaction: Transaction, live: tuple[ColumnElement[bool], ...], by: timedelta
) -> None:
    documents = [_T[name] for name in _DOCUMENTS]
    known = or_(*(document.is_not(None) for document in documents))
    query = select(_T.seq, *documents).where(*live, known).order_by(_T.seq)
    found = await decoded(transaction.connection, query, partial(_moved_row, by=by))
    # What cannot be read stays as it is: its termination is set aside.
    if rows := [row for row in found if not isinstance(row, Unreadable)]:
        await transaction.execute(
            update(terminations)
            .where(_T.seq == bindparam("this"))
            .values({name: bindparam(f"its_{name}") for name in _DOCUMENTS}),
            rows,
        )


def _moved_row(row: Mapping[str, Any], *, by: timedelta) -> dict[str, Any]:
    moved = {f"its_{name}": _moved(row[name], name, by) for name in _DOCUMENTS}
    return {"this": row["seq"], **moved}


def _moved(document: dict[str, Any] | None, name: str, by: timedelta) -> dict[str, Any] | None:
    if document is None:
        return None
    times = {key: document[key] for key in _DOCUMENTS[name] if document.get(key)}
    return document | {
        key: (datetime.fromisoformat(time) + by).isoformat() for key, time in times.items()
    }


async def _plan_for_now(transaction: Transaction, partition: str, now: datetime) -> None:
    """Make now what lies ahead; what is still to begin (``not_before``) begins at its time."""
    at = literal(now, UtcDateTime())
    waits = and_(_T.state.in_((State.QUEUED, State.HELD)), _T.not_before > at)
    await transaction.execute(
        update(terminations)
        .where(_T.partition == partition)
        .values(
            {
                column: case(
                    (and_(waits, column.is_not(None)), _T.not_before),
                    # What is no time at all stays as it is: its termination is set aside.
                    (column.between(at, _LAST), at),
                    else_=column,
                )
                for column in _PLANNED
            }
        )
    )
