"""``python -m tests.simulation.forecast``: how far forecasts are off, on simulated drains.

A drain is polled as the polling policy does.  At up to FORECASTS of its polls, spread evenly over
those from the first on that finds a quarter of the instances stopped, its end is forecast, and each
drain weighs the same.  Errors are shares of the whole drain, from the acknowledgement to the end,
and beside it of what is left of it.  A missing forecast counts as not covered and as wrong by the
whole.

A quota-bound drain is an operation: most of its time its jobs wait to be called.  The last table is
of whole operations whose instances are counted: ``tests.simulation.whole_operations``.
"""

from __future__ import annotations

import math
import statistics
import sys
from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import TYPE_CHECKING, Final

from orchestrator.domain.forecasting import drain_history
from orchestrator.domain.forecasting.duration_distribution import bucket
from orchestrator.domain.forecasting.forecast import of_drain
from orchestrator.domain.model.batch_job import InstanceCounters
from orchestrator.domain.pacing.polling import drain_poll_s, recount_after_s
from orchestrator.domain.progress import operation_forecast
from orchestrator.domain.progress.operation_forecast import Progress
from orchestrator.engine.loops.single_job_poller import (
    COUNT_ALL_EVERY_S,
    RECENTLY_VIEWED_COUNT_EVERY_S,
)
from tests.simulation import whole_operations
from tests.simulation.whole_operations import POLICY, log_uniform, time_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from orchestrator.domain.forecasting.forecast import Forecast

    Ends = Callable[[Random, int], list[float]]
    """Function that returns when each of this number of instances stops, in any unit and order."""

FORECASTS: Final = 10
DRAINS: Final = 125
"""Number of drains of each family."""
DRAIN_S: Final = (5.0, 7200.0)
INSTANCES: Final = (1, 100_000)
JOBS: Final = (20, 10_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """A drain that has ended, and its forecasts, each with the second at which it was made."""

    end_s: float
    forecasts: list[tuple[float, Forecast]]
    """Made once a quarter had stopped."""
    early_forecasts: list[tuple[float, Forecast]]
    """Made once a tenth had stopped."""


# --- drains of one job ---------------------------------------------------------------------------


def linear(random: Random, instances: int) -> list[float]:
    """Instances stop one after the other, after a while, at a speed that wanders."""
    begins = random.choice([0.0, random.uniform(0, 0.2)])
    wanders, jitter = random.uniform(0, 0.4), random.uniform(0, 0.02)
    parts = random.randint(3, 20)
    slowness = [random.lognormvariate(0, wanders) for _ in range(parts)]
    steps = (slowness[rank * parts // instances] / instances for rank in range(instances))
    return [begins + max(0.001, at + random.gauss(0, jitter)) for at in accumulate(steps)]


def tail_heavy(random: Random, instances: int) -> list[float]:
    """Most instances stop soon, the last ones late."""
    spread = random.uniform(0.3, 1.5)
    return [random.lognormvariate(0, spread) for _ in range(instances)]


def stepwise(random: Random, instances: int) -> list[float]:
    """Instances stop in batches, of nearly one size and at nearly equal distances."""
    uneven, jitter = random.uniform(0, 0.5), random.uniform(0, 0.3)
    sizes = [random.lognormvariate(0, uneven) for _ in range(random.randint(4, 60))]
    ends: list[float] = []
    at = stopped = 0.0
    for size in sizes:
        at += max(0.05, random.gauss(1, jitter))
        stopped += size / sum(sizes)
        ends += [at] * (round(instances * stopped) - len(ends))
    return ends + [at] * (instances - len(ends))


def waiting_at_once(random: Random, instances: int) -> list[float]:
    """Those that wait for a machine fail at once, the others stop one after the other."""
    waiting = random.uniform(0, 0.7)
    return [
        0.001 * random.random() if random.random() < waiting else end
        for end in linear(random, instances)
    ]


def two_speeds(random: Random, instances: int) -> list[float]:
    changes_at, slower = random.uniform(0.2, 0.9), log_uniform(random, 1 / 3, 3)
    shares = (rank / instances for rank in range(1, instances + 1))
    return [min(share, changes_at) + max(0.0, share - changes_at) * slower for share in shares]


def all_alike(random: Random, instances: int) -> list[float]:
    """No instance stops soon, most stop at about the same time."""
    shape = random.uniform(0.6, 4)
    return [random.weibullvariate(1, shape) for _ in range(instances)]


def drain(random: Random, ends: Ends) -> Drained:
    """Return a drain of which a poll found a quarter stopped before its end."""
    while True:
        instances = round(log_uniform(random, *INSTANCES))
        unscaled = sorted(ends(random, instances))
        scale = log_uniform(random, *DRAIN_S) / unscaled[-1]
        ends_s = [end * scale for end in unscaled]
        polls = _polls(random, ends_s)
        if any(live <= 0.75 * instances for _, live in polls):
            return _forecast_drain(instances, polls, ends_s[-1])


def _polls(random: Random, ends_s: Sequence[float]) -> list[tuple[float, int]]:
    """Return seconds and live instances, as one of the engine's reasons to poll would show them."""
    reason = random.randrange(4)
    batch_interval_s = log_uniform(random, POLICY.batch_min_interval_s, POLICY.batch_max_interval_s)
    watched_s = log_uniform(random, RECENTLY_VIEWED_COUNT_EVERY_S, COUNT_ALL_EVERY_S)
    polls: list[tuple[float, int]] = []
    at = random.uniform(0, POLICY.batch_max_interval_s)
    while at < ends_s[-1]:
        polls.append((at, len(ends_s) - bisect_right(ends_s, at)))
        if reason == 0:
            wait_s = drain_poll_s(POLICY, batch_interval_s=batch_interval_s, age_s=at)
        elif reason == 1:
            wait_s = _poll_again_s(polls)
        else:
            wait_s = watched_s if reason == 2 else COUNT_ALL_EVERY_S
        at += wait_s * random.uniform(1, 1.15)
    return polls


def _poll_again_s(polls: Sequence[tuple[float, int]]) -> float:
    (before_s, before), (after_s, after) = polls[-2:] if len(polls) > 1 else (polls[-1], polls[-1])
    return recount_after_s(
        POLICY,
        before=InstanceCounters(running=before),
        before_at=time_at(before_s),
        after=InstanceCounters(running=after),
        after_at=time_at(after_s),
    )


def _forecast_drain(instances: int, polls: Sequence[tuple[float, int]], end_s: float) -> Drained:
    early = next(at for at, live in polls if live <= 0.9 * instances)
    chosen = _spread([at for at, live in polls if live <= 0.75 * instances])
    made = {}
    history = drain_history.begin(time_at(0), instances)
    for at, live in polls:
        history = drain_history.observe(history, time_at(at), live)
        if at == early or at in chosen:
            made[at] = of_drain(history, None, time_at(at))
    return Drained(
        end_s=end_s,
        forecasts=[(at, made[at]) for at in chosen],
        early_forecasts=[(early, made[early])],
    )


def _spread(times: Sequence[float]) -> list[float]:
    """Return at most FORECASTS of these, from the first to the last."""
    if len(times) <= FORECASTS:
        return list(times)
    return [times[index * (len(times) - 1) // (FORECASTS - 1)] for index in range(FORECASTS)]


# --- operations ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Operation:
    """Jobs of an operation.

    ``calls_s``: when each job is called.  ``ends_s``: when it is read as stopped.
    """

    allowed_per_s: int
    calls_s: list[float]
    ends_s: list[float]

    def progress(self, now_s: float) -> Progress:
        """Return what a database could count."""
        called = bisect_right(self.calls_s, now_s)
        called_recently = called - bisect_right(self.calls_s, now_s - 60)
        long_enough = now_s >= self.calls_s[0] + 60
        calls_per_s = max(called_recently / 60, 0.1) if long_enough else self.allowed_per_s
        jobs = list(zip(self.calls_s[:called], self.ends_s, strict=False))
        window_s = max(60.0, now_s / 4)
        return Progress(
            pending=len(self.calls_s) - called,
            last_dispatch_s=(len(self.calls_s) - called) / calls_per_s,
            stopped=Counter(bucket(end - call) for call, end in jobs if end <= now_s),
            draining=Counter(bucket(now_s - call) for call, end in jobs if end > now_s),
            ending=(),
            unknown=0,
            stalled=0,
            last_progress_at=None,
            stopped_in_window=sum(now_s - window_s < end <= now_s for _, end in jobs),
            window_s=window_s,
        )


def quota_bound(random: Random) -> Drained:
    """Calls take at least twice as long as most drains; others' calls come first and between."""
    while True:
        operation = _operation(random, round(log_uniform(random, *JOBS)), drain_s=(5, 1200))
        calls_s, takes_s = operation.calls_s, _drains_s(operation)
        if calls_s[-1] - calls_s[0] >= 2 * statistics.median(takes_s):
            return _forecast_operation(random, operation)


def called_at_once(random: Random) -> Drained:
    """Calls take less time than most drains, and instances are not counted."""
    while True:
        operation = _operation(random, round(log_uniform(random, 4, 300)), drain_s=DRAIN_S)
        calls_s, takes_s = operation.calls_s, _drains_s(operation)
        if calls_s[-1] - calls_s[0] <= statistics.median(takes_s):
            return _forecast_operation(random, operation)


def _drains_s(operation: Operation) -> list[float]:
    return [end - call for call, end in zip(operation.calls_s, operation.ends_s, strict=True)]


def _operation(random: Random, jobs: int, *, drain_s: tuple[float, float]) -> Operation:
    allowed_per_s = random.choice([2, 2, 10, 20])
    pace, speed = random.uniform(0.8, 1), 1.0
    at = random.choice([0, 0, random.uniform(0, jobs)]) / allowed_per_s
    typical_s, spread = log_uniform(random, *drain_s), random.uniform(0.1, 1)
    even, rare, times = random.uniform(0, 0.9), random.random(), log_uniform(random, 2, 8)
    takes: Callable[[], float] = random.choice(
        [
            lambda: random.lognormvariate(0, spread),
            lambda: random.uniform(even, 2 - even),
            lambda: random.lognormvariate(0, 0.2) * (times if random.random() < rare else 1),
        ]
    )
    calls_s, ends_s = [], []
    for index in range(jobs):
        if index % 50 == 0:
            speed = min(1.0, pace * random.lognormvariate(0, 0.1))
        at += random.uniform(0.8, 1.2) / (allowed_per_s * speed)
        took_s = typical_s * takes()
        batch_interval_s = random.uniform(POLICY.batch_min_interval_s, POLICY.batch_max_interval_s)
        unseen_s = random.random() * drain_poll_s(
            POLICY, batch_interval_s=batch_interval_s, age_s=took_s
        )
        calls_s.append(at)
        ends_s.append(at + took_s + unseen_s)
    return Operation(allowed_per_s, calls_s, ends_s)


def _forecast_operation(random: Random, operation: Operation) -> Drained:
    ends_s = sorted(operation.ends_s)
    tenth_s, quarter_s = (ends_s[math.ceil(len(ends_s) * share) - 1] for share in (0.1, 0.25))
    step_s = (ends_s[-1] - quarter_s) / FORECASTS

    def forecast_at(at: float) -> tuple[float, Forecast]:
        return at, operation_forecast.forecast(operation.progress(at), time_at(at))

    return Drained(
        end_s=ends_s[-1],
        forecasts=[
            forecast_at(quarter_s + step_s * (index + random.random()))
            for index in range(FORECASTS)
        ],
        early_forecasts=[forecast_at(tenth_s)],
    )


# --- how far off they were -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """One forecast beside the end; ``weight`` sums up to 1 over a drain."""

    weight: float
    within_p50: bool
    within_p90: bool
    of_whole: float
    """Error of p50, as a share of the whole."""
    of_left: float
    made: bool

    @classmethod
    def of(cls, at: float, forecast: Forecast, end_s: float, *, weight: float) -> Miss:
        if forecast.p50_at is None or forecast.p90_at is None:
            off_s, p50, p90 = end_s, False, False
        else:
            off_s = abs((forecast.p50_at - time_at(end_s)).total_seconds())
            p50, p90 = forecast.p50_at >= time_at(end_s), forecast.p90_at >= time_at(end_s)
        return cls(
            weight=weight,
            within_p50=p50,
            within_p90=p90,
            of_whole=off_s / end_s,
            of_left=off_s / (end_s - at),
            made=forecast.p50_at is not None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRow:
    """One line of the table; all but ``drains`` in per cent."""

    drains: int
    within_p90: float
    within_p50: float
    off: float
    """Median error of p50, of the whole."""
    off_left: float
    made: float

    @classmethod
    def of(cls, misses: Sequence[Miss]) -> ErrorRow:
        whole = sum(miss.weight for miss in misses)
        return cls(
            drains=round(whole),
            within_p90=100 * sum(miss.weight for miss in misses if miss.within_p90) / whole,
            within_p50=100 * sum(miss.weight for miss in misses if miss.within_p50) / whole,
            off=100 * _median((miss.of_whole, miss.weight) for miss in misses),
            off_left=100 * _median((miss.of_left, miss.weight) for miss in misses),
            made=100 * sum(miss.weight for miss in misses if miss.made) / whole,
        )

    @property
    def on_target(self) -> bool:
        return 85 <= self.within_p90 <= 95 and self.off < 20

    def __str__(self) -> str:
        return (
            f"{self.drains:6} {self.within_p90:7.1f} {self.within_p50:7.1f} {self.off:8.1f} "
            f"{self.off_left:8.1f} {self.made:7.1f}"
        )


def _median(weighted: Iterable[tuple[float, float]]) -> float:
    ordered = sorted(weighted)
    passed = list(accumulate(weight for _, weight in ordered))
    return ordered[bisect_left(passed, passed[-1] / 2)][0]


def _of(ends: Ends) -> Callable[[Random], Drained]:
    return lambda random: drain(random, ends)


FAMILIES: Final[dict[str, Callable[[Random], Drained]]] = {
    "linear": _of(linear),
    "tail-heavy": _of(tail_heavy),
    "stepwise": _of(stepwise),
    "quota-bound": quota_bound,
}
OTHERS: Final[dict[str, Callable[[Random], Drained]]] = {
    "waiting ones at once": _of(waiting_at_once),
    "two speeds": _of(two_speeds),
    "all alike": _of(all_alike),
    "called at once": called_at_once,
}
"""Drains that the four leave out; the target does not apply to them."""


def measure(name: str, *, seeds: range) -> tuple[list[Miss], list[Miss]]:
    """Return the misses of one family's drains: from a quarter, and from a tenth stopped."""
    family = (FAMILIES | OTHERS)[name]
    misses: list[Miss] = []
    early: list[Miss] = []
    for seed in seeds:
        drained = family(Random(f"{name} {seed}"))
        for forecasts, into in ((drained.forecasts, misses), (drained.early_forecasts, early)):
            into += [
                Miss.of(at, forecast, drained.end_s, weight=1 / len(forecasts))
                for at, forecast in forecasts
            ]
    return misses, early


def main() -> int:
    titles = "drains  in p90  in p50  p50 off  of left    made"
    print(f"{'':22}{titles}   (%; once a quarter has stopped)")
    target: list[Miss] = []
    early_rows = []
    for name in FAMILIES | OTHERS:
        misses, early = measure(name, seeds=range(DRAINS))
        print(f"{name:22}{ErrorRow.of(misses)}")
        early_rows.append(f"{name:22}{ErrorRow.of(early)}")
        if name in FAMILIES:
            target += misses
    row = ErrorRow.of(target)
    print(f"{'the first four':22}{row}")
    print(f"\n{'':22}{titles}   (once a tenth has stopped)", *early_rows, sep="\n")
    print(f"\n{'whole operations':22}{whole_operations.TITLES}")
    outcomes = whole_operations.measure(range(whole_operations.OPERATIONS))
    figures = {name: whole_operations.Figures.of(each) for name, each in outcomes.items()}
    print(*(f"{name:22}{each}" for name, each in figures.items()), sep="\n")
    promised = figures[whole_operations.TENTH], figures[whole_operations.AFTER]
    return 0 if row.on_target and all(each.on_target for each in promised) else 1


if __name__ == "__main__":
    sys.exit(main())
