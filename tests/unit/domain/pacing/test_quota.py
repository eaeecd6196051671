"""Pacing rule, against a cloud that counts the calls itself."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

import pytest

from orchestrator.domain.pacing.quota import JUDGED_CALLS_MIN, RATE_SHARE_MIN, SECONDS_NEEDED, Quota

if TYPE_CHECKING:
    from collections.abc import Callable


class FixedSeconds:
    """Limit per second of the cloud's clock; refused calls count, too."""

    def __init__(self, limit_per_s: int) -> None:
        self._limit_per_s = limit_per_s
        self._second = self._count = 0

    def refuses(self, at: float) -> bool:
        second = math.floor(at)
        self._count = self._count + 1 if second == self._second else 1
        self._second = second
        return self._count > self._limit_per_s


class SlidingSecond:
    """Limit on the accepted calls in the second before each arrival."""

    def __init__(self, limit_per_s: int) -> None:
        self._accepted: deque[float] = deque([-math.inf] * limit_per_s, maxlen=limit_per_s)

    def refuses(self, at: float) -> bool:
        if self._accepted[0] > at - 1.0:
            return True
        self._accepted.append(at)
        return False


@dataclass
class PacedRun:
    """Results of the calls that were sent as soon as the quota allowed them."""

    sent: int = 0
    refused: int = 0
    others: int = 0
    """Calls made by another client."""
    arrivals: list[float] = field(default_factory=list)

    @property
    def refused_share(self) -> float:
        return self.refused / self.sent


def run(
    quota: Quota,
    refuses: Callable[[float], bool],
    *,
    seconds: float,
    seed: int = 1,
    round_trip_s: float = 0.03,
    jitter_s: float = 0.005,
    random_refusals: float = 0.0,
    others_per_s: float = 0.0,
    held_up_s: Callable[[float], float] = lambda _: 0.0,
) -> PacedRun:
    """Send as fast as the quota allows, beside another client that sends at random (Poisson).

    ``held_up_s``: the additional delay on the way to the cloud, by the time of sending.
    """
    random, result, now = Random(seed), PacedRun(), 0.0
    events: list[tuple[float, str, float, bool]] = []

    def one_way_s() -> float:
        return (round_trip_s + random.uniform(0, jitter_s)) / 2

    if others_per_s:
        events.append((0.0, "other", 0.0, False))
    while now < seconds:
        now = max(now, min(quota.ready_at(), events[0][0] if events else math.inf))
        if not events or events[0][0] > now:
            sent_at = quota.take(now).send_at
            result.sent += 1
            arrives_at = sent_at + one_way_s() + held_up_s(sent_at)
            heapq.heappush(events, (arrives_at, "arrival", sent_at, False))
            continue
        _, what, sent_at, refused = heapq.heappop(events)
        if what == "other":
            refuses(now)
            result.others += 1
            heapq.heappush(events, (now + random.expovariate(others_per_s), "other", 0.0, False))
        elif what == "arrival":
            result.arrivals.append(now)
            refused = refuses(now) or random.random() < random_refusals
            heapq.heappush(events, (now + one_way_s(), "answer", sent_at, refused))
        elif refused:
            result.refused += 1
            quota.put_back_refused(sent_at=sent_at, answered_at=now, ceiling_per_s=None)
        else:
            quota.put_back_answered(sent_at=sent_at, answered_at=now)
    return result


@pytest.mark.parametrize("counts", [FixedSeconds, SlidingSecond])
@pytest.mark.parametrize("spread", [True, False])
@pytest.mark.parametrize("rate", [2, 20])
@pytest.mark.parametrize(
    ("round_trip_s", "jitter_s", "use_least"),
    [(0.001, 0.0005, 0.985), (0.03, 0.005, 0.985), (0.1, 0.02, 0.96), (0.2, 0.1, 0.89)],
)
def test_the_quota_is_used_and_few_calls_are_throttled(
    rate: int,
    spread: bool,
    round_trip_s: float,
    jitter_s: float,
    use_least: float,
    counts: type[FixedSeconds | SlidingSecond],
) -> None:
    result = run(
        Quota(rate, now=0.0, spread=spread),
        counts(rate).refuses,
        seconds=500,
        round_trip_s=round_trip_s,
        jitter_s=jitter_s,
    )
    assert result.refused_share <= 0.001
    assert result.sent >= use_least * rate * 499


@pytest.mark.parametrize("counts", [FixedSeconds, SlidingSecond])
@pytest.mark.parametrize("rate", [2, 10, 20, 200])
def test_no_second_holds_more_calls_than_permits_with_any_refusals(
    rate: int, counts: type[FixedSeconds | SlidingSecond]
) -> None:
    result = run(
        Quota(rate, now=0.0, spread=False),
        counts(rate).refuses,
        seconds=4000 / rate,
        random_refusals=0.1,
        others_per_s=rate / 3,
    )
    gaps = (
        late - early for early, late in zip(result.arrivals, result.arrivals[rate:], strict=False)
    )
    assert min(gaps) >= 1.0
    assert result.refused > 0


@pytest.mark.parametrize("held_up_for_s", [0.5, 2.0, 5.0])
@pytest.mark.parametrize("spread", [True, False])
@pytest.mark.parametrize("rate", [2, 10, 200])
def test_no_second_holds_more_when_calls_are_held_up_no_longer(
    rate: int, spread: bool, held_up_for_s: float
) -> None:
    """This also holds at the start, when nothing is known yet."""
    result = run(
        Quota(rate, now=0.0, spread=spread),
        SlidingSecond(rate).refuses,
        seconds=60,
        held_up_s=lambda at: 0.1 if (at - 1) % 10 < held_up_for_s else 0.0,
    )
    gaps = (
        late - early for early, late in zip(result.arrivals, result.arrivals[rate:], strict=False)
    )
    assert min(gaps) >= 1.0
    assert result.refused == 0


@pytest.mark.parametrize("counts", [FixedSeconds, SlidingSecond])
@pytest.mark.parametrize(
    ("rate", "use_least"), [(1, 0.90), (2, 0.93), (10, 0.94), (20, 0.93), (200, 0.95)]
)
def test_refusals_at_random_cost_hardly_any_of_the_quota(
    rate: int, use_least: float, counts: type[FixedSeconds | SlidingSecond]
) -> None:
    quota, seconds = Quota(rate, now=0.0, spread=True), max(100.0, 4000 / rate)
    result = run(quota, counts(rate).refuses, seconds=seconds, random_refusals=0.04)
    assert result.refused_share < 0.06
    assert result.sent >= use_least * rate * (seconds - 1)


@pytest.mark.parametrize("spread", [True, False])
@pytest.mark.parametrize(
    ("rate", "use_least", "refused_most"),
    [(2, 0.83, 0.16), (10, 0.94, 0.10), (20, 0.95, 0.08), (200, 0.95, 0.07)],
)
def test_another_client_takes_its_share_and_hardly_more(
    rate: int, use_least: float, refused_most: float, spread: bool
) -> None:
    quota, seconds = Quota(rate, now=0.0, spread=spread), max(100.0, 6000 / rate)
    result = run(quota, FixedSeconds(rate).refuses, seconds=seconds, others_per_s=rate / 3)
    assert result.refused_share < refused_most
    assert result.sent - result.refused >= use_least * (rate * seconds - result.others)


def test_nothing_is_sent_in_the_first_second() -> None:
    assert Quota(5, now=100.0, spread=True).ready_at() == 101.0


def test_calls_are_spread_evenly_and_not_sent_in_a_burst() -> None:
    quota = Quota(10, now=0.0, spread=True)
    times = [quota.take(1.0).send_at for _ in range(10)]
    gaps = [round(b - a, 6) for a, b in itertools.pairwise(times)]
    assert gaps == [0.095] * 9


def given_back_after_s(*round_trips_s: float) -> float:
    """Return how long after its reply the last of these calls gives its permit back."""
    quota, now = Quota(1, now=0.0, spread=True), 0.0
    for round_trip_s in round_trips_s:
        now = quota.take(now).send_at
        quota.put_back_answered(sent_at=now, answered_at=now + round_trip_s)
        now += round_trip_s
    return quota.ready_at() - now


def test_a_round_trip_is_relied_on_once_enough_were_seen() -> None:
    assert given_back_after_s(*[0.4] * (SECONDS_NEEDED - 1)) == 1.0
    assert given_back_after_s(*[0.4] * SECONDS_NEEDED) == pytest.approx(1 - 0.95 * 0.4)


def test_the_shortest_round_trip_counts_however_uneven_they_are() -> None:
    assert given_back_after_s(*[0.1, 0.9] * (SECONDS_NEEDED // 2)) == pytest.approx(1 - 0.95 * 0.1)


def test_calls_that_need_not_be_spread_leave_at_once() -> None:
    quota = Quota(3, now=0.0, spread=False)
    assert [quota.take(1.0).send_at for _ in range(3)] == [1.0] * 3


def test_a_permit_is_out_until_its_call_has_ended() -> None:
    quota = Quota(1, now=0.0, spread=True)
    quota.take(1.0)
    assert quota.ready_at() == float("inf")
    quota.put_back_unanswered(50.0)
    assert quota.ready_at() == 51.0


# --- allowed rate ---------------------------------------------------------------------------------


def answers(quota: Quota, begin: float, accepted: int, refused: int) -> None:
    """Have so many calls answered within a second from ``begin`` on, the refused ones last."""
    for number in range(count := accepted + refused):
        sent_at, at = quota.take(begin).send_at, begin + number / max(1, count - 1)
        if number < accepted:
            quota.put_back_answered(sent_at=sent_at, answered_at=at)
        else:
            quota.put_back_refused(sent_at=sent_at, answered_at=at, ceiling_per_s=None)


@pytest.mark.parametrize(
    ("rate", "accepted", "refused", "learnt"),
    [
        (20, 19, 1, 20.0),  # one refusal is noise
        (20, 32, 2, 20.0),  # not more than 6 %
        (20, 31, 2, 20 * 31 / 33),
        (20, 17, 2, 20.0),  # not 20 calls
        (20, 18, 2, 18.0),
        (2, 2, 2, 2.0),  # not half of the 10 that 5 s could hold
        (2, 3, 2, 1.2),
        (2, 0, 5, 2 * RATE_SHARE_MIN),
        (200, 0, JUDGED_CALLS_MIN, 200 * RATE_SHARE_MIN),
    ],
)
def test_a_share_of_refusals_lowers_the_rate_to_what_was_let_through(
    rate: int, accepted: int, refused: int, learnt: float
) -> None:
    quota = Quota(rate, now=0.0, spread=True)
    answers(quota, 10.0, accepted, refused)
    assert quota.allowed_per_s(11.0) == pytest.approx(learnt)


def test_refusals_count_for_five_seconds() -> None:
    quota = Quota(20, now=0.0, spread=True)
    answers(quota, 10.0, 0, 1)
    answers(quota, 15.0, 19, 1)
    assert quota.allowed_per_s(16.0) == 20.0, "the first of them was 6 s ago"
    answers(quota, 16.5, 0, 1)
    assert quota.allowed_per_s(16.5) == pytest.approx(20 * (1 - 2 / 21))


def test_refusals_count_once() -> None:
    quota = Quota(20, now=0.0, spread=True)
    answers(quota, 10.0, 18, 2)
    assert quota.allowed_per_s(11.0) == pytest.approx(18)
    answers(quota, 11.0, 18, 1)
    assert quota.allowed_per_s(12.0) == pytest.approx(18.3), "it has climbed since"


def test_the_end_of_one_second_of_the_cloud_is_not_all_of_it() -> None:
    quota = Quota(200, now=0.0, spread=True)
    for number in range(60):
        sent_at = quota.take(10.0).send_at
        quota.put_back_refused(sent_at=sent_at, answered_at=10 + number / 200, ceiling_per_s=None)
    assert quota.allowed_per_s(10.3) == 200


def test_the_rate_climbs_to_the_configured_one_and_no_further() -> None:
    quota = Quota(20, now=0.0, spread=True)
    answers(quota, 9.0, 0, 20)
    climbed = [quota.allowed_per_s(10.0 + seconds) for seconds in (0, 1, 10, 1000)]
    assert climbed == pytest.approx([1.0, 1.3, 4.0, 20.0])


def test_a_ceiling_that_the_refusal_names_is_taken_at_once_and_a_higher_one_is_not() -> None:
    quota = Quota(20, now=0.0, spread=True)
    for ceiling_per_s, fell, learnt in ((30, False, 20.0), (20, False, 20.0), (7, True, 7.0)):
        sent_at = quota.take(10.0).send_at
        assert fell is quota.put_back_refused(
            sent_at=sent_at, answered_at=10.0, ceiling_per_s=ceiling_per_s
        )
        assert quota.allowed_per_s(10.0) == learnt


@pytest.mark.parametrize("spread", [True, False])
def test_calls_are_spaced_at_the_allowed_rate_on_as_many_permits(spread: bool) -> None:
    quota = Quota(20, now=0.0, spread=spread)
    answers(quota, 9.0, 10, 10)
    times = [quota.take(20.0).send_at for _ in range(20)]
    gaps = {round(b - a, 6) for a, b in itertools.pairwise(times)}
    assert gaps == {round(0.95 / (10 + 10 * 0.015 * 20), 6)}


def test_an_unused_permit_can_be_taken_again_at_once() -> None:
    quota = Quota(1, now=0.0, spread=True)
    quota.take(2.0)
    quota.put_back_unused(2.0)
    assert quota.ready_at() <= 3.0
