"""A page of operations takes a fixed handful of queries, whatever it holds."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import event

from orchestrator.domain.forecasting.forecast import Forecast
from orchestrator.domain.model.lifecycle import State
from orchestrator.engine.runtime.best_effort import BestEffort
from orchestrator.services.inspection import Inspection
from orchestrator.services.partitions import Partitions
from orchestrator.store.records.queries import SqlRecords
from tests.support.stored_operations import PARTITION, submit
from tests.support.termination_fields import store_fields
from tests.unit.domain.build import NOW, later

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.store.database.database import Database

QUERIES_MAX = 10


@contextmanager
def counted(database: Database) -> Iterator[list[str]]:
    """Collect the statements of the block that read tables."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if " FROM " in statement:
            statements.append(statement)

    engine = database.dialect.readers.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)


async def test_a_page_of_100_running_operations_takes_ten_queries(database: Database) -> None:
    """Each has a waiting job, a draining one with a forecast, and one that it shares."""
    records = SqlRecords(database, lambda: later(100))
    forecast = Forecast(made_at=NOW, rate_per_s=0.5, p50_at=later(200), p90_at=later(300))
    for number in range(1, 101):
        await submit(records, number, f"job-{number}a", f"job-{number}b", "job-shared")
        (drains,) = await records.terminations(after=0, limit=1, job_id=f"job-{number}a")
        await store_fields(
            database,
            drains.termination,
            state=State.DRAINING,
            acknowledged_at=later(50),
            forecast=forecast,
        )
    inspection = Inspection(
        records=records,
        unconfigured=None,  # type: ignore[arg-type]
        partitions=Partitions({PARTITION: 2}, running={PARTITION}),
        capture_wait_s=3.0,
        now=lambda: later(100),
        best_effort=BestEffort().leaving_out,
        monotonic=lambda: 0.0,
    )
    with counted(database) as statements:
        found = await records.find_operations(after=0, limit=100, finished=False, account=None)
        inspected = await inspection.operations(found)
    assert len(inspected) == 100
    assert {each.stopped and each.stopped.made_at for each in inspected} == {later(100)}
    assert len(statements) <= QUERIES_MAX, statements
