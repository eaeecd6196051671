"""Which replica should hold which partition: each works it out alone, and all come to the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping


def share(
    holders: Mapping[str, str | None], candidates: Mapping[str, Collection[str]]
) -> dict[str, str]:
    """Who should hold each partition, from who holds it now and what each live replica serves.

    A holder that is not live, or not configured for its partition, counts as none.  A partition
    that no live replica is configured for is left out, and so is one that ``holders`` lacks.

    - The answer depends on the names alone, not on the order in which anything is given.
    - It is as even as the configurations allow: no replica holds two more than another to which
      it could pass a partition, be it through others that pass on one of theirs.
    - Applied to its own answer it changes nothing.
    - Where every replica serves every partition, the loads differ by one at most, and no fewer
      held partitions could move to get there.  Where configurations differ, it may move a few
      more than the fewest.
    """
    serves = {replica: frozenset(candidates[replica]) for replica in sorted(candidates)}
    able = {p: takers for p in sorted(holders) if (takers := [r for r in serves if p in serves[r]])}
    loads = _Loads(able, serves)
    free = []
    for partition, takers in able.items():
        if (holder := holders[partition]) is not None and holder in takers:
            loads.give(partition, holder)
        else:
            free.append(partition)
    for partition in free:
        loads.give(partition, min(able[partition], key=loads.of))
    loads.level()
    return {partition: r for r in serves for partition in loads.common[r][r]}


class _Loads:
    def __init__(self, able: Mapping[str, list[str]], replicas: Collection[str]) -> None:
        self.able = able
        # common[a][b]: what a holds and b serves too, the latest last.  common[a][a]: all a holds.
        self.common: dict[str, dict[str, dict[str, None]]] = {
            a: {b: {} for b in replicas} for a in replicas
        }

    def of(self, replica: str) -> int:
        return len(self.common[replica][replica])

    def give(self, partition: str, taker: str) -> None:
        for replica in self.able[partition]:
            self.common[taker][replica][partition] = None

    def take(self, partition: str, giver: str) -> None:
        for replica in self.able[partition]:
            del self.common[giver][replica][partition]

    def level(self) -> None:
        """Let the fullest pass partitions on while that makes it more even."""
        uneven = list(self.common)
        while uneven:
            most = max(map(self.of, uneven))
            giver_of = self.reached_from(r for r in uneven if self.of(r) == most)
            taker = min(giver_of, key=self.of)
            if most - self.of(taker) <= 1:
                # No later move leads out of here, and none ends here, where nobody has room.
                uneven = [r for r in uneven if r not in giver_of]
                continue
            while (giver := giver_of[taker]) is not None:
                # The latest first: a partition that was free or has moved already costs nothing.
                partition = next(reversed(self.common[giver][taker]))
                self.take(partition, giver)
                self.give(partition, taker)
                taker = giver

    def reached_from(self, fullest: Iterable[str]) -> dict[str, str | None]:
        """Who can get a partition, the nearest first, and who would pass it one."""
        giver_of: dict[str, str | None] = dict.fromkeys(fullest)
        queue = list(giver_of)
        for giver in queue:
            for taker, partitions in self.common[giver].items():
                if partitions and taker not in giver_of:
                    giver_of[taker] = giver
                    queue.append(taker)
        return giver_of
