"""How far the jobs of an operation are, as counts by which its end is foretold."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, case, exists, func, literal, or_, select

from orchestrator.domain.clock_steps import elapsed_s
from orchestrator.domain.decisions.forecast_updates import FAILURES_MAX
from orchestrator.domain.forecasting.duration_distribution import bucket, learnt
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.progress.operation_forecast import Progress
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

ENDING_MAX: Final = 32
LONG_S: Final = 128
NEARLY_S: Final = 16
FEW: Final = 10
"""Where fewer of an operation's jobs are down, those of others count as well."""
OTHERS_MAX: Final = 100
LATELY_MIN_S: Final = 60.0
LATELY_SHARE: Final = 0.25
"""The rate is that of the last quarter of the time, or of so many seconds."""


class _Part(StrEnum):
    """What a job is counted among."""

    STOPPED = "stopped"
    TO_CALL = "to call"
    STALLED = "stalled"
    UNKNOWN = "unknown"
    ENDING = "ending"
    DRAINING = "draining"


_T = terminations.c
_DRAINS: Final = _T.state == State.DRAINING
_STALLED: Final = and_(_DRAINS, _T.forecast_stalled_since.is_not(None))
_ENDING: Final = and_(_DRAINS, _T.forecast_p90_at.is_not(None))
_UNFORETOLD: Final = and_(
    _DRAINS, _T.forecast_stalled_since.is_(None), _T.forecast_p90_at.is_(None)
)


def _part(now: datetime) -> ColumnElement[str | None]:
    # As foretelling.nobody_knows has it.
    passed_s = whole_seconds(literal(now, _T.created_at.type), _T.give_up_from)
    late = passed_s >= _T.give_up_after_s
    late_or_unread = or_(late, _T.unconfirmed.is_not(None), _T.failures >= FAILURES_MAX)
    return case(
        # When it was seen down, until it is seen live again.
        (_T.settle_from.is_not(None), _Part.STOPPED),
        (_STALLED, _Part.STALLED),
        (_T.finished_at.is_not(None), None),
        (or_(_T.state == State.HELD, late_or_unread), _Part.UNKNOWN),
        (_T.state.in_((State.QUEUED, State.SENDING)), _Part.TO_CALL),
        (_ENDING, _Part.ENDING),
        (_UNFORETOLD, _Part.DRAINING),
    )


def _since_call_s(until: ColumnElement[datetime]) -> ColumnElement[int]:
    """From the acknowledgement on; nearly, where it is long, or there would be too many groups."""
    exact = whole_seconds(until, _T.acknowledged_at)
    return case((exact < LONG_S, exact), else_=exact - exact % NEARLY_S + NEARLY_S // 2)


_TOOK_S: Final = _since_call_s(_T.settle_from)


async def gather(
    connection: AsyncConnection, operation: OperationRecord, calls_per_s: float, now: datetime
) -> Progress:
    """Count the jobs of an operation that is not finished."""
    age_s = elapsed_s(operation.created_at, now)
    lately_s = LATELY_MIN_S
    if age_s is not None:
        lately_s = min(max(1.0, age_s), max(LATELY_MIN_S, LATELY_SHARE * age_s))
    counted = _of(operation, *_counts(now, now - timedelta(seconds=lately_s)))
    rows = (await connection.execute(counted.group_by("part", "seconds"))).all()
    jobs = Counter[str]()
    for row in rows:
        jobs[row.part] += row.jobs
    stopped = _by_bucket(row for row in rows if row.part == _Part.STOPPED)
    if jobs[_Part.STOPPED] < FEW:
        apart = _apart_from(operation)
        stopped += await _stopped_recently(connection, operation.partition, apart)
    waiting = next((row for row in rows if row.part == _Part.TO_CALL), None)
    calls = await _calls(connection, operation, waiting, now) if waiting else 0
    return Progress(
        to_call=jobs[_Part.TO_CALL],
        last_call_s=calls / calls_per_s,
        begins_at=waiting.not_before if waiting else None,
        stopped=stopped,
        draining=_by_bucket(row for row in rows if row.part == _Part.DRAINING),
        ending=await _ending(connection, operation) if jobs[_Part.ENDING] else (),
        unknown=jobs[_Part.UNKNOWN],
        stalled=jobs[_Part.STALLED],
        last_progress_at=next(
            (row.last_progress_at for row in rows if row.part == _Part.STALLED), None
        ),
        stopped_in_window=sum(row.lately for row in rows),
        lately_s=lately_s,
        **await _windows(connection, operation),
    )


async def _windows(connection: AsyncConnection, operation: OperationRecord) -> dict[str, Any]:
    """The settle windows of its jobs, as ``Progress`` has them."""
    columns = (
        _T.settle_s,
        (_T.state == State.SETTLING).label("settling"),
        func.max(_T.settle_from, type_=_T.settle_from.type).label("settle_from"),
    )
    going_on = _of(operation, *columns).where(_T.finished_at.is_(None))
    rows = (await connection.execute(going_on.group_by(_T.settle_s, "settling"))).all()
    ends = [row.settle_from + timedelta(seconds=row.settle_s) for row in rows if row.settle_from]
    lengths = [row.settle_s for row in rows if not row.settling]
    return {"settle_until": max(ends, default=None), "settle_s": max(lengths, default=None)}


async def others(connection: AsyncConnection, partition: str) -> Durations | None:
    """How long drains of a partition took of late."""
    return learnt(await _stopped_recently(connection, partition), {})


def _apart_from(operation: OperationRecord) -> ColumnElement[bool]:
    link = operation_terminations.alias().c
    return ~exists().where(link.operation_id == operation.id, link.termination_id == _T.id)


def _of(operation: OperationRecord, *columns: Any) -> Select[Any]:
    link = operation_terminations.c
    return (
        select(*columns)
        .join_from(operation_terminations, terminations, link.termination_id == _T.id)
        .where(link.operation_id == operation.id)
    )


def _counts(now: datetime, lately: datetime) -> list[ColumnElement[Any]]:
    age_s = _since_call_s(literal(now, _T.created_at.type))
    return [
        _part(now).label("part"),
        case((_T.settle_from.is_not(None), _TOOK_S), (_UNFORETOLD, age_s)).label("seconds"),
        func.count().label("jobs"),
        func.sum(case((and_(_T.settle_from > lately, _T.settle_from <= now), 1), else_=0)).label(
            "lately"
        ),
        func.max(_T.forecast_stalled_since, type_=_T.forecast_stalled_since.type).label(
            "last_progress_at"
        ),
        func.max(_T.not_before, type_=_T.not_before.type).label("not_before"),
    ]


def _by_bucket(rows: Iterable[Any]) -> Counter[int]:
    counted = Counter[int]()
    for row in rows:
        if row.seconds is not None:  # as of what is no time
            counted[bucket(row.seconds + 0.5)] += row.jobs
    return counted


async def _stopped_recently(
    connection: AsyncConnection, partition: str, *conditions: ColumnElement[bool]
) -> Counter[int]:
    """The last jobs of a partition that were seen down and stayed so."""
    of_late = (
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
    return _by_bucket(await connection.execute(of_late))


async def _calls(
    connection: AsyncConnection, operation: OperationRecord, waiting: Row[Any], now: datetime
) -> int:
    """How many calls are to be made up to that for the last of its jobs that wait for one.

    Operations take turns, so none has more calls until then than this one.  Of jobs that begin
    later, its own alone count: who knows which others will be waiting then.
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
            _apart_from(operation),
        )
        .group_by(link.termination_id)
        .subquery()
    )
    of_each = await connection.scalars(
        select(func.count()).select_from(others).group_by(others.c.operation_id)
    )
    return own + sum(min(own, jobs) for jobs in of_each)


async def _ending(connection: AsyncConnection, operation: OperationRecord) -> list[Forecast]:
    latest = _of(operation, *(column for column in _T if column.name.startswith("forecast_")))
    found = await connection.execute(
        latest.where(_ENDING).order_by(_T.forecast_p90_at.desc()).limit(ENDING_MAX)
    )
    return [forecast_from_row(row) for row in found.mappings()]
