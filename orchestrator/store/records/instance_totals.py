"""Totals of the instances of an operation, in groups of terminations that the domain tallies."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, bindparam, case, func, select

from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.progress.instance_totals import InstanceGroup
from orchestrator.store.schema import operation_terminations, terminations
from orchestrator.store.sql import json_count, json_text

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import ColumnElement, Row, Select
    from sqlalchemy.ext.asyncio import AsyncConnection


async def groups(
    connection: AsyncConnection, operation_ids: Collection[str]
) -> defaultdict[str, list[Row[Any]]]:
    """Read the groups of terminations of each operation; :func:`as_group` converts a row."""
    found: defaultdict[str, list[Row[Any]]] = defaultdict(list)
    for row in await connection.execute(_GROUPS, {"operation_ids": list(operation_ids)}):
        found[row.operation_id].append(row)
    return found


def _if_captured(number: ColumnElement[int]) -> ColumnElement[int | None]:
    """Return a number of a job's capture, or NULL before the capture has ended."""
    capture = terminations.c.capture
    ended = and_(
        json_text(capture, "ended_at").is_not(None), json_text(capture, "problem").is_(None)
    )
    return case((ended, number))


def _groups() -> Select[Any]:
    t = terminations.c
    captured = _if_captured(json_count(t.capture, "occupying") + json_count(t.capture, "waiting"))
    total = case((t.instances_total.is_not(None), t.instances_total), else_=captured)
    live = case((t.instances_total.is_not(None), t.instances_live), else_=captured)
    keys = {
        "state": t.state,
        "evidence": t.evidence,
        "seen": t.observed_at.is_not(None),
        "revived": t.revival.is_not(None),
        "none_live": live == 0,
        "counted": live.is_not(None),
    }
    return (
        select(
            operation_terminations.c.operation_id,
            *(key.label(name) for name, key in keys.items()),
            func.count().label("jobs"),
            func.sum(total).label("total"),
            func.sum(live).label("live"),
            *(
                func.sum(t[name]).label(name)
                for name in ("machines_total", "machines_up", "machines_gone")
            ),
        )
        .join(operation_terminations, operation_terminations.c.termination_id == t.id)
        .where(
            operation_terminations.c.operation_id.in_(bindparam("operation_ids", expanding=True))
        )
        # By label: PostgreSQL does not recognise an expression with parameters as the same one.
        .group_by(operation_terminations.c.operation_id, *keys)
    )


# One row for each group of an operation's terminations.
_GROUPS: Final = _groups()


def as_group(row: Row[Any]) -> InstanceGroup:
    """Convert a row of :func:`groups` to the domain's value."""
    # PostgreSQL sums big integers into a decimal.
    total, live = (None if value is None else int(value) for value in (row.total, row.live))
    return InstanceGroup(
        state=State(row.state),
        evidence=row.evidence,
        seen=bool(row.seen),
        revived=bool(row.revived),
        jobs=row.jobs,
        total=total,
        live=live,
    )
