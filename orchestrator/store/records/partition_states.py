"""Rows of the partitions that were ever held: who holds each, and its health."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, select

from orchestrator.domain.leasing.leases import process_of
from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.store.schema import partitions

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection


async def read_partitions(connection: AsyncConnection) -> dict[str, Row[Any]]:
    """Read the row of each partition by name."""
    return {row.name: row for row in await connection.execute(select(partitions))}


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
