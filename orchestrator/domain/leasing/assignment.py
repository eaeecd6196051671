"""Assignment of partitions to replicas: every replica computes it alone, with the same result."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping


def assign_partitions(
    holders: Mapping[str, str | None], candidates: Mapping[str, Collection[str]]
) -> dict[str, str]:
    """Return the replica that should hold each partition.

    ``holders`` names the present holder of each partition, ``candidates`` the partitions that each
    live replica is configured for. A holder that is not live, or not configured for its partition,
    counts as none. The result lacks partitions that no live replica is configured for, and those
    that ``holders`` lacks.

    - The result depends on the names alone, not on the order of the arguments.
    - It is as even as the configurations allow: no replica holds two more than another to which it
      could pass a partition, directly or through replicas that pass on one of theirs.
    - Applied to its own result, it changes nothing.
    - If every replica is configured for every partition, the loads differ by at most one, and the
      number of held partitions that move is minimal. With different configurations, a few more than
      the minimum may move.
    """
    serves = {replica: frozenset(candidates[replica]) for replica in sorted(candidates)}
    able = {p: takers for p in sorted(holders) if (takers := [r for r in serves if p in serves[r]])}
    assignment = _Assignment(able, serves)
    free = []
    for partition, takers in able.items():
        if (holder := holders[partition]) is not None and holder in takers:
            assignment.assign(partition, holder)
        else:
            free.append(partition)
    for partition in free:
        assignment.assign(partition, min(able[partition], key=assignment.load))
    assignment.balance()
    return {partition: r for r in serves for partition in assignment.common[r][r]}


class _Assignment:
    """Partitions by replica, during the computation.

    ``able``: the replicas that are configured for each partition.
    """

    def __init__(self, able: Mapping[str, list[str]], replicas: Collection[str]) -> None:
        self.able = able
        self.common: dict[str, dict[str, dict[str, None]]] = {
            a: {b: {} for b in replicas} for a in replicas
        }
        """``common[a][b]``: partitions that a holds and b is configured for, the latest last.

        ``common[a][a]`` holds all partitions of a.
        """

    def load(self, replica: str) -> int:
        return len(self.common[replica][replica])

    def assign(self, partition: str, taker: str) -> None:
        for replica in self.able[partition]:
            self.common[taker][replica][partition] = None

    def unassign(self, partition: str, giver: str) -> None:
        for replica in self.able[partition]:
            del self.common[giver][replica][partition]

    def balance(self) -> None:
        """Move partitions away from the fullest replicas as long as that evens out the loads."""
        uneven = list(self.common)
        while uneven:
            most = max(map(self.load, uneven))
            giver_of = self.reachable_from(r for r in uneven if self.load(r) == most)
            taker = min(giver_of, key=self.load)
            if most - self.load(taker) <= 1:
                # No later move leaves this group, and none enters it: no member has room.
                uneven = [r for r in uneven if r not in giver_of]
                continue
            while (giver := giver_of[taker]) is not None:
                # Latest first: moving a partition that was free or has moved already costs nothing.
                partition = next(reversed(self.common[giver][taker]))
                self.unassign(partition, giver)
                self.assign(partition, taker)
                taker = giver

    def reachable_from(self, fullest: Iterable[str]) -> dict[str, str | None]:
        """Return the replicas that can get a partition, the nearest first, each with its giver."""
        giver_of: dict[str, str | None] = dict.fromkeys(fullest)
        queue = list(giver_of)
        for giver in queue:
            for taker, partitions in self.common[giver].items():
                if partitions and taker not in giver_of:
                    giver_of[taker] = giver
                    queue.append(taker)
        return giver_of
