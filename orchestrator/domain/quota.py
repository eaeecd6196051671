"""When a call may leave: the pacing rule, with time passed in.

The cloud counts calls per (action, host called, sub-account) in one-second windows at its clock,
by arrival (cloud.tencent.com/document/product/1278/109059).  N permits an action, and a call gives
its permit back one second after its answer, less what the way back of one call and the way there of
the next take together at least: two arrivals on one permit are then at least a second apart, so
that no second holds more than N.  That time is the shortest round trip of late, less as much as the
others were longer on average: with few seen, or uneven ones, the shortest possible may be shorter.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass
from typing import Final

WINDOW_S: Final = 1.0
TRUSTED_SHARE: Final = 0.95
"""How much of the shortest round trip, and of the even spacing, is relied on."""
ROUND_TRIPS_KEPT: Final = 128
ROUND_TRIPS_NEEDED: Final = 8
LESS_AFTER_THROTTLE: Final = 0.75
CALM_S: Final = 10.0
"""Time without a throttled call after which some permits come back."""
PAUSE_MAX_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to send one call at ``send_at`` (monotonic seconds) or later."""

    send_at: float


@dataclass(frozen=True, slots=True)
class Rate:
    """Calls a second: those configured, and those allowed while the cloud refuses more."""

    configured_per_s: int
    allowed_per_s: int


class Quota:
    """The permits of one action on one host; every time is monotonic seconds.

    All permits count as spent at first: nobody knows what was sent in the second before.  With
    ``spread``, calls leave evenly, so that an urgent one never waits behind a burst.
    """

    def __init__(self, rate_per_s: int, *, now: float, spread: bool) -> None:
        self.rate_per_s = rate_per_s
        self._spread = spread
        self.allowed = rate_per_s
        """Permits in use; fewer than the rate after throttling."""
        self._free_at = [now + WINDOW_S] * rate_per_s
        self._out = 0
        self._next_send_at = now + WINDOW_S
        self._round_trips_s: deque[float] = deque(maxlen=ROUND_TRIPS_KEPT)
        self._learned_at = now
        self._pause_s = 0.0

    def ready_at(self, now: float) -> float:
        """When the next call may leave; infinite while every permit is out."""
        self._recover(now)
        if not self._free_at:
            return math.inf
        return max(self._free_at[0], self._next_send_at)

    def take(self, now: float) -> Permit:
        """Take the permit that is ready first; its time may lie ahead."""
        send_at = max(self.ready_at(now), now)
        heapq.heappop(self._free_at)
        self._out += 1
        if self._spread:
            self._next_send_at = send_at + TRUSTED_SHARE * WINDOW_S / self.allowed
        return Permit(send_at)

    def put_back_unused(self, now: float) -> None:
        """Put back a permit on which nothing was sent."""
        self._put_back(now)

    def put_back_answered(self, *, sent_at: float, answered_at: float) -> None:
        """Put back the permit of a call that was answered."""
        self._round_trips_s.append(answered_at - sent_at)
        self._put_back(answered_at + WINDOW_S - self._ways_s())

    def put_back_unanswered(self, now: float) -> None:
        """Put back the permit of a call that failed without an answer."""
        self._put_back(now + WINDOW_S)

    def throttled(self, now: float, *, ceiling_per_s: int | None) -> None:
        """Use fewer permits: the cloud refused a call, naming its ceiling or not.

        Refusals within one window tell the same thing once.  Below one permit, calls pause.
        """
        if now - self._learned_at < WINDOW_S and self.allowed < self.rate_per_s:
            return
        self._learned_at = now
        if self.allowed == 1:
            self._pause_s = min(PAUSE_MAX_S, 2 * self._pause_s or WINDOW_S)
            self._next_send_at = max(self._next_send_at, now + self._pause_s)
            return
        fewer = min(self.allowed - 1, math.floor(self.allowed * LESS_AFTER_THROTTLE))
        self.allowed = max(1, min(fewer, ceiling_per_s or fewer))
        while self._free_at and len(self._free_at) + self._out > self.allowed:
            heapq.heappop(self._free_at)

    def _ways_s(self) -> float:
        """What a way back and a way there take at least, by the round trips of late."""
        seen = self._round_trips_s
        if len(seen) < ROUND_TRIPS_NEEDED:
            return 0.0
        shortest_s, mean_s = min(seen), sum(seen) / len(seen)
        return TRUSTED_SHARE * max(0.0, shortest_s - (mean_s - shortest_s))

    def _put_back(self, free_at: float) -> None:
        self._out -= 1
        if len(self._free_at) + self._out < self.allowed:
            heapq.heappush(self._free_at, free_at)

    def _recover(self, now: float) -> None:
        if self.allowed == self.rate_per_s or now - self._learned_at < CALM_S:
            return
        self._learned_at = now
        self._pause_s = 0.0
        more = min(self.rate_per_s - self.allowed, max(1, self.rate_per_s // 10))
        self.allowed += more
        for _ in range(self.allowed - len(self._free_at) - self._out):
            heapq.heappush(self._free_at, now + WINDOW_S)
