"""Values of leases: fencing token, durations, and the snapshot of a renewal.

``engine.replica.lease_manager`` renews the leases. ``engine.lease_guard`` and ``RateLimiter`` keep
a former holder from sending, ``store.partition.fenced_writes`` keeps it from writing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class FencingToken:
    """Write permission of a partition's holder; stale once the partition has a newer epoch.

    ``epoch`` grows with every change of holder.
    """

    partition: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasePolicy:
    """Lease durations, in seconds.

    ``duration_s``: a replica counts as dead this long after its last renewal, by the database's
    clock. ``renewal_deadline_s``: it stops sending this long after it asked for that renewal, by
    its own clock. ``retry_s``: it asks for a renewal at this interval.
    """

    duration_s: float = 15.0
    renewal_deadline_s: float = 10.0
    retry_s: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseSnapshot:
    """All leases as read by a renewal, at ``now`` by the database's clock.

    ``candidates``: the partitions that each live replica is configured for.
    ``holders``: the live replica that holds each partition, or None.
    ``epochs``: the present epoch of each partition.
    ``next_expiry_s``: seconds until the next other replica counts as dead, unless it renews.
    ``steps_s``: the sum of all steps of the database's clock that replicas have recorded, in
    seconds.
    ``followed_s``: the part of ``steps_s`` by which each partition's stored times were moved.
    """

    now: datetime
    candidates: Mapping[str, Collection[str]]
    holders: Mapping[str, str | None]
    epochs: Mapping[str, int]
    next_expiry_s: float
    steps_s: int
    followed_s: Mapping[str, int]


def process_of(replica: str) -> str:
    """Return the host and process id of a replica: its id without the unique suffix."""
    return replica.rsplit("_", 1)[0]
