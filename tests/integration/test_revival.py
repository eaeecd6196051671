"""A job that RetryJobs revives after it was verified, from the request to the certificate."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from orchestrator.domain.audit.certificate_verification import verify
from tests.support import HANG_S
from tests.support.service import service

if TYPE_CHECKING:
    import pytest

    from tests.support.service import Service

JOB = "job-revived1"
REVIVED: dict[str, Any] = {"ids": [JOB], "instances": 3, "drain_s": 0.1, "revive_after_s": 1.5}
ENGINE: dict[str, Any] = {
    "settle_s": 0.1,
    "revival_watch_s": 60.0,
    "poll": {
        "batch_min_interval_s": 0.05,
        "batch_max_interval_s": 0.1,
        "settling_interval_s": 0.1,
        "recount_min_interval_s": 0.05,
        "stopped_interval_s": 0.2,
    },
}


async def revived(running: Service, operation_id: str) -> Any:
    """Return the termination of the job once its revival was recorded."""
    async with asyncio.timeout(HANG_S):
        while True:
            found = (await running.terminations(operation_id))[JOB]
            if found["revived_at"]:
                return found
            await asyncio.sleep(0.05)


async def test_it_is_noticed_and_said_everywhere(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with service(database_url, REVIVED, engine=ENGINE) as running:
        operation_id = await running.submit(JOB)
        before = await running.finished(operation_id)
        assert (before["outcome"], before["progress"]["revived"]) == ("verified", 0)
        found = await revived(running, operation_id)
        assert (found["state"], found["reterminated_by"]) == ("verified", None)
        assert "but the job was running again at" in found["waiting_for"]
        assert found["next_action"] == "request its termination again"
        after = await running.get(f"/v1/operations/{operation_id}")
        assert (after["outcome"], after["progress"]["revived"]) == ("verified", 1)
        listed = await running.get(f"/v1/operations/{operation_id}/terminations?revived=true")
        assert [each["job_id"] for each in listed["terminations"]] == [JOB]
        none = await running.get("/v1/terminations?revived=false")
        assert none["terminations"] == []
        async with running.client.get(f"/v1/operations/{operation_id}/certificate") as answer:
            data = await answer.read()
        assert verify(data) == []
        assert b"NOT STOPPED FOR GOOD: 1 revived after the end" in data
        assert len(running.simulator.truth()) == 1
        assert running.simulator.truth()[0]["live"] == 3, "no request asked to terminate it again"
    assert caplog.text.count("runs again after it had stopped") == 1


async def test_a_revived_job_is_terminated_again_up_to_the_limit(database_url: str) -> None:
    """Also if nothing else is watched."""
    job, engine = REVIVED | {"revivals": 9}, ENGINE | {"revival_watch_s": 0, "reterminate_max": 2}
    async with service(database_url, job, engine=engine) as running:
        first = await running.submit(JOB, reterminate_for_s=600)
        operation_id, left_s = first, 600.0
        for _ in range(2):
            found = await revived(running, operation_id)
            operation_id = found["reterminated_by"]
            assert f"{operation_id} terminates it again" in found["waiting_for"]
            operation = await running.finished(operation_id)
            assert operation["outcome"] == "verified"
            assert (operation["reterminates_for"], operation["requested_by"]) == (first, "local")
            assert operation["reason"] == f"terminated again for {first}: a test"
            assert 500 < operation["reterminate_for_s"] < left_s
            left_s = operation["reterminate_for_s"]
        found = await revived(running, operation_id)
        assert found["reterminated_by"] is None
        assert "as often as engine.reterminate_max allows" in found["waiting_for"]
        acted = [call for call in running.simulator.calls if call.action == "TerminateJob"]
        assert len(acted) == 3
