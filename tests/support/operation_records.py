"""Operations with their jobs counted, as tests read them from the database."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.services.ports import OperationRecord, Records


async def operation_record(records: Records, operation_id: str) -> OperationRecord | None:
    found = await records.operations([operation_id])
    return found[0] if found else None


async def operation_records(
    records: Records, *, finished: bool | None = None
) -> list[OperationRecord]:
    """Return all operations, the newest first."""
    found = await records.find_operations(after=0, limit=999, finished=finished, account=None)
    return await records.operations([each.id for each in found])
