"""Who may drive a partition, and for how long it may be believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class FencingToken:
    """The right to write of a partition's holder: stale once the partition has passed on.

    ``epoch`` grows with every change of holder.
    """

    partition: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasePolicy:
    """``duration_s`` after its last renewal a replica counts as dead, by the database's clock.

    It stops calling ``renewal_deadline_s`` after it asked for that renewal, by its own, and asks
    every ``retry_s``.
    """

    duration_s: float = 15.0
    renewal_deadline_s: float = 10.0
    retry_s: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseSnapshot:
    """The leases as a renewal found them, at ``now`` by the database's clock.

    ``candidates``: the partitions that each live replica is configured for.  ``holders`` are live.
    ``next_expiry_s``: when the next of the other replicas counts as dead unless it renews.
    ``steps_s``: the sum of all steps of that clock which replicas have noted, in seconds, and
    ``followed_s``: the part of it by which the times of each partition's rows were moved along.
    """

    now: datetime
    candidates: Mapping[str, Collection[str]]
    holders: Mapping[str, str | None]
    epochs: Mapping[str, int]
    next_expiry_s: float
    steps_s: int
    followed_s: Mapping[str, int]


def process_of(replica: str) -> str:
    """The host and the number of a replica's process: its id without what makes that unique."""
    return replica.rsplit("_", 1)[0]
