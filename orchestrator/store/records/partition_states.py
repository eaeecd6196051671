"""Rows of the partitions: which replica holds each or held it last, and its health."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, bindparam, select

from orchestrator.domain.leasing.leases import process_of
from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.store.schema import partitions

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy.ext.asyncio import AsyncConnection


_ALL = select(partitions)
_THESE = _ALL.where(partitions.c.name.in_(bindparam("names", expanding=True)))


async def read_partitions(
    connection: AsyncConnection, names: Collection[str] | None = None
) -> dict[str, Row[Any]]:
    """Read the rows of these partitions, or of all, by name."""
    found = (
        await connection.execute(_ALL)
        if names is None
        else await connection.execute(_THESE, {"names": list(names)})
    )
    return {row.name: row for row in found}


def trouble(partition: Row[Any] | None) -> ErrorDetail | None:
    """Return why the API calls of a partition fail; None if they work."""
    if partition is None or partition.trouble_code is None:
        return None
    return ErrorDetail(
        code=partition.trouble_code,
        message=partition.trouble_message,
        advice=partition.trouble_advice,
    )


def holder(partition: Row[Any] | None) -> str | None:
    """Return the replica that drives a partition, if one does."""
    holder_id = partition and partition.holder
    return process_of(holder_id) if holder_id else None
