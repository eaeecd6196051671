"""What looks at a job showed while it drained, thinned to what its forecast needs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

SAMPLES_MAX: Final = 16
STARTS: Final = 3
"""A drain may begin at any of so many first samples: instances that wait fail at once, and machines
take a while before the first of them is destroyed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainHistory:
    """What looks showed since the cloud acknowledged the call; plain numbers, to be stored as JSON.

    ``samples``: (Unix seconds, instances live), the acknowledgement first; each later one has fewer
    live than the one before.  ``seen_at``: the last look (Unix seconds), whatever it showed.
    ``pause_s``: the longest time between two samples ever seen.
    """

    samples: tuple[tuple[float, int], ...]
    seen_at: float
    pause_s: float = 0.0

    @property
    def began_at(self) -> float:
        return self.samples[0][0]

    @property
    def last_progress_at(self) -> float:
        """When a look last showed fewer live; the beginning, if none has."""
        return self.samples[-1][0]

    @property
    def live(self) -> int:
        return self.samples[-1][1]

    @property
    def moved(self) -> bool:
        return len(self.samples) > 1

    @property
    def rate_per_s(self) -> float:
        """Instances that went down a second, over the latter half of the time at least."""
        middle = (self.began_at + self.seen_at) / 2
        since, live = [sample for sample in self.samples if sample[0] <= middle][-1]
        return (live - self.live) / (self.seen_at - since) if self.seen_at > since else 0.0


def begin(at: datetime, live: int) -> DrainHistory:
    """A drain that began ``at`` the acknowledgement with so many instances live.

    Where they were not counted then: those that the first count shows live or FAILED.
    """
    return DrainHistory(samples=((at.timestamp(), live),), seen_at=at.timestamp())


def observe(history: DrainHistory, at: datetime, live: int) -> DrainHistory:
    """The history with one more look; one that is not later than the last changes nothing.

    More live than before: the job was revived, and its history begins anew.
    """
    seen_at = at.timestamp()
    if seen_at <= history.seen_at:
        return history
    if live > history.live:
        return begin(at, live)
    if live == history.live:
        return replace(history, seen_at=seen_at)
    return DrainHistory(
        samples=_thinned((*history.samples, (seen_at, live))),
        seen_at=seen_at,
        pause_s=max(history.pause_s, seen_at - history.last_progress_at),
    )


def _thinned(samples: tuple[tuple[float, int], ...]) -> tuple[tuple[float, int], ...]:
    """Without the sample that tells least beside its neighbours, where there are too many.

    The first ones stay, from which paces are tried, and the last.
    """
    if len(samples) <= SAMPLES_MAX:
        return samples
    whole_s = samples[-1][0] - samples[0][0]

    def loss(index: int) -> float:
        (since, more), (until, fewer) = samples[index - 1], samples[index + 1]
        return math.log((more + 0.5) / (fewer + 0.5)) + (until - since) / whole_s

    least = min(range(STARTS, len(samples) - 1), key=loss)
    return samples[:least] + samples[least + 1 :]
