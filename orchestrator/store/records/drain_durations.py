"""Durations of drains in SQL, and those of the last jobs of a partition that were verified."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from sqlalchemy import and_, case, select, union_all

from orchestrator.domain.forecasting.duration_distribution import bucket, estimate
from orchestrator.domain.model.lifecycle import State
from orchestrator.store.chunks import chunks
from orchestrator.store.schema import operation_terminations, terminations
from orchestrator.store.sql import NOW, whole_seconds

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from datetime import datetime
    from typing import Any

    from sqlalchemy import ColumnElement, Select
    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.domain.forecasting.duration_distribution import Durations
    from orchestrator.services.ports import OperationRecord

LONG_S, ROUNDED_TO_S = 128, 16
"""Durations from LONG_S on are rounded, since each one makes a group of its own."""
FEW: Final = 10
"""If fewer jobs of an operation have stopped, jobs of other operations count as well."""
OTHERS_MAX: Final = 100

_T = terminations.c


def seconds_since(time: ColumnElement[datetime]) -> ColumnElement[int]:
    """Return the whole seconds until the parameter ``now``."""
    return whole_seconds(NOW, time)


def since_call_s(until: ColumnElement[datetime]) -> ColumnElement[int]:
    """Return the seconds since the acknowledgement, rounded if long."""
    exact = whole_seconds(until, _T.acknowledged_at)
    return case((exact < LONG_S, exact), else_=exact - exact % ROUNDED_TO_S + ROUNDED_TO_S // 2)


TOOK_S: Final = since_call_s(_T.settle_from)


def bucket_of(whole_s: int) -> int:
    return bucket(whole_s + 0.5)


async def past_durations(
    connection: AsyncConnection, partition: str, now: datetime
) -> Durations | None:
    """Return the distribution of the durations of a partition's recent drains."""
    recent = await _recent_drains(connection, [partition], (), now)
    return estimate(_by_bucket(recent[partition][:OTHERS_MAX]), {})


@dataclass(frozen=True, slots=True)
class _Drain:
    """A drain that has ended: how long it took, and which operations of the page wanted it."""

    seconds: int
    operation_ids: set[str | None]


def _by_bucket(drains: Iterable[_Drain]) -> Counter[int]:
    return Counter(bucket_of(drain.seconds) for drain in drains)


async def durations_of_others(
    connection: AsyncConnection, few: Collection[OperationRecord], now: datetime
) -> defaultdict[str, Counter[int]]:
    """Count the last drains of the partition of each of these operations, without its own."""
    found: defaultdict[str, Counter[int]] = defaultdict(Counter)
    partitions, ids = {each.partition for each in few}, [each.id for each in few]
    recent = await _recent_drains(connection, sorted(partitions), ids, now)
    for operation in few:
        others = (
            drain
            for drain in recent[operation.partition]
            if operation.id not in drain.operation_ids
        )
        found[operation.id] = _by_bucket(islice(others, OTHERS_MAX))
    return found


async def _recent_drains(
    connection: AsyncConnection, partitions: Sequence[str], ids: Collection[str], now: datetime
) -> defaultdict[str, list[_Drain]]:
    """Return the last verified jobs of each partition, the newest first, with those of ``ids``.

    They are enough to find OTHERS_MAX that an operation with few stopped jobs did not want.
    """
    found: defaultdict[str, dict[str, _Drain]] = defaultdict(dict)
    link = operation_terminations.alias().c
    for part in chunks(partitions):
        newest = union_all(*map(_newest_drains, part)).subquery().c
        rows = await connection.execute(
            select(*newest, link.operation_id)
            .join_from(
                newest.id.table,
                link.operation_id.table,
                and_(link.termination_id == newest.id, link.operation_id.in_(ids)),
                isouter=True,
            )
            .where(newest.seconds.is_not(None))  # NULL if a stored time is not a time
            .order_by(newest.ended_s),
            {"now": now},
        )
        for row in rows:
            drain = found[row.partition].setdefault(row.id, _Drain(row.seconds, set()))
            drain.operation_ids.add(row.operation_id)
    lists: defaultdict[str, list[_Drain]] = defaultdict(list)
    return lists | {partition: list(drains.values()) for partition, drains in found.items()}


def _newest_drains(partition: str) -> Select[Any]:
    newest = (
        select(
            _T.id,
            _T.partition,
            TOOK_S.label("seconds"),
            seconds_since(_T.instances_observed_at).label("ended_s"),
        )
        .where(
            _T.partition == partition,
            _T.state == State.VERIFIED,
            _T.instances_observed_at.is_not(None),
            _T.settle_from.is_not(None),
        )
        .order_by(_T.instances_observed_at.desc())
        .limit(OTHERS_MAX + FEW)
    )
    return select(newest.subquery())
