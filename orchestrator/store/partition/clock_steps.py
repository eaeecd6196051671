"""Steps of the database's clock: deadlines, settle windows and revival watches move along.

Such times are stored by that clock. If it steps forward by eight hours, all of them would be over
at once; if it steps back, none would be over for eight hours. So live replicas record each step, as
a sum. The times of a partition's terminations are moved by the steps they have not followed yet
whenever the partition is taken: its new epoch refuses decisions made by the old times.

- All times stored for live terminations move along with each step, forward or back.
- After any step, all planned polls and calls are planned for now, or for ``not_before``.
- A clock may be wrong when the first replica starts (a hardware clock in local time, for example),
  and be corrected later. So a step back by no more than the time without a live replica does not
  move times stored before that start: they are correct again.
- If the clock shows less at that start than at the last renewal, it has stepped back in between. If
  it has advanced by more than the recorded steps back, it may have been corrected in between.

Times of past facts (``created_at``, ``finished_at``, events, attempts) stay as they were written.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, bindparam, case, literal, literal_column, or_, select, update

from orchestrator.domain.clock_steps import CLOCK_STEP_S
from orchestrator.domain.model.lifecycle import State
from orchestrator.store import schema
from orchestrator.store.mapping.decoding import Unreadable, decoded
from orchestrator.store.schema import UtcDateTime, instances, partitions, terminations
from orchestrator.store.sql import moved_by

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import ColumnElement

    from orchestrator.store.database.transaction import Transaction

UNKNOWN_S: Final = 10**9
"""Longer than any step: stands for an unknown time without a live replica."""
_STEPS: Final = schema.clock_steps
_T: Final = terminations.c
_UNMOVED_TIMES: Final = ("created_at", "not_before", "finished_at")
"""Times of a termination that were requested or are past facts, not plans of the engine."""
_MOVED_TIMES: Final = [
    column
    for column in _T
    if isinstance(column.type, UtcDateTime) and column.name not in _UNMOVED_TIMES
]
_PLANNED_TIMES: Final = (
    *(_T.next_poll_at, _T.terminate_after, _T.capture_at, _T.rescan_at, _T.revival_checked_at),
    _T.set_aside_until,
)
_LATEST_TIME: Final = literal_column("'9999-12-31 23:59:59.999999'", UtcDateTime())
"""The latest time; a value that SQLite sorts after it is not a time."""
_WATCH_TIMES: Final = (_T.revival_watch_from, _T.revival_checked_at)
_INSTANCE_TIMES: Final = [column for column in instances.c if isinstance(column.type, UtcDateTime)]
_DOCUMENT_TIMES: Final = {
    "capture": ("counted_at", "began_at", "ended_at"),
    "rescan": ("counted_at", "began_at", "ended_at"),
    "unconfirmed": ("since", "last_at", "until"),
}
"""JSON columns, each with the names of the times in it."""


@dataclass(frozen=True, slots=True)
class _Step:
    """A move of stored times: those from ``since`` on by ``by_s``, others by ``before_by_s``."""

    since: datetime
    by_s: int
    before_by_s: int

    def column(self, column: ColumnElement[datetime]) -> ColumnElement[datetime]:
        since = literal(self.since, UtcDateTime())
        return case(
            (column >= since, moved_by(column, self.by_s)),
            else_=moved_by(column, self.before_by_s),
        )

    def text(self, time: str) -> str:
        at = datetime.fromisoformat(time)
        by_s = self.by_s if at >= self.since else self.before_by_s
        return (at + timedelta(seconds=by_s)).isoformat()


async def noted(transaction: Transaction) -> int:
    """Return the sum of all steps since the first replica started, in seconds."""
    return int(await transaction.scalar(select(_STEPS.c.steps_s)) or 0)


async def note(transaction: Transaction, known_s: int, by_s: int) -> None:
    """Record a step, unless another replica has recorded one since ``known_s`` was read."""
    await transaction.execute(
        update(_STEPS)
        .where(_STEPS.c.steps_s == known_s)
        .values(steps_s=known_s + by_s, seen_at=await transaction.clock())
    )


async def seen(transaction: Transaction, now: datetime) -> None:
    """Store the latest time that the clock showed; only ``note`` may set it back."""
    await transaction.execute(
        update(_STEPS)
        .where(or_(_STEPS.c.seen_at.is_(None), _STEPS.c.seen_at < now))
        .values(seen_at=now)
    )


async def lock(transaction: Transaction) -> None:
    """Have other replicas that begin a sum wait until this transaction ends."""
    await transaction.execute(select(_STEPS.c.id).with_for_update())


async def begin(transaction: Transaction, replica: str, *, again: bool) -> None:
    """Begin a new sum when the first replica starts, after all times have followed the last one.

    If the clock shows less than at the last renewal, it has stepped back while no replica was live.
    If it has advanced by more than the recorded steps back, these may have been undone. ``again``:
    this replica began it before, and the answer was lost; no replica was live before that either.
    """
    row = (await transaction.execute(select(_STEPS))).one()
    now = await transaction.clock()
    away_s = round((now - row.seen_at).total_seconds()) if row.seen_at else UNKNOWN_S
    step_s = away_s if away_s < -CLOCK_STEP_S else 0
    if row.steps_s < 0 and away_s >= -row.steps_s - CLOCK_STEP_S:
        step_s = -row.steps_s
    steps_s = row.steps_s + step_s
    behind = select(partitions.c.name).where(partitions.c.followed_s != steps_s)
    for name in (await transaction.execute(behind)).scalars():
        # A former holder that wakes up must not write a time of before the step.
        await transaction.execute(
            update(partitions)
            .where(partitions.c.name == name)
            .values(holder=replica, epoch=partitions.c.epoch + 1)
        )
        await follow(transaction, name, steps_s)
    await transaction.execute(update(partitions).values(followed_s=0))
    new_away_s = max(0, away_s - step_s) + (row.away_s if again else 0)
    began_at = row.began_at if again and step_s == 0 else now
    await transaction.execute(
        update(_STEPS).values(steps_s=0, began_at=began_at, away_s=new_away_s, seen_at=now)
    )


async def follow(transaction: Transaction, partition: str, steps_s: int) -> None:
    """Move the times of a partition's terminations by the steps they have not followed yet."""
    of_partition = partitions.c.name == partition
    followed_s = await transaction.scalar(select(partitions.c.followed_s).where(of_partition))
    if followed_s == steps_s or followed_s is None:
        return
    await transaction.execute(update(partitions).where(of_partition).values(followed_s=steps_s))
    row = (await transaction.execute(select(_STEPS))).one()
    step = _Step(
        since=row.began_at + timedelta(seconds=followed_s),
        by_s=steps_s - followed_s,
        before_by_s=(
            _part_for_earlier(steps_s, row.away_s) - _part_for_earlier(followed_s, row.away_s)
        ),
    )
    await _move(transaction, partition, step)
    await _plan_for_now(transaction, partition, await transaction.clock())


def _part_for_earlier(steps_s: int, away_s: int) -> int:
    """Return the part of a sum by which times stored before the first replica's start move."""
    return 0 if -away_s - CLOCK_STEP_S <= steps_s < 0 else steps_s


async def _move(transaction: Transaction, partition: str, step: _Step) -> None:
    live = (_T.partition == partition, _T.finished_at.is_(None))
    await _move_documents(transaction, live, step)
    await transaction.execute(
        update(instances)
        .where(instances.c.termination_seq.in_(select(_T.seq).where(*live)))
        .values({column: step.column(column) for column in _INSTANCE_TIMES})
    )
    await transaction.execute(
        update(terminations)
        .where(*live)
        # The history of a drain was recorded by the old time.
        .values({column: step.column(column) for column in _MOVED_TIMES} | {_T.history: None})
    )
    await transaction.execute(
        update(terminations)
        .where(_T.partition == partition, _T.finished_at.is_not(None))
        .where(_T.revival_checked_at.is_not(None))
        .values({column: step.column(column) for column in _WATCH_TIMES})
    )


async def _move_documents(
    transaction: Transaction, live: tuple[ColumnElement[bool], ...], step: _Step
) -> None:
    documents = [_T[name] for name in _DOCUMENT_TIMES]
    known = or_(*(document.is_not(None) for document in documents))
    query = select(_T.seq, *documents).where(*live, known).order_by(_T.seq)
    found = await decoded(transaction.connection, query, partial(_moved_row, step=step))
    # A document that cannot be decoded stays as it is: its termination is set aside.
    if rows := [row for row in found if not isinstance(row, Unreadable)]:
        await transaction.execute(
            update(terminations)
            .where(_T.seq == bindparam("this"))
            .values({name: bindparam(f"its_{name}") for name in _DOCUMENT_TIMES}),
            rows,
        )


def _moved_row(row: Mapping[str, Any], *, step: _Step) -> dict[str, Any]:
    moved = {f"its_{name}": _moved(row[name], name, step) for name in _DOCUMENT_TIMES}
    return {"this": row["seq"], **moved}


def _moved(document: dict[str, Any] | None, name: str, step: _Step) -> dict[str, Any] | None:
    if document is None:
        return None
    times = {key: document[key] for key in _DOCUMENT_TIMES[name] if document.get(key)}
    return document | {key: step.text(time) for key, time in times.items()}


async def _plan_for_now(transaction: Transaction, partition: str, now: datetime) -> None:
    """Plan for now what is planned for later; terminations still wait for their ``not_before``."""
    at = literal(now, UtcDateTime())
    waits = and_(_T.state.in_((State.QUEUED, State.HELD)), _T.not_before > at)
    await transaction.execute(
        update(terminations)
        .where(_T.partition == partition)
        .values(
            {
                column: case(
                    (and_(waits, column.is_not(None)), _T.not_before),
                    # A value that is not a time stays as it is: its termination is set aside.
                    (column.between(at, _LATEST_TIME), at),
                    else_=column,
                )
                for column in _PLANNED_TIMES
            }
        )
    )
