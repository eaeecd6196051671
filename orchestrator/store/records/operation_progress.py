"""Progress of an operation: counts of its jobs, from which its end is forecast."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, case, exists, func, literal, or_, select

from orchestrator.domain.clock_steps import elapsed_s
from orchestrator.domain.forecasting.duration_distribution import bucket, estimate
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.progress.operation_forecast import Progress
from orchestrator.domain.progress.termination_forecast import FAILURES_MAX
from orchestrator.store.mapping.termination_rows import forecast_from_row
from orchestrator.store.schema import operation_terminations, terminations
from orchestrator.store.sql import whole_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import ColumnElement, Row, Select
    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.domain.forecasting.duration_distribution import Durations
    from orchestrator.domain.forecasting.forecast import Forecast
    from orchestrator.services.ports import OperationRecord

ENDING_MAX: Final = 128
LONG_S, ROUNDED_TO_S = 128, 16
"""Durations from LONG_S on are rounded, since each one makes a group of its own."""
FEW: Final = 10
"""If fewer jobs of an operation have stopped, jobs of other operations count as well."""
OTHERS_MAX: Final = 100
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
_ENDING: Final = and_(_DRAINING, _T.forecast_p90_at.is_not(None))


def _progress_bucket(now: datetime) -> ColumnElement[str | None]:
    # Late or unread: the rule of termination_forecast.nobody_knows.
    passed_s = whole_seconds(literal(now, _T.created_at.type), _T.give_up_from)
    late = passed_s >= _T.give_up_after_s
    late_or_unread = or_(late, _T.unconfirmed.is_not(None), _T.failures >= FAILURES_MAX)
    return case(
        # From the first observation as stopped until an instance is live again.
        (_T.settle_from.is_not(None), _ProgressBucket.STOPPED),
        (_STALLED, _ProgressBucket.STALLED),
        (_T.finished_at.is_not(None), None),
        (or_(_T.state == State.HELD, late_or_unread), _ProgressBucket.UNKNOWN),
        (_T.state.in_((State.QUEUED, State.SENDING)), _ProgressBucket.TO_CALL),
        (_MOVING, _ProgressBucket.DRAINING),
    )


def _since_call_s(until: ColumnElement[datetime]) -> ColumnElement[int]:
    """Return the seconds since the acknowledgement, rounded if long."""
    exact = whole_seconds(until, _T.acknowledged_at)
    return case((exact < LONG_S, exact), else_=exact - exact % ROUNDED_TO_S + ROUNDED_TO_S // 2)


_TOOK_S: Final = _since_call_s(_T.settle_from)


def _age_s(now: datetime) -> ColumnElement[int]:
    return _since_call_s(literal(now, _T.created_at.type))


async def count_progress(
    connection: AsyncConnection, operation: OperationRecord, calls_per_s: float, now: datetime
) -> Progress:
    """Count the jobs of an unfinished operation; the cloud accepts ``calls_per_s`` calls."""
    age_s = elapsed_s(operation.created_at, now)
    window_s = WINDOW_MIN_S
    if age_s is not None:
        window_s = min(max(1.0, age_s), max(WINDOW_MIN_S, WINDOW_SHARE * age_s))
    counted = _of(operation, *_counts(now, now - timedelta(seconds=window_s)))
    rows = (await connection.execute(counted.group_by("part", "seconds"))).all()
    jobs = Counter[str]()
    for row in rows:
        jobs[row.part] += row.jobs
    stopped = _by_duration(row for row in rows if row.part == _ProgressBucket.STOPPED)
    if jobs[_ProgressBucket.STOPPED] < FEW:
        stopped += await _recent_durations(connection, operation.partition, _not_in(operation))
    waiting = next((row for row in rows if row.part == _ProgressBucket.TO_CALL), None)
    calls = await _calls_until_last(connection, operation, waiting, now) if waiting else 0
    return Progress(
        pending=jobs[_ProgressBucket.TO_CALL],
        last_dispatch_s=calls / calls_per_s,
        begins_at=waiting.not_before if waiting else None,
        stopped=stopped,
        draining=_by_duration(row for row in rows if row.part == _ProgressBucket.DRAINING),
        ending=await _ending(connection, operation, now) if jobs[_ProgressBucket.DRAINING] else (),
        unknown=jobs[_ProgressBucket.UNKNOWN],
        stalled=jobs[_ProgressBucket.STALLED],
        last_progress_at=next(
            (row.last_progress_at for row in rows if row.part == _ProgressBucket.STALLED), None
        ),
        stopped_in_window=sum(row.in_window for row in rows),
        window_s=window_s,
        **await _windows(connection, operation),
    )


async def _windows(connection: AsyncConnection, operation: OperationRecord) -> dict[str, Any]:
    """Return the fields of ``Progress`` about the settle windows of the operation's jobs."""
    columns = (
        _T.settle_s,
        (_T.state == State.SETTLING).label("settling"),
        func.max(_T.settle_from, type_=_T.settle_from.type).label("settle_from"),
    )
    unfinished = _of(operation, *columns).where(_T.finished_at.is_(None))
    rows = (await connection.execute(unfinished.group_by(_T.settle_s, "settling"))).all()
    ends = [row.settle_from + timedelta(seconds=row.settle_s) for row in rows if row.settle_from]
    lengths = [row.settle_s for row in rows if not row.settling]
    return {"settle_until": max(ends, default=None), "settle_s": max(lengths, default=None)}


async def past_durations(connection: AsyncConnection, partition: str) -> Durations | None:
    """Return the distribution of the durations of a partition's recent drains."""
    return estimate(await _recent_durations(connection, partition), {})


def _not_in(operation: OperationRecord) -> ColumnElement[bool]:
    link = operation_terminations.alias().c
    return ~exists().where(link.operation_id == operation.id, link.termination_id == _T.id)


def _of(operation: OperationRecord, *columns: Any) -> Select[Any]:
    link = operation_terminations.c
    return (
        select(*columns)
        .join_from(operation_terminations, terminations, link.termination_id == _T.id)
        .where(link.operation_id == operation.id)
    )


def _counts(now: datetime, window_begin: datetime) -> list[ColumnElement[Any]]:
    return [
        _progress_bucket(now).label("part"),
        case((_T.settle_from.is_not(None), _TOOK_S), (_MOVING, _age_s(now))).label("seconds"),
        func.count().label("jobs"),
        func.sum(
            case((and_(_T.settle_from > window_begin, _T.settle_from <= now), 1), else_=0)
        ).label("in_window"),
        func.max(_T.forecast_stalled_since, type_=_T.forecast_stalled_since.type).label(
            "last_progress_at"
        ),
        func.max(_T.not_before, type_=_T.not_before.type).label("not_before"),
    ]


def _by_duration(rows: Iterable[Any]) -> Counter[int]:
    counted = Counter[int]()
    for row in rows:
        if row.seconds is not None:  # NULL if a stored time is not a time
            counted[_bucket(row.seconds)] += row.jobs
    return counted


def _bucket(whole_s: int) -> int:
    return bucket(whole_s + 0.5)


async def _recent_durations(
    connection: AsyncConnection, partition: str, *conditions: ColumnElement[bool]
) -> Counter[int]:
    """Count the last jobs of a partition that are verified, by their duration."""
    verified = (
        select(_TOOK_S.label("seconds"), literal(1).label("jobs"))
        .where(
            _T.partition == partition,
            _T.state == State.VERIFIED,
            _T.instances_observed_at.is_not(None),
            _T.settle_from.is_not(None),
            *conditions,
        )
        .order_by(_T.instances_observed_at.desc())
        .limit(OTHERS_MAX)
    )
    return _by_duration(await connection.execute(verified))


async def _calls_until_last(
    connection: AsyncConnection, operation: OperationRecord, waiting: Row[Any], now: datetime
) -> int:
    """Return the number of TerminateJob calls up to that for the operation's last waiting job.

    Operations take turns, so no other operation has more calls until then than this one. If its
    calls begin later than now, only its own are counted: it is not known which other jobs will wait
    at that time.
    """
    own = int(waiting.jobs)
    if waiting.not_before is not None and waiting.not_before > now:
        return own
    link = operation_terminations.c
    others = (
        select(func.min(link.operation_id).label("operation_id"))
        .join(terminations, link.termination_id == _T.id)
        .where(
            _T.partition == operation.partition,
            _T.state == State.QUEUED,
            or_(_T.not_before.is_(None), _T.not_before <= now),
            _not_in(operation),
        )
        .group_by(link.termination_id)
        .subquery()
    )
    of_each = await connection.scalars(
        select(func.count()).select_from(others).group_by(others.c.operation_id)
    )
    return own + sum(min(own, jobs) for jobs in of_each)


async def _ending(
    connection: AsyncConnection, operation: OperationRecord, now: datetime
) -> list[tuple[int, Forecast]]:
    columns = (column for column in _T if column.name.startswith("forecast_"))
    latest = _of(operation, _age_s(now).label("seconds"), *columns)
    found = await connection.execute(
        latest.where(_ENDING).order_by(_T.forecast_p90_at.desc()).limit(ENDING_MAX)
    )
    return [
        (_bucket(row["seconds"]), forecast_from_row(row))
        for row in found.mappings()
        if row["seconds"] is not None
    ]
