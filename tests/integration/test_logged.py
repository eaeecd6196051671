"""The log and the metrics of an operation: its milestones, its calls and its end."""

from __future__ import annotations

import logging
import re
from collections import Counter
from typing import TYPE_CHECKING

from orchestrator.engine.runtime.loop import LoopKind
from tests.support.service import service

if TYPE_CHECKING:
    import pytest


OF_THE_DAEMON = (
    "orchestrator.api.connections",
    "orchestrator.daemon",
    "orchestrator.engine.replica.lease_manager",
    "orchestrator.store.database.sqlite",
)
"""Loggers of the messages that it starts, what it drives, and that it stops."""


def milestones(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return all else that is logged at info and above."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("orchestrator") and record.name not in OF_THE_DAEMON
    ]


async def test_an_operation_is_three_lines(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The number of polls makes no difference."""
    caplog.set_level(logging.INFO)
    jobs = {"prefix": "run", "count": 3, "instances": 5, "drain_s": 1.5}
    async with service(database_url, jobs) as running:
        ids = [f"job-run{number:05}" for number in range(1, 4)]
        operation_id = await running.submit(*ids, reason="over budget\nfor ever")
        finished = await running.finished(operation_id)
        polls = [call for call in running.simulator.calls if call.action.startswith("Describe")]
    accepted, called, ended = milestones(caplog)
    assert accepted == (
        f"operation {operation_id} accepted: 3 jobs of account 'main' in ap-guangzhou, "
        r"requested by 'local': 'over budget\nfor ever'"
    )
    assert called.startswith(
        f"operation {operation_id}: first termination request: TerminateJob for job-run0000"
    )
    assert finished["outcome"] == "verified"
    assert ended.startswith(f"operation {operation_id} of account 'main' finished: verified after ")
    assert ended.endswith(" s, 3 jobs: verified 3")
    assert len(polls) > 10


async def test_every_call_that_the_cloud_had_is_counted(database_url: str) -> None:
    """Return the calls by action and outcome, and the terminations by outcome."""
    engine = {"revival_watch_s": 0, "settle_s": 0.2, "poll": {"batch_min_interval_s": 0.05}}
    jobs = {"prefix": "run", "count": 2, "instances": 5, "drain_s": 0.3}
    faults = {"TerminateJob": {"throttle": {"probability": 1, "first_n": 1}}}
    async with service(database_url, jobs, engine=engine, faults=faults) as running:
        await running.finished(await running.submit("job-run00001", "job-run00002"))
        async with running.client.get("/metrics") as answer:
            assert answer.status == 200
            text = await answer.text()
        arrived = Counter(call.action for call in running.simulator.calls)
    counted: Counter[str] = Counter()
    for action, value in re.findall(r'\ncloud_calls_total\{action="(\w+)",.*\} (.*)', text):
        counted[action] += int(float(value))
    assert +counted == arrived
    stepped = re.findall(r'\nloop_step_seconds_count\{loop="(\w+)"\} (.*)', text)
    assert {loop for loop, count in stepped if float(count) > 0} == {*LoopKind}
    for line in (
        'cloud_calls_total{action="TerminateJob",outcome="accepted"} 2.0',
        'cloud_calls_total{action="TerminateJob",outcome="throttled"} 1.0',
        'terminations_ended_total{state="verified"} 2.0',
        'loop_step_failures_total{loop="job_terminator"} 0.0',
        'terminations{state="queued"} 0.0',
        'oldest_waiting_seconds{state="held"} 0.0',
    ):
        assert f"\n{line}\n" in text
