"""The pacing rule against a window counter that is not ours."""

from __future__ import annotations

import heapq
import itertools
from random import Random

import pytest

from orchestrator.domain.quota import ROUND_TRIPS_NEEDED, Quota


def run(
    quota: Quota, random: Random, *, seconds: float, round_trip_s: float, jitter_s: float
) -> list[float]:
    """Send as fast as the quota allows; returns the times of arrival at the cloud."""
    now = 0.0
    arrivals: list[float] = []
    answers: list[tuple[float, float]] = []
    while now < seconds:
        while answers and answers[0][0] <= now:
            answered_at, sent_at = heapq.heappop(answers)
            quota.put_back_answered(sent_at=sent_at, answered_at=answered_at)
        ready_at = quota.ready_at(now)
        if ready_at > now:
            now = min(ready_at, answers[0][0] if answers else ready_at)
            continue
        sent_at = quota.take(now).send_at
        there_s = (round_trip_s + random.uniform(0, jitter_s)) / 2
        back_s = (round_trip_s + random.uniform(0, jitter_s)) / 2
        arrivals.append(sent_at + there_s)
        heapq.heappush(answers, (sent_at + there_s + back_s, sent_at))
    return arrivals


def refused(arrivals: list[float], rate: int) -> int:
    """How many a cloud refuses that counts every sliding second; a refused call counts too."""
    arrivals = sorted(arrivals)
    return sum(
        1
        for index, at in enumerate(arrivals)
        if index >= rate and arrivals[index - rate] > at - 1.0
    )


@pytest.mark.parametrize("spread", [True, False])
@pytest.mark.parametrize("rate", [2, 20])
@pytest.mark.parametrize(
    ("round_trip_s", "jitter_s", "use_least"),
    [(0.001, 0.0005, 0.98), (0.03, 0.005, 0.97), (0.1, 0.02, 0.94)],
)
def test_the_quota_is_used_and_hardly_a_sliding_second_holds_more(
    rate: int, spread: bool, round_trip_s: float, jitter_s: float, use_least: float
) -> None:
    arrivals = run(
        Quota(rate, now=0.0, spread=spread),
        Random(1),
        seconds=2000,
        round_trip_s=round_trip_s,
        jitter_s=jitter_s,
    )
    assert refused(arrivals, rate) <= 0.0005 * len(arrivals)
    assert len(arrivals) >= use_least * rate * 1998


def test_nothing_is_sent_in_the_first_second() -> None:
    assert Quota(5, now=100.0, spread=True).ready_at(100.0) == 101.0


def test_calls_are_spread_evenly_and_not_sent_in_a_burst() -> None:
    quota = Quota(10, now=0.0, spread=True)
    times = [quota.take(1.0).send_at for _ in range(10)]
    gaps = [round(b - a, 6) for a, b in itertools.pairwise(times)]
    assert gaps == [0.095] * 9


def given_back_after_s(*round_trips_s: float) -> float:
    """How long after its answer the last of these calls gives its permit back."""
    quota, now = Quota(1, now=0.0, spread=True), 0.0
    for round_trip_s in round_trips_s:
        now = quota.take(now).send_at
        quota.put_back_answered(sent_at=now, answered_at=now + round_trip_s)
        now += round_trip_s
    return quota.ready_at(now) - now


def test_a_round_trip_is_relied_on_once_enough_were_seen() -> None:
    assert given_back_after_s(*[0.4] * (ROUND_TRIPS_NEEDED - 1)) == 1.0
    assert given_back_after_s(*[0.4] * ROUND_TRIPS_NEEDED) == pytest.approx(1 - 0.95 * 0.4)


def test_uneven_round_trips_are_relied_on_less() -> None:
    """The way there of one call and the way back of another may both be the shortest."""
    uneven = [0.3, 0.5] * (ROUND_TRIPS_NEEDED // 2)
    assert given_back_after_s(*uneven) == pytest.approx(1 - 0.95 * 0.2)
    assert given_back_after_s(*[0.1, 0.9] * (ROUND_TRIPS_NEEDED // 2)) == 1.0


def test_calls_that_need_not_be_spread_leave_at_once() -> None:
    quota = Quota(3, now=0.0, spread=False)
    assert [quota.take(1.0).send_at for _ in range(3)] == [1.0] * 3


def test_a_permit_is_out_until_its_call_has_ended() -> None:
    quota = Quota(1, now=0.0, spread=True)
    quota.take(1.0)
    assert quota.ready_at(50.0) == float("inf")
    quota.put_back_unanswered(50.0)
    assert quota.ready_at(50.0) == 51.0


def test_throttling_takes_permits_away_and_calm_gives_them_back() -> None:
    quota = Quota(20, now=0.0, spread=True)
    quota.throttled(5.0, ceiling_per_s=None)
    assert quota.allowed == 15
    quota.throttled(5.5, ceiling_per_s=None)
    assert quota.allowed == 15, "one window tells the same thing once"
    quota.throttled(7.0, ceiling_per_s=4)
    assert quota.allowed == 4
    quota.ready_at(16.9)
    assert quota.allowed == 4
    quota.ready_at(17.0)
    assert quota.allowed == 6
    for now in range(27, 200, 10):
        quota.ready_at(float(now))
    assert quota.allowed == 20


def test_throttling_of_the_last_permit_pauses_longer_each_time() -> None:
    quota = Quota(1, now=0.0, spread=True)
    pauses = []
    for now in (10.0, 20.0, 40.0, 80.0):
        quota.throttled(now, ceiling_per_s=None)
        pauses.append(quota.ready_at(now) - now)
    assert pauses == [1.0, 2.0, 4.0, 8.0]


def test_an_unused_permit_can_be_taken_again_at_once() -> None:
    quota = Quota(1, now=0.0, spread=True)
    quota.take(2.0)
    quota.put_back_unused(2.0)
    assert quota.ready_at(3.0) <= 3.0
