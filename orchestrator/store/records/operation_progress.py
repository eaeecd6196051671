"""Progress of an operation: counts of its jobs, from which its end is forecast."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, bindparam, case, func, or_, select

from orchestrator.domain.clock_steps import elapsed_s
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.progress.operation_forecast import Progress
from orchestrator.domain.progress.termination_forecast import FAILURES_MAX
from orchestrator.store.mapping.termination_rows import forecast_from_row
from orchestrator.store.records.call_queue import calls_until_last
from orchestrator.store.records.drain_durations import (
    FEW,
    TOOK_S,
    bucket_of,
    durations_of_others,
    seconds_since,
    since_call_s,
)
from orchestrator.store.schema import operation_terminations, operations, terminations
from orchestrator.store.sql import NOW

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import Row, Select
    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.domain.forecasting.forecast import Forecast
    from orchestrator.services.ports import OperationRecord

ENDING_MAX: Final = 128
WINDOW_MIN_S: Final = 60.0
WINDOW_SHARE: Final = 0.25
"""The rate is measured over this share of the operation's age, or over WINDOW_MIN_S if longer."""


class _ProgressBucket(StrEnum):
    """The part of the progress that a job counts for."""

    STOPPED = "stopped"
    TO_CALL = "to call"
    STALLED = "stalled"
    UNKNOWN = "unknown"
    DRAINING = "draining"


_T = terminations.c
# Draining jobs: all, stalled, not stalled, and those of the latter with a forecast of their end.
_DRAINING: Final = _T.state == State.DRAINING
_STALLED: Final = and_(_DRAINING, _T.forecast_stalled_since.is_not(None))
_MOVING: Final = and_(_DRAINING, _T.forecast_stalled_since.is_(None))
_ENDING: Final = and_(_MOVING, _T.forecast_p90_at.is_not(None))


# Late or unread: the rule of termination_forecast.nobody_knows.
_LATE_OR_UNREAD: Final = or_(
    seconds_since(_T.give_up_from) >= _T.give_up_after_s,
    _T.unconfirmed.is_not(None),
    _T.failures >= FAILURES_MAX,
)
_BUCKET: Final = case(
    # From the first observation as stopped until an instance is live again.
    (_T.settle_from.is_not(None), _ProgressBucket.STOPPED),
    (_STALLED, _ProgressBucket.STALLED),
    (_T.finished_at.is_not(None), None),
    (or_(_T.state == State.HELD, _LATE_OR_UNREAD), _ProgressBucket.UNKNOWN),
    (_T.state.in_((State.QUEUED, State.SENDING)), _ProgressBucket.TO_CALL),
    (_MOVING, _ProgressBucket.DRAINING),
)
_AGE_S: Final = since_call_s(NOW)


@dataclass(slots=True)
class _Counted:
    """What the rows of one operation add up to."""

    jobs: Counter[str] = field(default_factory=Counter)
    stopped: Counter[int] = field(default_factory=Counter)
    draining: Counter[int] = field(default_factory=Counter)
    stopped_in_window: int = 0
    not_before: datetime | None = None
    last_progress_at: datetime | None = None
    settle_until: datetime | None = None
    settle_s: float | None = None

    def add(self, row: Row[Any]) -> None:
        self.jobs[row.part] += row.jobs
        self.stopped_in_window += row.in_window
        if row.seconds is not None:  # NULL if a stored time is not a time
            durations = {
                _ProgressBucket.STOPPED: self.stopped,
                _ProgressBucket.DRAINING: self.draining,
            }
            if row.part in durations:
                durations[row.part][bucket_of(row.seconds)] += row.jobs
        if row.part == _ProgressBucket.TO_CALL:
            self.not_before = _latest(self.not_before, row.not_before)
        if row.part == _ProgressBucket.STALLED:
            self.last_progress_at = _latest(self.last_progress_at, row.last_progress_at)
        if row.unfinished and row.settle_from is not None:
            ends_at = row.settle_from + timedelta(seconds=row.settle_s)
            self.settle_until = _latest(self.settle_until, ends_at)
        if row.unfinished and not row.settling:
            self.settle_s = max(self.settle_s or 0.0, row.settle_s)

    @property
    def pending(self) -> int:
        return self.jobs[_ProgressBucket.TO_CALL]


async def count_progress(
    connection: AsyncConnection, operations: Sequence[tuple[OperationRecord, float]], now: datetime
) -> dict[str, Progress]:
    """Count the jobs of unfinished operations of one page, by id, with at most five queries.

    Each operation comes with the number of calls a second that the cloud accepts.
    """
    counted = await _counted(connection, [operation.id for operation, _ in operations], now)
    few = [
        operation
        for operation, _ in operations
        if counted[operation.id].jobs[_ProgressBucket.STOPPED] < FEW
    ]
    recent = await durations_of_others(connection, few, now)
    pending = {id_: each.pending for id_, each in counted.items() if each.pending}
    # If its calls begin later, only its own count: it is not known which other jobs wait then.
    begun = {id_: jobs for id_, jobs in pending.items() if (counted[id_].not_before or now) <= now}
    by_id = {operation.id: operation for operation, _ in operations}
    calls = pending | await calls_until_last(connection, by_id, begun, now)
    drains = [id_ for id_, each in counted.items() if each.draining]
    ending = await _ending(connection, drains, now)
    return {
        operation.id: Progress(
            pending=each.pending,
            last_dispatch_s=calls.get(operation.id, 0) / calls_per_s,
            begins_at=each.not_before,
            stopped=each.stopped + recent[operation.id],
            draining=each.draining,
            ending=ending[operation.id],
            unknown=each.jobs[_ProgressBucket.UNKNOWN],
            stalled=each.jobs[_ProgressBucket.STALLED],
            last_progress_at=each.last_progress_at,
            stopped_in_window=each.stopped_in_window,
            window_s=_window_s(operation, now),
            settle_until=each.settle_until,
            settle_s=each.settle_s,
        )
        for operation, calls_per_s in operations
        for each in [counted[operation.id]]
    }


def _latest(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((at for at in (one, other) if at is not None), default=None)


def _window_s(operation: OperationRecord, now: datetime) -> float:
    """Return the seconds over which the rate of an operation is measured."""
    age_s = elapsed_s(operation.created_at, now)
    if age_s is None:
        return WINDOW_MIN_S
    return min(max(1.0, int(age_s)), max(WINDOW_MIN_S, WINDOW_SHARE * int(age_s)))


async def _counted(
    connection: AsyncConnection, ids: Sequence[str], now: datetime
) -> dict[str, _Counted]:
    found = {id_: _Counted() for id_ in ids}
    for row in await connection.execute(_COUNTS, {"ids": ids, "now": now}):
        found[row.operation_id].add(row)
    return found


def _of_operations(*columns: Any) -> Select[Any]:
    link = operation_terminations.c
    return (
        select(link.operation_id, *columns)
        .join_from(operation_terminations, terminations, link.termination_id == _T.id)
        .where(link.operation_id.in_(bindparam("ids", expanding=True)))
    )


def _counts() -> Select[Any]:
    operation_id, created_at = operation_terminations.c.operation_id, operations.c.created_at
    age_s = seconds_since(created_at)
    window_s = case(  # as _window_s
        (age_s < 0, WINDOW_MIN_S),
        (age_s < 1, 1.0),
        (age_s <= WINDOW_MIN_S, age_s),
        (age_s * WINDOW_SHARE <= WINDOW_MIN_S, WINDOW_MIN_S),
        else_=age_s * WINDOW_SHARE,
    )
    in_window = and_(_T.settle_from <= NOW, seconds_since(_T.settle_from) < window_s)
    counts = _of_operations(
        _BUCKET.label("part"),
        case((_T.settle_from.is_not(None), TOOK_S), (_MOVING, _AGE_S)).label("seconds"),
        _T.settle_s,
        (_T.state == State.SETTLING).label("settling"),
        _T.finished_at.is_(None).label("unfinished"),
        func.count().label("jobs"),
        func.sum(case((in_window, 1), else_=0)).label("in_window"),
        *(
            func.max(column, type_=column.type).label(name)
            for name, column in (
                ("settle_from", _T.settle_from),
                ("last_progress_at", _T.forecast_stalled_since),
                ("not_before", _T.not_before),
            )
        ),
    )
    return counts.join(operations, operations.c.id == operation_id).group_by(
        operation_id, "part", "seconds", _T.settle_s, "settling", "unfinished"
    )


def _latest_endings() -> Select[Any]:
    rank = func.row_number().over(
        partition_by=operation_terminations.c.operation_id, order_by=_T.forecast_p90_at.desc()
    )
    columns = (column for column in _T if column.name.startswith("forecast_"))
    ranked = (
        _of_operations(_AGE_S.label("seconds"), rank.label("rank"), *columns)
        .where(_ENDING)
        .subquery()
    )
    return select(ranked).where(ranked.c.rank <= ENDING_MAX)


_COUNTS: Final = _counts()
_LATEST_ENDINGS: Final = _latest_endings()


async def _ending(
    connection: AsyncConnection, ids: Collection[str], now: datetime
) -> defaultdict[str, list[tuple[int, Forecast]]]:
    """Return the forecasts of draining jobs, for each operation those with the latest p90."""
    found: defaultdict[str, list[tuple[int, Forecast]]] = defaultdict(list)
    if not ids:
        return found
    parameters = {"ids": list(ids), "now": now}
    for row in (await connection.execute(_LATEST_ENDINGS, parameters)).mappings():
        if row["seconds"] is not None:  # NULL if a stored time is not a time
            found[row["operation_id"]].append(
                (bucket_of(row["seconds"]), forecast_from_row(dict(row)))
            )
    return found
