"""A failure of informational work fails no decision: it is logged once, and the work left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.termination import PollKind
from orchestrator.engine import partition
from orchestrator.engine.drain_statistics import DrainStatistics
from orchestrator.engine.runtime.best_effort import BestEffort
from tests.support.partition_world import AMPLE, JOB, PARTITION, PartitionWorld

if TYPE_CHECKING:
    from orchestrator.store.database.database import Database


def fails(*_: Any) -> Any:
    raise ZeroDivisionError("no pace")


@pytest.mark.parametrize(
    ("where", "name", "message"),
    [
        (partition, "with_forecast", "a forecast of"),
        (DrainStatistics, "durations", "a forecast of"),
        (DrainStatistics, "on_decision", "recording drain durations of"),
    ],
)
async def test_a_decision_is_written_without_it(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: object,
    name: str,
    message: str,
) -> None:
    monkeypatch.setattr(where, name, fails)
    world = PartitionWorld(database, quotas=AMPLE)
    await world.ready(JOB)
    await world.dispatch()
    for _ in range(3):
        world.clock.advance(5)
        await world.know(JOB, poll_kind=PollKind.SINGLE, next_poll_at=world.clock.now())
        await world.probe()
    found = await world.termination(JOB)
    assert (found.state, found.schedule.set_aside) == (State.SETTLING, None)
    assert len([record for record in caplog.records if record.exc_info]) == 1
    assert f"{message} {PARTITION}" in caplog.text


def test_each_kind_of_failure_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    informing = BestEffort()
    for what in ("one", "another", "one"):
        with informing.leaving_out(what):
            fails()
    assert [record.getMessage() for record in caplog.records] == [
        f"{what} failed and is left out; jobs are still terminated; later failures of it "
        "are not logged; report this traceback"
        for what in ("one", "another")
    ]
