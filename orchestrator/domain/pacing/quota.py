"""Pacing rule: when a call may be sent; the package docstring argues the design.

The cloud counts calls per (action, host, sub-account) in one-second windows of its clock, by
arrival (cloud.tencent.com/document/product/1278/109059). Each of an action's N permits is given
back one second after the reply, minus 95 % of the shortest recent round trip.

A round trip starts when the request is sent on an open connection. A network delay on the way to
the cloud affects all calls of one moment and none of the next, so it must not be mistaken for the
shortest round trip: of all round trips of one second, one counts, and several seconds are required.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass
from typing import Final

WINDOW_S: Final = 1.0
TRUSTED_SHARE: Final = 0.95
"""Share of the shortest round trip, and of the even spacing, that is relied on."""
SECONDS_KEPT: Final = 128
"""The shortest round trip is taken over this many seconds with a reply."""
SECONDS_NEEDED: Final = 8

JUDGED_S: Final = 5.0
"""The allowed rate is judged by the replies of this many seconds."""
JUDGED_CALLS_MIN: Final = 20
"""Minimum number of these replies, or half of what the allowed rate allows, if that is less."""
REFUSALS_MIN: Final = 2
REFUSED_SHARE_MAX: Final = 0.06
CLIMB_SHARE_PER_S: Final = 0.015
"""Share of the configured rate by which the allowed rate climbs per second."""
RATE_SHARE_MIN: Final = 0.05
"""The allowed rate never falls below this share of the configured rate.

Without calls, nothing more could be learnt.
"""


@dataclass(frozen=True, slots=True)
class Permit:
    """Permission to send one call at ``send_at`` (monotonic seconds) or later."""

    send_at: float


@dataclass(frozen=True, slots=True)
class Rate:
    """Calls per second: the configured rate, and the rate allowed while the cloud refuses more."""

    configured_per_s: int
    allowed_per_s: float


class AllowedRate:
    """Calls per second that the cloud accepts, estimated from its refusals.

    The rate climbs by 1.5 % of the configured rate per second. Once more than 6 % of the calls
    answered in the last 5 s were refused, it drops by the refused share. A refusal that names the
    limit lowers it to that limit.
    """

    def __init__(self, configured_per_s: int, *, now: float) -> None:
        self._configured_per_s = configured_per_s
        self._per_s = float(configured_per_s)
        self._as_of = now
        self._answers: deque[tuple[float, bool]] = deque()
        """Time of each reply, and whether the call was refused as over the quota."""

    def per_s(self, now: float) -> float:
        climbed = (now - self._as_of) * CLIMB_SHARE_PER_S * self._configured_per_s
        return min(float(self._configured_per_s), self._per_s + max(0.0, climbed))

    def answered(self, now: float) -> None:
        """Record a call that the cloud accepted."""
        self._record(now, refused=False)

    def refused(self, now: float, *, ceiling_per_s: int | None) -> bool:
        """Record a call that was refused as over the quota; return whether the rate fell."""
        self._record(now, refused=True)
        before = self.per_s(now)
        after = min(before, ceiling_per_s or before)
        share = sum(refused for _, refused in self._answers) / len(self._answers)
        if share > REFUSED_SHARE_MAX and self._enough_replies(before):
            after = min(after, before * (1 - share))
            self._answers.clear()
        self._per_s = max(after, RATE_SHARE_MIN * self._configured_per_s)
        self._as_of = now
        return after < before

    def _record(self, now: float, *, refused: bool) -> None:
        self._answers.append((now, refused))
        while self._answers[0][0] <= now - JUDGED_S:
            self._answers.popleft()

    def _enough_replies(self, per_s: float) -> bool:
        """Return whether there are enough replies to distinguish a limit from noise.

        They must span one second at least: within a window of the cloud, refusals come at its end.
        """
        needed = min(JUDGED_CALLS_MIN, JUDGED_S * per_s / 2)
        refusals = sum(refused for _, refused in self._answers)
        span_s = self._answers[-1][0] - self._answers[0][0]
        return len(self._answers) >= needed and refusals >= REFUSALS_MIN and span_s >= WINDOW_S


class Quota:
    """Permits of one action on one host; all times are monotonic seconds.

    At first, all permits count as spent: it is not known which calls were sent in the second
    before. With ``spread``, calls are sent at even intervals, so that an urgent one never waits
    behind a burst. Without it, they are sent so only while the allowed rate is below the configured
    one.
    """

    def __init__(self, rate_per_s: int, *, now: float, spread: bool) -> None:
        self.rate_per_s = rate_per_s
        self._allowed = AllowedRate(rate_per_s, now=now)
        self._spread = spread
        self._free_at = [now + WINDOW_S] * rate_per_s
        self._next_send_at = now + WINDOW_S
        self._shortest_s: deque[float] = deque(maxlen=SECONDS_KEPT)
        """The shortest round trip of each second with a reply."""
        self._second_ends_at = -math.inf

    def allowed_per_s(self, now: float) -> float:
        """Return the allowed rate in calls per second; it never exceeds the configured rate."""
        return self._allowed.per_s(now)

    def ready_at(self) -> float:
        """Return when the next call may be sent; infinite while no permit is left."""
        return max(self._free_at[0], self._next_send_at) if self._free_at else math.inf

    def take(self, now: float) -> Permit:
        """Take the permit that is ready first; its time may be in the future."""
        send_at = max(self.ready_at(), now)
        heapq.heappop(self._free_at)
        per_s = self.allowed_per_s(now)
        if self._spread or per_s < self.rate_per_s:
            self._next_send_at = send_at + TRUSTED_SHARE * WINDOW_S / per_s
        return Permit(send_at)

    def put_back_unused(self, now: float) -> None:
        """Put back a permit that was not used."""
        heapq.heappush(self._free_at, now)

    def put_back_answered(self, *, sent_at: float, answered_at: float) -> None:
        """Put back the permit of a call that was answered and not refused as over the quota."""
        self._put_back(sent_at, answered_at)
        self._allowed.answered(answered_at)

    def put_back_refused(
        self, *, sent_at: float, answered_at: float, ceiling_per_s: int | None
    ) -> bool:
        """Put back the permit of a call refused as over the quota; return whether the rate fell.

        ``ceiling_per_s``: the calls per second that the refusal message itself names as allowed.
        """
        self._put_back(sent_at, answered_at)
        return self._allowed.refused(answered_at, ceiling_per_s=ceiling_per_s)

    def put_back_unanswered(self, now: float) -> None:
        """Put back the permit of a call that failed without a reply."""
        heapq.heappush(self._free_at, now + WINDOW_S)

    def _put_back(self, sent_at: float, answered_at: float) -> None:
        round_trip_s = answered_at - sent_at
        if answered_at >= self._second_ends_at:
            self._second_ends_at = answered_at + WINDOW_S
            self._shortest_s.append(round_trip_s)
        self._shortest_s[-1] = min(self._shortest_s[-1], round_trip_s)
        heapq.heappush(self._free_at, answered_at + WINDOW_S - self._min_transit_s())

    def _min_transit_s(self) -> float:
        """Return the minimum time that a reply and the next call take together on the network."""
        shortest_s = self._shortest_s
        return TRUSTED_SHARE * min(shortest_s) if len(shortest_s) >= SECONDS_NEEDED else 0.0
