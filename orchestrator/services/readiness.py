"""Readiness: whether requests can be stored and jobs terminated, and what degrades it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from orchestrator.services.partitions import Partitions
    from orchestrator.services.ports import Records, Unconfigured

SET_ASIDE_SHOWN: Final = 10


class Engine(Protocol):
    """The engine of this replica."""

    def require_driving(self) -> None:
        """Raise NotDriving if it cannot work on any of its partitions."""

    def failing(self) -> Mapping[str, str]:
        """Return for each running partition whose loops fail repeatedly which ones, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Use case: report the readiness of this replica.

    ``check_storage``: raises StoreUnavailable if a request could not be stored.
    """

    records: Records
    unconfigured: Unconfigured
    partitions: Partitions
    engine: Engine
    check_storage: Callable[[], Awaitable[None]]

    async def report(self) -> dict[str, object]:
        """Return the body of ``GET /readyz``; raise StoreUnavailable or NotDriving.

        It is ``degraded`` while API calls or loops of a partition fail, a row is set aside, or
        terminations wait for a partition that no replica is configured for.
        """
        await self.check_storage()
        self.engine.require_driving()
        troubles = {each.place: each.message for each in await self.unconfigured.waiting()}
        troubles |= self.engine.failing()
        for partition, (code, holder) in (await self.records.troubles()).items():
            other = self.partitions.other_replica(partition, holder)
            troubles[partition] = f"{code}, at replica {other}" if other else code
        count, ids = await self.records.set_aside(SET_ASIDE_SHOWN)
        return {
            "status": "degraded" if troubles or count else "ready",
            "troubles": troubles,
            "set_aside": {"terminations": count, "ids": ids},
        }
