"""Certification: issue the certificate of an operation."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from orchestrator import __version__
from orchestrator.domain.audit.certificate import (
    ATTEMPT,
    OPERATION,
    Certificate,
    certificate,
    entry,
)
from orchestrator.domain.audit.hash_chain import CONTENT
from orchestrator.domain.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from orchestrator.services.ports import Histories, OperationHistory

EVENT: Final = (*CONTENT, "hash")


@dataclass(frozen=True, slots=True, kw_only=True)
class Certification:
    """Use case: issue a certificate."""

    histories: Histories
    now: Callable[[], datetime]
    one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)
    """A large certificate takes seconds, much memory, and one of the few reading connections."""

    async def issue(self, operation_id: str) -> Certificate:
        """Return the certificate of the present state; raises NotFound, StoreUnavailable."""
        async with self.one_at_a_time, self.histories.history(operation_id) as history:
            if history is None:
                raise NotFound(f"no operation {operation_id}; GET /v1/operations lists them")
            return await self._certificate(history)

    async def _certificate(self, history: OperationHistory) -> Certificate:
        entries = [
            entry(each.termination, _values(each.attempts, ATTEMPT), _values(each.events, EVENT))
            async for page in history.terminations
            for each in page
        ]
        (operation,) = _values([history], set(OPERATION) - {"state"})
        return certificate(
            operation | {"state": "finished" if history.finished_at else "running"},
            _values(history.events, EVENT),
            entries,
            issued_at=self.now(),
            issued_by=f"orchestrator {__version__}",
        )


def _values(records: Iterable[object], names: Iterable[str]) -> list[dict[str, object]]:
    return [{name: getattr(record, name) for name in names} for record in records]
