"""When a call may leave: the pacing rule, with time passed in.

The cloud counts calls per (action, host called, sub-account) in one-second windows at its clock,
by arrival (cloud.tencent.com/document/product/1278/109059).  N permits an action, and a call gives
its permit back one second after its answer, less 95 % of the shortest round trip of late.  The way
back of one call and the way there of the next take at least that long together, so two arrivals on
one permit are at least a second apart, and no second holds more than N.

A round trip starts when the request leaves on an open connection.  What holds up calls on their way
there holds up all calls of that moment and none of the next, so it must not pass for the shortest
round trip: of all that are made in one second, one counts, and those of several seconds are needed.

The cloud may refuse calls all the same: another client may spend the same quota, or the whole
account may have a limit.  One refusal is noise.  A learnt rate follows the refusals of the last
seconds and spaces the calls; it never changes the number of permits.
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
SECONDS_KEPT: Final = 128
"""The shortest round trip is that of so many seconds in which a call was answered."""
SECONDS_NEEDED: Final = 8

JUDGED_S: Final = 5.0
"""The learnt rate is judged by the calls answered in so many seconds."""
JUDGED_CALLS_MIN: Final = 20
"""By so many calls at least, or by half of what the learnt rate allows in that time."""
REFUSALS_MIN: Final = 2
REFUSED_SHARE_MAX: Final = 0.06
CLIMB_SHARE_PER_S: Final = 0.015
"""How much of the configured rate the learnt rate climbs each second."""
RATE_SHARE_MIN: Final = 0.05
"""The learnt rate stays above this share of the configured rate, or nothing more is learnt."""


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to send one call at ``send_at`` (monotonic seconds) or later."""

    send_at: float


@dataclass(frozen=True, slots=True)
class Rate:
    """Calls a second: those configured, and those allowed while the cloud refuses more."""

    configured_per_s: int
    allowed_per_s: float


class LearntRate:
    """How many calls a second the cloud lets through, as far as its refusals tell.

    It climbs by 1.5 % of the configured rate each second.  Once more than 6 % of the calls that
    were answered in the last 5 s were refused, it becomes what was let through.
    """

    def __init__(self, configured_per_s: int, *, now: float) -> None:
        self._configured_per_s = configured_per_s
        self._per_s = float(configured_per_s)
        self._as_of = now
        self._answers: deque[tuple[float, bool]] = deque()
        """When calls were answered, and whether they were refused as too many."""

    def per_s(self, now: float) -> float:
        climbed = (now - self._as_of) * CLIMB_SHARE_PER_S * self._configured_per_s
        return min(float(self._configured_per_s), self._per_s + max(0.0, climbed))

    def answered(self, now: float) -> None:
        """Take note of a call that the cloud let through."""
        self._note(now, refused=False)

    def refused(self, now: float, *, ceiling_per_s: int | None) -> bool:
        """Take note of a call that was refused as one too many; whether the rate fell."""
        self._note(now, refused=True)
        before = self.per_s(now)
        after = min(before, ceiling_per_s or before)
        share = sum(refused for _, refused in self._answers) / len(self._answers)
        if share > REFUSED_SHARE_MAX and self._is_enough(before):
            after = min(after, before * (1 - share))
            self._answers.clear()
        self._per_s = max(after, RATE_SHARE_MIN * self._configured_per_s)
        self._as_of = now
        return after < before

    def _note(self, now: float, *, refused: bool) -> None:
        self._answers.append((now, refused))
        while self._answers[0][0] <= now - JUDGED_S:
            self._answers.popleft()

    def _is_enough(self, per_s: float) -> bool:
        """Whether enough calls were answered to tell a limit from noise.

        Over a second at least: the refusals of one of the cloud's seconds stand at its end.
        """
        needed = min(JUDGED_CALLS_MIN, JUDGED_S * per_s / 2)
        refusals = sum(refused for _, refused in self._answers)
        lasted_s = self._answers[-1][0] - self._answers[0][0]
        return len(self._answers) >= needed and refusals >= REFUSALS_MIN and lasted_s >= WINDOW_S


class Quota:
    """The permits of one action on one host; every time is monotonic seconds.

    All permits count as spent at first: nobody knows what was sent in the second before.  With
    ``spread``, calls leave evenly, so that an urgent one never waits behind a burst; without, they
    do so while the learnt rate is below the configured one.
    """

    def __init__(self, rate_per_s: int, *, now: float, spread: bool) -> None:
        self.rate_per_s = rate_per_s
        self._learnt = LearntRate(rate_per_s, now=now)
        self._spread = spread
        self._free_at = [now + WINDOW_S] * rate_per_s
        self._next_send_at = now + WINDOW_S
        self._shortest_s: deque[float] = deque(maxlen=SECONDS_KEPT)
        """The shortest round trip of each second in which a call was answered."""
        self._second_ends_at = -math.inf

    def learnt_per_s(self, now: float) -> float:
        """How many calls a second the cloud lets through, never more than are configured."""
        return self._learnt.per_s(now)

    def ready_at(self) -> float:
        """When the next call may leave; infinite while every permit is out."""
        return max(self._free_at[0], self._next_send_at) if self._free_at else math.inf

    def take(self, now: float) -> Permit:
        """Take the permit that is ready first; its time may lie ahead."""
        send_at = max(self.ready_at(), now)
        heapq.heappop(self._free_at)
        per_s = self.learnt_per_s(now)
        if self._spread or per_s < self.rate_per_s:
            self._next_send_at = send_at + TRUSTED_SHARE * WINDOW_S / per_s
        return Permit(send_at)

    def put_back_unused(self, now: float) -> None:
        """Put back a permit on which nothing was sent."""
        heapq.heappush(self._free_at, now)

    def put_back_answered(self, *, sent_at: float, answered_at: float) -> None:
        """Put back the permit of a call that was answered, and not refused as one too many."""
        self._put_back(sent_at, answered_at)
        self._learnt.answered(answered_at)

    def put_back_refused(
        self, *, sent_at: float, answered_at: float, ceiling_per_s: int | None
    ) -> bool:
        """Put back the permit of a call that was refused as one too many; whether the rate fell.

        ``ceiling_per_s``: as many calls a second as the refusal itself says are allowed.
        """
        self._put_back(sent_at, answered_at)
        return self._learnt.refused(answered_at, ceiling_per_s=ceiling_per_s)

    def put_back_unanswered(self, now: float) -> None:
        """Put back the permit of a call that failed without an answer."""
        heapq.heappush(self._free_at, now + WINDOW_S)

    def _put_back(self, sent_at: float, answered_at: float) -> None:
        round_trip_s = answered_at - sent_at
        if answered_at >= self._second_ends_at:
            self._second_ends_at = answered_at + WINDOW_S
            self._shortest_s.append(round_trip_s)
        self._shortest_s[-1] = min(self._shortest_s[-1], round_trip_s)
        heapq.heappush(self._free_at, answered_at + WINDOW_S - self._ways_s())

    def _ways_s(self) -> float:
        """What the way back of a call and the way there of the next take together at least."""
        seen = self._shortest_s
        return TRUSTED_SHARE * min(seen) if len(seen) >= SECONDS_NEEDED else 0.0
