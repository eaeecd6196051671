"""Details and rows that cannot be read: every request is answered without them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.domain.progress import termination_forecast
from orchestrator.services import inspection
from orchestrator.store.records.queries import SqlRecords
from tests.support.rest import OPERATIONS, Rest, tomorrow
from tests.support.service import service

if TYPE_CHECKING:
    from pathlib import Path


def fails(*_: Any) -> Any:
    raise ZeroDivisionError("no pace")


async def async_fails(*_: Any) -> Any:
    raise KeyError("no row")


@pytest.mark.parametrize(
    ("where", "name", "failing"),
    [
        (termination_forecast, "current", fails),
        (inspection, "explain", fails),
        (inspection, "forecast", fails),
        (SqlRecords, "progress", async_fails),
        (SqlRecords, "past_durations", async_fails),
    ],
)
async def test_a_request_is_answered_without_what_only_informs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: object,
    name: str,
    failing: Any,
) -> None:
    monkeypatch.setattr(where, name, failing)
    async with service(f"sqlite:///{tmp_path / 'a.db'}") as running:
        operation = await running.submit("job-aaaaaaaa", not_before=tomorrow())
        for _ in range(2):
            assert (await running.get(f"{OPERATIONS}/{operation}"))["progress"]["eta"] is None
            listed = await running.terminations(operation)
            alone = await running.get(f"/v1/terminations/{listed['job-aaaaaaaa']['id']}")
            assert alone["eta"] is None
            assert alone["waiting_for"]
            assert len((await running.get(OPERATIONS))["operations"]) == 1
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_an_unreadable_row_is_logged_and_shown_and_ends_once_it_is_repaired(
    tmp_path: Path,
) -> None:
    file = tmp_path / "orchestrator.db"
    jobs = {"prefix": "ok", "count": 2, "instances": 2, "drain_s": 0.3}
    async with service(f"sqlite:///{file}", jobs) as running:
        rest = Rest(running, file)
        (bad, good) = sorted(running.simulator._jobs)
        operation = await running.submit(bad, good, not_before=tomorrow())
        other = await running.submit(good)
        with closing(sqlite3.connect(file, isolation_level=None)) as editor:
            editor.execute("UPDATE terminations SET tasks = '{' WHERE job_id = ?", [bad])
            editor.execute(
                "UPDATE terminations SET not_before = NULL, next_poll_at = created_at "
                "WHERE job_id = ?",
                [bad],
            )
            await running.finished(other)
            listed = await running.terminations(operation)
            shown = listed[bad]
            assert listed[good]["state"] == "verified"
            assert (shown["state"], shown["evidence"]) == ("queued", 0)
            assert "its row in the database cannot be read: JSONDecodeError" in shown["set_aside"]
            assert shown["set_aside"] in shown["waiting_for"]
            assert await running.get(f"/v1/terminations/{shown['id']}") == shown | {"tasks": []}
            ready = (await rest.get("/readyz")).document
            assert ready["status"] == "degraded"
            assert ready["set_aside"] == {"terminations": 1, "ids": [shown["id"]]}
            assert (await running.get(f"{OPERATIONS}/{operation}"))["state"] == "running"
            editor.execute("UPDATE terminations SET tasks = '[]', set_aside_until = created_at")
        assert (await running.finished(operation))["outcome"] == "verified"
        assert (await rest.get("/readyz")).document["status"] == "ready"
