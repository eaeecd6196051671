"""The partitions as this replica knows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.domain.pacing.quota import Rate

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


@dataclass(frozen=True, slots=True)
class Partitions:
    """Configured partitions, and those that this replica drives at the moment.

    ``configured_per_s``: calls of TerminateJob a second that each is configured for, by name.
    ``running``: names of those that this replica drives.
    """

    configured_per_s: Mapping[str, int]
    running: Collection[str]

    def rate(self, partition: str, allowed_per_s: float | None) -> Rate | None:
        """Return its TerminateJob rate; None if this replica is not configured for it.

        ``allowed_per_s``: calls a second that the cloud accepts; None: as many as are configured.
        """
        configured = self.configured_per_s.get(partition)
        if configured is None:
            return None
        return Rate(configured, min(allowed_per_s or configured, configured))

    def other_replica(self, partition: str, holder: str | None) -> str | None:
        """Return the replica that holds its lease, or held it last, if it is not this one."""
        return None if partition in self.running else holder
