"""Values at and beyond the limits of their type, in every field of every reply of the cloud.

No loop stops, nothing is stored that cannot be read back, and all jobs end verified once the
replies are good again: an invalid reply proves nothing.
"""

from __future__ import annotations

import asyncio
import copy
import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from orchestrator.cloud.transport import HttpAnswer
from orchestrator.domain.decisions.escalation import EscalationPolicy
from orchestrator.domain.model.instance_scan import CapturePolicy
from orchestrator.domain.model.lifecycle import LIVE_STATES, State
from tests.support.partition_world import AMPLE, PartitionWorld

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orchestrator.store.database.database import Database

DEEP: Final[list[Any]] = []
_inner = DEEP
for _ in range(500):
    _inner.append([])
    _inner = _inner[0]

HOSTILE: Final[dict[str, Any]] = {
    "null": None,
    "empty": "",
    "NUL": "\0",
    "surrogate": "\ud800",
    "long": "é" * 300,
    "long, too": "x" * 10**6,
    "word": "PAUSED",
    "negative": -1,
    "2**31": 2**31,
    "10**12": 10**12,
    "infinite": float("inf"),
    "list of null": [None],
    "object": {},
    "deep": DEEP,
}
TWICE: Final = object()
ABSENT: Final = object()
FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "TerminateJob": ("RequestId", "Error", "Error.Code", "Error.Message"),
    "TerminateTaskInstance": ("RequestId",),
    "DescribeJob": (
        *("JobId", "JobState", "EndTime", "NextAction", "TaskInstanceMetrics"),
        *("TaskInstanceMetrics.RunningCount", "TaskInstanceMetrics.FailedCount"),
        *("TaskSet", "TaskSet.0", "TaskSet.0.TaskName", "TaskSet.0.TaskState"),
        *("Error", "Error.Code", "Error.Message"),
    ),
    "DescribeJobs": (
        *("TotalCount", "JobSet", "JobSet.0", "JobSet.0.JobId", "JobSet.0.JobName"),
        "JobSet.0.JobState",
    ),
    "DescribeJobSubmitInfo": (
        *("JobId", "Tasks", "Tasks.0", "Tasks.0.TaskName", "Tasks.0.TaskInstanceNum"),
        "Tasks.0.EnvId",
    ),
    "DescribeTask": (
        *("JobId", "TaskName", "TaskInstanceTotalCount", "TaskInstanceMetrics"),
        *("TaskInstanceMetrics.StartingCount", "TaskInstanceSet", "TaskInstanceSet.0"),
        *("TaskInstanceSet.0.TaskInstanceIndex", "TaskInstanceSet.0.TaskInstanceState"),
        *("TaskInstanceSet.0.ComputeNodeInstanceId", "TaskInstanceSet.0.StateReason"),
    ),
    "DescribeInstances": (
        *("TotalCount", "InstanceSet", "InstanceSet.0", "InstanceSet.0.InstanceId"),
        "InstanceSet.0.InstanceState",
    ),
}
HEADERS: Final = ("", "\0", "Sun, 01 Mar 99999999999999999999 12:00:00 GMT", "x" * 10**4)
JOBS_AT_ONCE: Final = 16
TURNS_OF_A_BATCH: Final = 4


STORED: Final = ("NUL", "surrogate", "long", "long, too", "2**31", "10**12", "word")
"""Values that may reach the database: SQLite is tested with all, PostgreSQL with these."""


def mutations(action: str, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Yield each place in a reply, with the value to put there."""
    for path in FIELDS[action]:
        yield from ((path, HOSTILE[name]) for name in names)
        yield path, ABSENT
        if path.endswith(".0"):
            yield path, TWICE


def mutated(document: Any, path: str, value: Any) -> Any:
    """Return the reply with this value in this place, or unchanged if it has no such place."""
    whole = copy.deepcopy(document)
    if path.startswith("Error."):
        whole["Response"].setdefault("Error", {"Code": "InternalError", "Message": "m"})
    place: Any = whole["Response"]
    *parents, last = (int(each) if each.isdigit() else each for each in path.split("."))
    try:
        for each in parents:
            place = place[each]
        if value is ABSENT:
            del place[last]
        elif value is TWICE:
            place.append(copy.deepcopy(place[last]))
        else:
            place[last] = value
    except (LookupError, TypeError):
        return whole
    return whole


class Lying:
    """Mutates each reply, with one mutation of its action's table after the other."""

    def __init__(self, world: PartitionWorld) -> None:
        self._post = world.network.post
        names = STORED if world.database.dialect.shared else HOSTILE
        self.left = {action: list(mutations(action, names)) for action in FIELDS}
        world.network.post = self.post  # type: ignore[method-assign]

    async def post(self, url: str, **request: Any) -> HttpAnswer:
        answer = await self._post(url, **request)
        left = self.left[request["headers"]["X-TC-Action"]]
        if not left:
            return answer
        path, value = left.pop()
        body = json.dumps(mutated(json.loads(answer.body), path, value)).encode()
        headers = {"Date": HEADERS[len(left) % len(HEADERS)]}
        return HttpAnswer(status=answer.status, headers=headers, body=body)


async def turn(world: PartitionWorld) -> None:
    """Run a step of every loop, several of those that call for one job each, and pass a minute."""
    some = [world.job_terminator.step, world.escalator.step, world.job_poller.step]
    some += [world.machine_poller.step, world.instance_reader.step]
    for step in (
        *some * 6,
        world.single_job_poller.step,
        world.revival_watcher.step,
        world.set_aside.step,
    ):
        await step()
        for loop in (
            world.single_job_poller,
            world.instance_reader,
            world.job_terminator,
            world.escalator,
        ):
            while loop.calls.under_way:
                await world.pass_waits()
                await asyncio.sleep(0.001)
    world.clock.advance(61)


async def live(world: PartitionWorld) -> set[str]:
    records = await world.records.terminations(after=0, limit=1000)
    assert {record.termination.schedule.set_aside for record in records} <= {None}
    states = {record.termination.state for record in records}
    assert states <= {*LIVE_STATES, State.VERIFIED, State.ALREADY_FINISHED}
    return {r.termination.job_id for r in records if not r.termination.state.final}


@pytest.mark.thorough
@pytest.mark.timeout(300)
async def test_no_value_of_an_answer_stops_a_loop_or_is_stored_beyond_reading(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    rounds = EscalationPolicy(rounds_max=1000, after_s=1.0)
    world = PartitionWorld(database, quotas=AMPLE, capture=CapturePolicy(), escalation=rounds)
    lying, turns = Lying(world), 0
    while any(lying.left.values()):
        if turns % TURNS_OF_A_BATCH == 0:
            ids = [f"job-{turns:04}{place:04}" for place in range(JOBS_AT_ONCE)]
            world.cloud_runs(*ids, instances=4, drain_s=10.0, machine_linger_s=600.0)
            world.cloud_runs(*ids[:4], instances=4, drain_s=10.0, immortal=2)
            await world.submit(*ids, asked={"give_up_after_s": 2e6})
        await turn(world)
        turns += 1
        assert turns <= 300, {action: len(left) for action, left in lying.left.items()}
    await live(world)
    assert [r.getMessage() for r in caplog.records if r.exc_info] == []
