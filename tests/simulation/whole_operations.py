"""Whole operations in virtual time, and how far the forecasts of their ends are off.

The model: TerminateJob leaves in turn, at up to 15 % less than the quota; the instances of a job
stop in one of several ways, and some stragglers only once they are escalated; instance counts are
as frequent as the DescribeJob quota allows; a batch poll shows that a job has stopped. Half of the
operations run where other jobs have drained before. Their drains took a while longer or less.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Final

from orchestrator.domain.forecasting import drain_history
from orchestrator.domain.forecasting.duration_distribution import bucket, estimate
from orchestrator.domain.forecasting.forecast import of_drain
from orchestrator.domain.pacing.polling import PollPolicy, drain_poll_s
from orchestrator.domain.progress.operation_forecast import Progress, forecast
from orchestrator.engine.loops.single_job_poller import (
    COUNT_ALL_EVERY_S,
    RECENTLY_VIEWED_COUNT_EVERY_S,
)
from orchestrator.store.records.drain_durations import FEW
from orchestrator.store.records.operation_progress import ENDING_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from orchestrator.domain.forecasting.drain_history import DrainHistory
    from orchestrator.domain.forecasting.duration_distribution import Durations
    from orchestrator.domain.forecasting.forecast import Forecast

    Ends = Callable[[Random, int], list[float]]
    """When each of so many instances stops; the last one at about 1."""

BEGAN_AT: Final = datetime(2026, 3, 1, tzinfo=UTC)
POLICY: Final = PollPolicy()
OPERATIONS: Final = 200
JOBS: Final = (20, 500)
INSTANCES: Final = (1, 1000)
TYPICAL_S: Final = (5.0, 600.0)
LATER: Final = 3
"""Number of forecasts between the time at which a tenth of the jobs has stopped and the end."""


def time_at(seconds: float) -> datetime:
    return BEGAN_AT + timedelta(seconds=seconds)


def log_uniform(random: Random, least: float, most: float) -> float:
    return math.exp(random.uniform(math.log(least), math.log(most)))


# --- drains --------------------------------------------------------------------------------------


def exponential(random: Random, instances: int) -> list[float]:
    return [random.expovariate(math.log(instances) + 0.6) for _ in range(instances)]


def log_normal(random: Random, instances: int) -> list[float]:
    last = math.exp(0.7 * math.sqrt(2 * math.log(instances + 1)))
    return [random.lognormvariate(0, 0.8) / last for _ in range(instances)]


def staircase(random: Random, instances: int) -> list[float]:
    steps = random.randint(3, 12)
    return [
        math.ceil((rank + 1) * steps / instances) / steps * random.uniform(0.97, 1.03)
        for rank in range(instances)
    ]


def even(random: Random, instances: int) -> list[float]:
    begins = random.uniform(0, 0.2)
    return [begins + (1 - begins) * (rank + 1) / instances for rank in range(instances)]


def constant(random: Random, instances: int) -> list[float]:
    return [random.uniform(0.97, 1.03) for _ in range(instances)]


WAYS: Final[tuple[Ends, ...]] = (exponential, log_normal, staircase, even, constant)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What the drains of one operation have in common; ``stragglers``: the share of jobs."""

    ways: Sequence[Ends]
    typical_s: float
    spread: float
    instances: tuple[float, float]
    stragglers: float

    @classmethod
    def any(cls, random: Random) -> Workload:
        instances = log_uniform(random, *INSTANCES)
        return cls(
            ways=random.sample(WAYS, random.choice([1, 1, 2, 3])),
            typical_s=log_uniform(random, *TYPICAL_S),
            spread=random.uniform(0, 0.8),
            instances=(instances, min(INSTANCES[1], instances * random.choice([1, 2, 10]))),
            stragglers=random.choice([0, 0, 0, random.uniform(0.01, 0.2)]),
        )

    def drain(self, random: Random, *, drift: float = 1.0) -> list[float]:
        """Return when the instances of one job stop, in seconds after the acknowledgement."""
        instances = round(log_uniform(random, *self.instances))
        scale = drift * self.typical_s * random.lognormvariate(0, self.spread)
        ends_s = sorted(scale * end for end in random.choice(self.ways)(random, instances))
        if random.random() < self.stragglers:
            # Escalated after a minute, and nearly as long as the drain has made progress.
            ends_s[-1] += max(60.0, 0.9 * ends_s[-1]) + random.uniform(5, 20)
        return ends_s


# --- operations ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job: ``began_s``: its acknowledgement; ``seen_s``: when a poll shows it stopped."""

    began_s: float
    ends_s: Sequence[float]
    counts_s: Sequence[float]
    seen_s: float

    def forecast(self, others: Durations | None, now_s: float) -> Forecast | None:
        """Return the job's own forecast, made at its last count; None before the first count."""
        instances = len(self.ends_s)
        history: DrainHistory | None = None
        for count_s in self.counts_s[: bisect_right(self.counts_s, now_s)]:
            history = history or drain_history.begin(time_at(self.began_s), instances)
            live = instances - bisect_right(self.ends_s, count_s)
            history = drain_history.observe(history, time_at(count_s), live)
        if history is None:
            return None
        return of_drain(history, others, datetime.fromtimestamp(history.seen_at, UTC))


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An operation; ``past``: drains of other operations, by their duration."""

    jobs: Sequence[Job]
    calls_per_s: int
    past: Counter[int]

    @property
    def end_s(self) -> float:
        return max(job.seen_s for job in self.jobs)

    def progress(self, now_s: float) -> Progress:
        """Return what a database would count."""
        begun = [job for job in self.jobs if job.began_s <= now_s]
        stopped = Counter(bucket(job.seen_s - job.began_s) for job in begun if job.seen_s <= now_s)
        live = [job for job in begun if job.seen_s > now_s]
        ages = [bucket(now_s - job.began_s) for job in live]
        others = estimate(stopped + self.past, Counter(ages))
        own = [(age, job.forecast(others, now_s)) for age, job in zip(ages, live, strict=True)]
        stalled = [each.stalled_since for _, each in own if each and each.stalled_since]
        ending = [(each.p90_at, age, each) for age, each in own if each and each.p90_at]
        latest = sorted(ending, key=lambda each: each[0], reverse=True)[:ENDING_MAX]
        window_s = min(max(1.0, now_s), max(60.0, now_s / 4))
        pending = len(self.jobs) - len(begun)
        return Progress(
            pending=pending,
            last_dispatch_s=pending / self.calls_per_s,
            stopped=stopped + self.past if stopped.total() < FEW else stopped,
            draining=Counter(age for age, each in own if not each or not each.stalled_since),
            ending=[(age, each) for _, age, each in latest],
            unknown=0,
            stalled=len(stalled),
            last_progress_at=max(stalled, default=None),
            stopped_in_window=sum(now_s - window_s < job.seen_s <= now_s for job in begun),
            window_s=window_s,
        )


def operation(random: Random) -> Operation:
    workload, jobs = Workload.any(random), round(log_uniform(random, *JOBS))
    calls_per_s = random.choice([2, 10])
    at_a_time = min(jobs, calls_per_s * workload.typical_s)
    counts_per_s = calls_per_s * random.choice([1, 2])
    every_s = max(
        random.choice([RECENTLY_VIEWED_COUNT_EVERY_S, COUNT_ALL_EVERY_S]), at_a_time / counts_per_s
    )
    slower, began_s, made = random.uniform(1, 1.15), 0.0, []
    for _ in range(jobs):
        began_s += slower * random.uniform(0.8, 1.2) / calls_per_s
        made.append(_job(random, began_s, workload.drain(random), every_s))
    drift = random.lognormvariate(0, 0.3)
    past = [workload.drain(random, drift=drift)[-1] for _ in range(random.choice([0, 0, 5, 100]))]
    return Operation(
        jobs=made, calls_per_s=calls_per_s, past=Counter(bucket(took_s) for took_s in past)
    )


def _job(random: Random, began_s: float, drain: Sequence[float], every_s: float) -> Job:
    sweep_s = random.uniform(POLICY.batch_min_interval_s, POLICY.batch_max_interval_s)
    unseen_s = random.random() * drain_poll_s(POLICY, batch_interval_s=sweep_s, age_s=drain[-1])
    seen_s = began_s + drain[-1] + unseen_s
    counts_s, count_s = [], began_s + random.random() * every_s
    while count_s < seen_s:
        counts_s.append(count_s)
        count_s += every_s * random.uniform(1, 1.15)
    return Job(
        began_s=began_s,
        ends_s=[began_s + end_s for end_s in drain],
        counts_s=counts_s,
        seen_s=seen_s,
    )


# --- how far the forecasts are off ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """One forecast beside the end; ``of_left`` and ``of_whole`` are None if it has no end.

    ``of_left``: p50 as a multiple of the time that was really left; ``of_whole``: the same from the
    begin of the operation on.
    """

    of_left: float | None
    of_whole: float | None
    within_p90: bool

    @classmethod
    def of(cls, made: Forecast, now_s: float, end_s: float) -> Outcome:
        if made.p50_at is None or made.p90_at is None:
            return cls(None, None, within_p90=False)
        p50_s = (made.p50_at - BEGAN_AT).total_seconds()
        return cls(
            (p50_s - now_s) / (end_s - now_s),
            p50_s / end_s,
            within_p90=made.p90_at >= time_at(end_s),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One line of the table: ``median`` is of ``of_left``; all others are in per cent."""

    known: float
    median: float
    within_twice: float
    whole_within_twice: float
    within_p90: float

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> Figures:
        left = [each.of_left for each in outcomes if each.of_left is not None]
        whole = [each.of_whole for each in outcomes if each.of_whole is not None]
        return cls(
            known=100 * len(left) / len(outcomes),
            median=statistics.median(left),
            within_twice=_share(0.5 <= ratio <= 2 for ratio in left),
            whole_within_twice=_share(0.5 <= ratio <= 2 for ratio in whole),
            within_p90=100 * sum(each.within_p90 for each in outcomes) / len(left),
        )

    @property
    def on_target(self) -> bool:
        return 0.67 <= self.median <= 1.5 and 80 <= self.within_p90 <= 97

    def __str__(self) -> str:
        return (
            f"{self.known:7.1f} {self.median:7.2f} {self.within_twice:7.1f} "
            f"{self.whole_within_twice:7.1f} {self.within_p90:7.1f}"
        )


TITLES: Final = "  known  median   in 2x   whole  in p90"
TENTH: Final = "once a tenth stopped"
AFTER: Final = "from then to the end"


def _share(values: Iterable[bool]) -> float:
    return 100 * statistics.mean(values)


def measure(seeds: range) -> dict[str, list[Outcome]]:
    """Return the outcomes of the forecasts of one operation a seed, by when they were made."""
    outcomes: dict[str, list[Outcome]] = {"at a third of the time": [], TENTH: [], AFTER: []}
    for seed in seeds:
        made = operation(Random(f"operation {seed}"))
        end_s = made.end_s
        seen_s = sorted(job.seen_s for job in made.jobs)
        tenth_s = seen_s[math.ceil(len(seen_s) / 10) - 1]
        step_s = (end_s - tenth_s) / (LATER + 1)
        later_s = [tenth_s + step_s * number for number in range(1, LATER + 1)]
        for times_s, into in zip(([end_s / 3], [tenth_s], later_s), outcomes.values(), strict=True):
            into += [
                Outcome.of(forecast(made.progress(now_s), time_at(now_s)), now_s, end_s)
                for now_s in times_s
            ]
    return outcomes
