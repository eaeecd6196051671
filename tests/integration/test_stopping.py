"""The daemon as a process that is stopped: how long it takes, and what it leaves behind."""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from orchestrator.simulator.traffic.fault_injection import read_faults
from tests.support import HANG_S
from tests.support.call_checks import called_unread
from tests.support.daemon_process import (
    ACCOUNTS,
    JOBS,
    STOP_MAX_S,
    Daemon,
    DelayableCloud,
    gone,
    stopped,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ANSWER_S: Final = 1.0
IDLE_STOP_MAX_S: Final = 2.0
HANG: Final = {"TerminateJob": {"hang": {"probability": 1.0, "hang_s": 300}}}


@asynccontextmanager
async def half_a_request(daemon: Daemon) -> AsyncIterator[None]:
    """A client that began to submit and does not continue."""
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
    writer.write(
        b"POST /v1/operations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Expect: 100-continue\r\nContent-Length: 100\r\n\r\n"
    )
    try:
        async with asyncio.timeout(HANG_S):
            assert b" 100 " in await reader.readline()
        yield
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.timeout(120)
async def test_hanging_calls_do_not_delay_the_stop(cloud: DelayableCloud, daemon: Daemon) -> None:
    """Calls of two partitions and a request; the next process reads the jobs in doubt first."""
    cloud.simulator.faults.replace(read_faults(HANG), now=cloud.simulator.now())
    async with daemon.serving() as process:
        first = await daemon.submit(*JOBS[:2], account=ACCOUNTS[0])
        second = await daemon.submit(JOBS[2], account=ACCOUNTS[1])
        await until(lambda: cloud.called(*JOBS), process)
        async with half_a_request(daemon):
            assert await stopped(process, signal.SIGTERM) < STOP_MAX_S
    cloud.simulator.faults.replace({}, now=cloud.simulator.now())
    async with daemon.serving():
        ended = await daemon.finished(first) | await daemon.finished(second)
    assert {each["job_id"]: each["state"] for each in ended.values()} == dict.fromkeys(
        JOBS, "verified"
    )
    for each in ended.values():
        outcomes = [attempt["outcome"] for attempt in each["attempts"]]
        assert outcomes == ["interrupted", "accepted"]
    assert called_unread(cloud.simulator.calls) == []


async def test_jobs_that_are_waited_for_do_not_delay_the_stop(
    cloud: DelayableCloud, daemon: Daemon
) -> None:
    """Held, draining, and an idle client: no call is under way."""
    cloud.simulator.add_groups(
        [{"ids": ["job-held0001"], "state": "SUBMITTED"}, {"ids": ["job-long0001"], "drain_s": 300}]
    )
    async with daemon.serving() as process:
        operation_id = await daemon.submit("job-held0001", "job-long0001", account=ACCOUNTS[0])
        wanted = {"held": 1, "draining": 1}
        await daemon.reached(
            operation_id, lambda each: wanted.items() <= each["progress"]["jobs"].items()
        )
        assert await stopped(process, signal.SIGTERM) < IDLE_STOP_MAX_S


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_with_nothing_to_do_it_stops_at_once(daemon: Daemon, number: signal.Signals) -> None:
    async with daemon.serving() as process:
        assert await stopped(process, number) < IDLE_STOP_MAX_S


@pytest.mark.parametrize(
    ("first", "more"),
    [
        (signal.SIGTERM, ()),
        (signal.SIGTERM, (signal.SIGTERM, signal.SIGINT)),
        (signal.SIGINT, (signal.SIGINT, signal.SIGTERM)),
    ],
    ids=["once", "SIGTERM first", "SIGINT first"],
)
async def test_pending_answers_are_written(
    cloud: DelayableCloud, daemon: Daemon, first: signal.Signals, more: tuple[signal.Signals, ...]
) -> None:
    """Any number of signals meanwhile changes nothing; the next process has nothing in doubt."""
    cloud.answers.clear()
    async with daemon.serving() as process:
        operation_id = await daemon.submit(*JOBS, account=ACCOUNTS[0])
        await until(lambda: cloud.waiting == len(JOBS), process)
        process.process.send_signal(first)
        await until(lambda: "stopping" in process.log.read_text(), process)
        for number in more:
            process.process.send_signal(number)
        cloud.answer_in(ANSWER_S)
        await gone(process)
    rows = daemon.rows("SELECT number, outcome, request_id FROM attempts ORDER BY request_id")
    answered = sorted(call.request_id for call in cloud.calls("TerminateJob"))
    assert rows == [(1, "accepted", request_id) for request_id in answered]
    assert len(rows) == len(JOBS)
    async with daemon.serving():
        ended = await daemon.finished(operation_id)
    assert {each["state"] for each in ended.values()} == {"verified"}
    assert len(cloud.calls("TerminateJob")) == len(JOBS)


async def test_stopped_while_it_starts(cloud: DelayableCloud, daemon: Daemon) -> None:
    """Once it handles signals it ends with 0, without a call to the cloud."""
    async with daemon.started() as process:
        await until(lambda: catches(process.process.pid, signal.SIGTERM), process)
        await stopped(process, signal.SIGTERM)
    assert cloud.simulator.calls == []
    async with daemon.serving() as process:
        await stopped(process, signal.SIGTERM)


async def test_stopped_at_its_first_instruction(cloud: DelayableCloud, daemon: Daemon) -> None:
    """Before there is anything to end, the signal itself may end the process."""
    async with daemon.started() as process:
        process.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(HANG_S):
            assert await process.process.wait() in (0, -signal.SIGTERM)
        assert "Traceback" not in process.log.read_text()
    async with daemon.serving() as process:
        await stopped(process, signal.SIGTERM)


def catches(pid: int, number: signal.Signals) -> bool:
    """Return whether the process has a handler for this signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(int(mask, 16) & 1 << number - 1)
