"""Counts of an operation's jobs, from which its end is forecast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.domain.forecasting.drain_history import DrainHistory
from orchestrator.domain.forecasting.duration_distribution import bucket, estimate
from orchestrator.domain.forecasting.forecast import Forecast
from orchestrator.domain.model.batch_job import InstanceCounters
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.unconfirmed import Unconfirmed, Verdict
from orchestrator.domain.progress import termination_forecast
from orchestrator.domain.progress.termination_forecast import FAILURES_MAX
from orchestrator.store.records.drain_durations import FEW, OTHERS_MAX
from orchestrator.store.records.operation_progress import ENDING_MAX
from orchestrator.store.records.queries import SqlRecords
from tests.support.operation_records import operation_record
from tests.support.stored_operations import submit
from tests.support.termination_fields import store_fields
from tests.unit.domain.build import NOW, later

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.model.termination import Termination
    from orchestrator.domain.progress.operation_forecast import Progress
    from orchestrator.store.database.database import Database

ASKED_AT = later(1000)
TENS = estimate({bucket(10): 100}, {})


def ending(p90_s: float) -> Forecast:
    return Forecast(made_at=later(900), rate_per_s=0.5, p50_at=later(1100), p90_at=later(p90_s))


def stalled(since_s: float) -> Forecast:
    return Forecast(made_at=later(900), rate_per_s=0.0, stalled_since=later(since_s))


def draining(acknowledged_s: float, forecast: Forecast | None = None) -> dict[str, Any]:
    acknowledged_at = later(acknowledged_s)
    return {"state": State.DRAINING, "acknowledged_at": acknowledged_at, "forecast": forecast}


def stopped(acknowledged_s: float, took_s: float, state: State = State.VERIFIED) -> dict[str, Any]:
    """A job observed as stopped this long after its call; it settles for 30 s."""
    ended_at = later(acknowledged_s + took_s)
    known = {"state": state, "acknowledged_at": later(acknowledged_s), "next_poll_at": None}
    known |= {"settle_until": later(acknowledged_s + took_s + 30)}
    known |= {"instances": InstanceCounters(failed=1), "instances_observed_at": ended_at}
    return known | ({"finished_at": ended_at} if state.final else {})


class Inspection:
    """The operations of a database, read at one time."""

    def __init__(self, database: Database, at: datetime = ASKED_AT) -> None:
        self._database = database
        self.records = SqlRecords(database, lambda: at)
        self._jobs = 0
        self._operations = 0

    async def submit(self, *known: dict[str, Any], **more: Any) -> str:
        """Create an operation with one job for each of these, and store this about them."""
        self._operations += 1
        ids = [f"job-{number}" for number in range(self._jobs, self._jobs + len(known))]
        self._jobs += len(ids)
        operation_id = await submit(self.records, self._operations, *ids, **more)
        for job_id, values in zip(ids, known, strict=True):
            if values:
                await store_fields(self._database, await self.termination(job_id), **values)
        return operation_id

    async def termination(self, job_id: str) -> Termination:
        (found,) = await self.records.terminations(after=0, limit=2, job_id=job_id)
        return found.termination

    async def progress(self, operation_id: str, calls_per_s: int = 2) -> Progress:
        record = await operation_record(self.records, operation_id)
        assert record is not None
        return (await self.records.progress([(record, calls_per_s)]))[operation_id]


@pytest.fixture
def inspection(database: Database) -> Inspection:
    return Inspection(database)


async def test_a_history_and_a_forecast_are_read_as_they_were_written(
    inspection: Inspection,
) -> None:
    forecast = Forecast(made_at=later(3.000001), rate_per_s=1 / 3, p50_at=later(4), p90_at=NOW)
    samples = ((NOW.timestamp() + 0.123456, 100), (NOW.timestamp() + 1 / 3, 7))
    history = DrainHistory(samples=samples, seen_at=NOW.timestamp() + 0.7, pause_s=1 / 7)
    await inspection.submit(draining(0) | {"history": history, "forecast": forecast})
    found = await inspection.termination("job-0")
    assert (found.drain.history, found.drain.forecast) == (history, forecast)


async def test_every_job_is_counted_where_it_is(inspection: Inspection) -> None:
    operation_id = await inspection.submit(
        {},
        {"state": State.SENDING, "next_poll_at": None},
        {"state": State.HELD},
        draining(900),
        draining(899.3),
        draining(950, Forecast(made_at=later(950))),
        draining(100, ending(1200)),
        draining(100, ending(1300)),
        draining(100, stalled(400)),
        draining(100, stalled(500)),
        stopped(100, 20),
        stopped(200, 20.9),
        stopped(760, 40, State.SETTLING),
        {"state": State.NOT_FOUND, "next_poll_at": None, "finished_at": NOW},
    )
    found = await inspection.progress(operation_id)
    assert (found.pending, found.unknown, found.stalled) == (2, 1, 2)
    assert found.last_dispatch_s == 1.0
    assert found.last_progress_at == later(500)
    assert found.stopped == {bucket(20.5): 2, bucket(40.5): 1}
    assert found.draining == {bucket(100.5): 2, bucket(50.5): 1, bucket(900): 2}
    assert found.ending == [(bucket(900), ending(1300)), (bucket(900), ending(1200))]
    assert (found.stopped_in_window, found.window_s) == (1, 250.0)


LATE_OR_UNREAD: list[dict[str, Any]] = [
    {"give_up_at": ASKED_AT},
    {"failures": FAILURES_MAX},
    {
        "unconfirmed": Unconfirmed(
            verdict=Verdict.UNREADABLE,
            since=NOW,
            last_at=NOW,
            until=later(9999),
            answers=1,
            sources=("DescribeJob",),
        )
    },
]


@pytest.mark.parametrize("known", LATE_OR_UNREAD, ids=lambda known: next(iter(known)))
async def test_late_and_unread_jobs_have_no_known_end(
    inspection: Inspection, known: dict[str, Any]
) -> None:
    """The job's own forecast agrees with the operation's; a stall was observed before."""
    before = {"give_up_at": later(1001), "failures": FAILURES_MAX - 1}
    each = [
        {"terminate_after": later(999)},
        draining(900, ending(1200)),
        {"state": State.SENDING, "next_poll_at": None},
        draining(900),
        draining(100, stalled(400)),
        {"state": State.NOT_FOUND, "next_poll_at": None, "finished_at": NOW},
    ]
    ids = [
        await inspection.submit(*({**more, **values} for values in each))
        for more in (before, before | known)
    ]
    counts = [
        (
            found.pending,
            len(found.ending),
            sum(found.draining.values()),
            found.unknown,
            found.stalled,
        )
        for found in [await inspection.progress(id_) for id_ in ids]
    ]
    assert counts == [(2, 1, 2, 0, 1), (0, 0, 0, 4, 1)]
    forecasts = [
        [
            termination_forecast.current(
                await inspection.termination(f"job-{number}"), later(1001), TENS, ASKED_AT
            )
            for number in numbers
        ]
        for numbers in ((0, 1, 4), (6, 7, 10))
    ]
    assert [[forecast is not None for forecast in of_it] for of_it in forecasts] == [
        [True, True, True],
        [False, False, True],
    ]


async def test_nothing_is_counted_of_other_operations_jobs(inspection: Inspection) -> None:
    """Except their durations, if few of its own jobs have stopped; its own count once."""
    await inspection.submit({}, draining(10), stopped(0, 10), stopped(0, 10, State.SETTLING))
    mine = await inspection.submit({}, stopped(0, 20))
    found = await inspection.progress(mine)
    assert (found.pending, found.draining, found.ending) == (1, {}, [])
    assert found.stopped == {bucket(20.5): 1, bucket(10.5): 1}
    assert found.stopped_in_window == 0


async def test_enough_of_its_own_are_better_than_others(inspection: Inspection) -> None:
    await inspection.submit(stopped(0, 10))
    mine = await inspection.submit(*[stopped(0, 20)] * FEW)
    assert (await inspection.progress(mine)).stopped == {bucket(20.5): FEW}


async def test_of_others_the_last_ones_count(inspection: Inspection) -> None:
    await inspection.submit(*[stopped(0, 10)] * 3, *[stopped(100, 20)] * OTHERS_MAX)
    mine = await inspection.submit({"terminate_after": NOW})
    assert (await inspection.progress(mine)).stopped == {bucket(20.5): OTHERS_MAX}
    others = await inspection.records.past_durations(
        (await inspection.termination("job-103")).partition
    )
    assert others is not None
    assert others.rest(0).quantile_s(0.5) == pytest.approx(20, rel=0.1)


@pytest.mark.parametrize("took_s", [0.2, 127, 128, 1000, 80_000])
async def test_durations_of_drains_are_counted_in_buckets(
    inspection: Inspection, took_s: float
) -> None:
    operation_id = await inspection.submit(*[stopped(0, took_s)] * FEW)
    ((index, jobs),) = (await inspection.progress(operation_id)).stopped.items()
    assert jobs == FEW
    assert abs(index - bucket(took_s)) <= 1


async def test_the_latest_ends_are_enough(inspection: Inspection) -> None:
    operation_id = await inspection.submit(
        *(draining(0, ending(2000 + number)) for number in range(ENDING_MAX + 3))
    )
    found = await inspection.progress(operation_id)
    assert sum(found.draining.values()) == ENDING_MAX + 3
    assert [forecast.p90_at for _, forecast in found.ending] == [
        later(2000 + number) for number in range(ENDING_MAX + 2, 2, -1)
    ]


async def test_calls_ahead_are_waited_for(inspection: Inspection) -> None:
    """As many of each other operation as of this one, unless they begin later."""
    await inspection.submit({}, {}, {})
    await inspection.submit({}, {}, not_before=later(5000))
    mine = await inspection.submit({}, {}, {}, {}, {})
    await inspection.submit({}, {})
    assert (await inspection.progress(mine, calls_per_s=2)).last_dispatch_s == 5.0
    assert (await inspection.progress(mine, calls_per_s=4)).last_dispatch_s == 2.5
    assert (await inspection.progress(mine)).begins_at is None


async def test_an_operation_that_starts_later_waits_for_its_own_calls_from_then_on(
    inspection: Inspection,
) -> None:
    await inspection.submit({}, {}, {})
    mine = await inspection.submit({}, {}, not_before=later(5000))
    found = await inspection.progress(mine)
    assert (found.begins_at, found.last_dispatch_s) == (later(5000), 1.0)
    begun = await Inspection(inspection._database, later(6000)).progress(mine)
    assert begun.last_dispatch_s == 2.0


async def test_jobs_that_others_want_as_well_are_waited_for_once(inspection: Inspection) -> None:
    first = await inspection.submit(*[{}] * 20)
    mine = await submit(inspection.records, 2, *[f"job-{number}" for number in range(15, 20)])
    await submit(inspection.records, 3, "job-0", "job-1")
    await submit(inspection.records, 4, "job-0", "job-1")
    assert (await inspection.progress(mine)).last_dispatch_s == (5 + 5) / 2
    assert (await inspection.progress(first)).last_dispatch_s == 20 / 2


async def test_the_rate_of_a_young_operation_is_that_of_its_whole_time(database: Database) -> None:
    inspection = Inspection(database, later(20))
    found = await inspection.progress(await inspection.submit(stopped(0, 10), stopped(0, 10)))
    assert (found.stopped_in_window, found.window_s) == (2, 20.0)


async def test_a_clock_that_was_set_back_leaves_the_rate_of_the_last_minute(
    database: Database,
) -> None:
    """Jobs that stopped later than now do not count."""
    inspection = Inspection(database, later(-500))
    found = await inspection.progress(
        await inspection.submit(stopped(-530, 10), stopped(-600, 10), stopped(-480, 10))
    )
    assert (found.stopped_in_window, found.window_s) == (1, 60.0)


async def test_jobs_that_ended_otherwise_count_in_no_drain_statistics(
    inspection: Inspection,
) -> None:
    ended = {"state": State.ALREADY_FINISHED, "next_poll_at": None, "finished_at": NOW}
    await inspection.submit(ended, ended | {"state": State.VERIFIED})
    assert (await inspection.progress(await inspection.submit({}))).stopped == {}


async def test_settle_windows_are_counted_apart_from_live_jobs(
    inspection: Inspection,
) -> None:
    """Another operation that joins a job may extend its window."""
    settling = [stopped(100, took_s, State.SETTLING) for took_s in (20, 40, 30)]
    only = await inspection.progress(await inspection.submit(*settling, stopped(900, 50)))
    assert (only.settle_until, only.settle_s) == (later(170), None)
    mine = await inspection.submit(stopped(100, 20, State.SETTLING), {}, draining(0))
    await submit(inspection.records, 9, "job-6", settle_s=300.0)
    found = await inspection.progress(mine)
    assert (found.settle_until, found.settle_s) == (later(150), 300.0)
    ended = await inspection.progress(await inspection.submit(stopped(100, 20)))
    assert (ended.settle_until, ended.settle_s) == (None, None)
