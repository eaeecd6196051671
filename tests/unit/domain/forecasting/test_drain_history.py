"""History that is kept of one drain."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise

import pytest
from hypothesis import given

from orchestrator.domain.forecasting.drain_history import (
    SAMPLES_MAX,
    STARTS,
    DrainHistory,
    begin,
    observe,
)
from tests.unit.domain.build import NOW, later
from tests.unit.domain.drains import POLLS, history_of


def kept(history: DrainHistory) -> list[tuple[float, int]]:
    return [(round(at - NOW.timestamp(), 3), live) for at, live in history.samples]


def test_polls_that_show_fewer_live_are_kept_and_the_last_one_is_known() -> None:
    history = history_of((0, 10), (1, 10), (4, 7), (5, 7), (6, 6), (9, 6))
    assert kept(history) == [(0, 10), (4, 7), (6, 6)]
    assert history.seen_at == later(9).timestamp()
    assert history.last_progress_at == later(6).timestamp()
    assert history.pause_s == 4


def test_more_live_than_before_begin_a_new_history() -> None:
    history = history_of((0, 10), (30, 2), (31, 9))
    assert kept(history) == [(31, 9)]
    assert history.pause_s == 0


@pytest.mark.parametrize("at", [4, 5])
def test_a_poll_that_is_not_later_than_the_last_changes_nothing(at: float) -> None:
    history = history_of((0, 10), (5, 8))
    assert observe(history, later(at), 1) == history


def test_thinning_keeps_the_first_ones_the_last_and_the_course_between() -> None:
    history = history_of(*((second, 1000 - second) for second in range(1000)))
    assert len(history.samples) == SAMPLES_MAX
    assert kept(history)[:STARTS] == [(0, 1000), (1, 999), (2, 998)]
    assert kept(history)[-1] == (999, 1)
    gaps = [after - before for (before, _), (after, _) in pairwise(kept(history)[STARTS - 1 :])]
    assert max(gaps) < 300


def test_the_rate_is_that_of_the_latter_half() -> None:
    assert history_of((0, 100), (10, 20), (20, 10)).rate_per_s == 1.0
    assert history_of((0, 100), (10, 20), (30, 20)).rate_per_s == 0.0
    assert history_of((0, 100)).rate_per_s == 0.0


@given(POLLS)
def test_a_history_stays_small_and_in_order_and_survives_json(
    polls: list[tuple[float, int]],
) -> None:
    history, at = begin(NOW, 50_000), 0.0
    for wait_s, live in polls:
        at += wait_s
        history = observe(history, later(at), live)
        assert history.live == live
    assert len(history.samples) <= SAMPLES_MAX
    for (before, more), (after, fewer) in pairwise(history.samples):
        assert (before < after, more > fewer) == (True, True)
    assert history.seen_at == pytest.approx(later(at).timestamp())
    assert history.pause_s <= history.last_progress_at - history.began_at
    stored = json.loads(json.dumps(asdict(history)))
    stored["samples"] = tuple(tuple(sample) for sample in stored["samples"])
    assert DrainHistory(**stored) == history
