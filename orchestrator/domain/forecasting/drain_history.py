"""Time series of live instances during one drain, thinned to what its forecast needs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

SAMPLES_MAX: Final = 16
STARTS: Final = 3
"""Number of first samples at which a drain may begin.

Waiting instances fail at once, and it takes a while until the first machine is destroyed.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainHistory:
    """Polls since the cloud acknowledged TerminateJob, as plain numbers that are stored as JSON.

    ``samples``: (Unix seconds, live instances), the acknowledgement first; each sample has fewer
    live instances than the one before. ``seen_at``: the last poll (Unix seconds), including polls
    without progress. ``pause_s``: the longest time between two samples so far.
    """

    samples: tuple[tuple[float, int], ...]
    seen_at: float
    pause_s: float = 0.0

    @property
    def began_at(self) -> float:
        return self.samples[0][0]

    @property
    def last_progress_at(self) -> float:
        """Time of the last poll that showed fewer live instances; the beginning, if none has."""
        return self.samples[-1][0]

    @property
    def live(self) -> int:
        return self.samples[-1][1]

    @property
    def moved(self) -> bool:
        return len(self.samples) > 1

    @property
    def rate_per_s(self) -> float:
        """Instances that stopped per second, over at least the second half of the time."""
        middle = (self.began_at + self.seen_at) / 2
        since, live = [sample for sample in self.samples if sample[0] <= middle][-1]
        return (live - self.live) / (self.seen_at - since) if self.seen_at > since else 0.0


def begin(at: datetime, live: int) -> DrainHistory:
    """Return the history of a drain that began ``at`` the acknowledgement.

    ``live``: the live instances at that time. If they were not counted then, pass the instances
    that the first count shows as live or FAILED.
    """
    return DrainHistory(samples=((at.timestamp(), live),), seen_at=at.timestamp())


def observe(history: DrainHistory, at: datetime, live: int) -> DrainHistory:
    """Return the history with one more poll; a poll not later than the last changes nothing.

    If more instances are live than before, the job was revived and a new history begins.
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
    """Return the samples without the one that adds least to its neighbours, if there are too many.

    The first STARTS samples, at which models may start, and the last sample are kept.
    """
    if len(samples) <= SAMPLES_MAX:
        return samples
    whole_s = samples[-1][0] - samples[0][0]

    def loss(index: int) -> float:
        (since, more), (until, fewer) = samples[index - 1], samples[index + 1]
        return math.log((more + 0.5) / (fewer + 0.5)) + (until - since) / whole_s

    least = min(range(STARTS, len(samples) - 1), key=loss)
    return samples[:least] + samples[least + 1 :]
