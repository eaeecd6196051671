"""Signals, child processes, and files that are installed with the package."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.cli import resources
from orchestrator.cli.demo import subprocesses
from orchestrator.cli.demo.subprocesses import child, free_ports
from orchestrator.cli.exit_codes import RunFailed
from orchestrator.cli.signals import SIGNALS, Stopped, cancelled_by_signal, stop_event
from orchestrator.domain.errors import ConfigurationError
from tests.support import HANG_S

if TYPE_CHECKING:
    from collections.abc import Iterator

SCENARIO = resources.config_file("scenario-small.toml")


def simulator(tmp_path: Path, port: int):
    return child(
        "simulator",
        *("simulator", "--scenario", str(SCENARIO), "--port", str(port)),
        directory=tmp_path,
        environment=dict(os.environ),
    )


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


async def listening(started: subprocesses.Child) -> None:
    async with asyncio.timeout(HANG_S):
        while "jobs at" not in started.log.read_text():  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)


@pytest.fixture
def _handlers_kept() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_handlers_kept")
@pytest.mark.parametrize("number", SIGNALS)
async def test_a_second_signal_changes_nothing(number):
    """Later signals do not shorten the drain that the first one started, nor the exit."""
    with stop_event() as stop:
        os.kill(os.getpid(), number)
        await stop.wait()
        os.kill(os.getpid(), number)
        await asyncio.sleep(0.01)
    for each in SIGNALS:
        assert signal.getsignal(each) is signal.SIG_IGN
        os.kill(os.getpid(), each)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {*SIGNALS}


async def test_signal_handlers_are_restored_after_the_end():
    with stop_event():
        pass
    assert [signal.getsignal(number) for number in SIGNALS] == [
        signal.default_int_handler,
        signal.SIG_DFL,
    ]


async def test_a_signal_cancels_and_cleaning_up_ends_first():
    """A second signal does not interrupt the cleanup."""
    done = []

    async def main() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(10)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0.05)
            done.append(True)

    with pytest.raises(Stopped) as stopped:
        await cancelled_by_signal(main())
    assert stopped.value.exit_code == 143
    assert done == [True]


async def test_without_a_signal_the_result_is_returned():
    async def main() -> int:
        return 7

    assert await cancelled_by_signal(main()) == 7


async def test_a_child_ends_with_the_block(tmp_path):
    """A child has its own session, so Ctrl-C at the terminal does not reach it."""
    (port,) = free_ports(1)
    async with simulator(tmp_path, port) as started:
        pid = started.process.pid
        await listening(started)
        assert os.getsid(pid) == pid
        started.check()
    assert started.process.returncode == 0
    assert gone(pid)


async def test_a_child_that_does_not_listen_is_killed(tmp_path, monkeypatch):
    """A stopped process cannot act on SIGTERM."""
    monkeypatch.setattr(subprocesses, "GRACE_S", 0.2)
    (port,) = free_ports(1)
    async with simulator(tmp_path, port) as started:
        await listening(started)
        os.kill(started.process.pid, signal.SIGSTOP)
    assert started.process.returncode == -signal.SIGKILL


async def test_cancelled_while_it_waits_for_a_child_it_still_ends_it(tmp_path):
    """A second Ctrl-C leaves no child process."""
    (port,) = free_ports(1)
    leaving: asyncio.Queue[int] = asyncio.Queue()

    async def main() -> None:
        async with simulator(tmp_path, port) as started:
            await listening(started)
            os.kill(started.process.pid, signal.SIGSTOP)
            leaving.put_nowait(started.process.pid)

    task = asyncio.create_task(main())
    pid = await leaving.get()
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gone(pid)


async def test_a_child_ends_when_its_parent_is_gone(tmp_path):
    """A child ends at the end of its standard input, as after a killed parent."""
    (port,) = free_ports(1)
    async with simulator(tmp_path, port) as started:
        await listening(started)
        assert started.process.stdin is not None
        started.process.stdin.close()
        async with asyncio.timeout(HANG_S):
            assert await started.process.wait() == 0


async def test_a_child_that_ended_by_itself_is_reported_with_its_output(tmp_path):
    """The error contains the end of the child's log."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        async with simulator(tmp_path, taken.getsockname()[1]) as started:
            async with asyncio.timeout(HANG_S):
                await started.process.wait()
            with pytest.raises(RunFailed, match=r"exit code 1.*cannot listen"):
                started.check()


def test_free_ports_are_different():
    assert len(set(free_ports(20))) == 20


def test_a_file_that_did_not_come_along():
    with pytest.raises(ConfigurationError, match=r"nothing\.toml"):
        resources.config_file("nothing.toml")
