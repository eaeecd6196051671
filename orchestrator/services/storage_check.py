"""Check that a request could be stored now."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.services.ports import Records

CHECK_EVERY_S: Final = 1.0


class StorageCheck:
    """Writes to the database at most once a second; concurrent callers share the result."""

    def __init__(self, records: Records, monotonic: Callable[[], float]) -> None:
        self._records = records
        self._monotonic = monotonic
        self._began_at = 0.0
        self._check: asyncio.Task[None] | None = None

    async def __call__(self) -> None:
        """Raise StoreUnavailable if a request could not be stored."""
        check = self._check
        if check is None or (check.done() and self._monotonic() >= self._began_at + CHECK_EVERY_S):
            check = self._check = asyncio.create_task(self._records.ping(), name="storage-check")
            # If every caller was cancelled, asyncio would log the error as never retrieved.
            check.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._began_at = self._monotonic()
        await asyncio.shield(check)
