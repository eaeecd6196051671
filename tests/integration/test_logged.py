"""What the daemon logs of an operation: its milestones, once each, and nothing of its polls."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tests.integration.harness import service

if TYPE_CHECKING:
    import pytest


OF_THE_DAEMON = ("orchestrator.app", "orchestrator.engine.leases")
"""These tell that it starts, what it drives, and that it stops."""


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """All else that is logged at info and above."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("orchestrator") and record.name not in OF_THE_DAEMON
    ]


async def test_an_operation_is_three_lines(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """However often its jobs are polled."""
    caplog.set_level(logging.INFO)
    jobs = {"prefix": "run", "count": 3, "instances": 5, "drain_s": 1.5}
    async with service(database_url, jobs) as running:
        ids = [f"job-run{number:05}" for number in range(1, 4)]
        operation_id = await running.submit(*ids, reason="over budget\nfor ever")
        finished = await running.finished(operation_id)
        polls = [call for call in running.simulator.calls if call.action.startswith("Describe")]
    accepted, called, ended = told(caplog)
    assert accepted == (
        f"operation {operation_id} accepted: 3 jobs of account 'main' in ap-guangzhou, "
        r"asked for by 'local': 'over budget\nfor ever'"
    )
    assert called.startswith(f"operation {operation_id}: first call: TerminateJob for job-run0000")
    assert finished["outcome"] == "verified"
    assert ended.startswith(f"operation {operation_id} of account 'main' finished: verified after ")
    assert ended.endswith(" s, 3 jobs: verified 3")
    assert len(polls) > 10
