"""The start of the daemon: what it waits for, what ends it meanwhile, and what it logs."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from orchestrator import daemon
from orchestrator.cli.demo.subprocesses import free_ports
from tests.support import HANG_S
from tests.support.service import service
from tests.support.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.postgres import Server

AT_ONCE_S = 2.0
WAITING = "the daemon waits for the database"
NEW_PROCESS_IDS = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child")
"""Run the command as PID 1 of a namespace of its own, as the first process of a container."""
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("ORCHESTRATOR_", "TENCENTCLOUD_"))
}
ACCOUNT = """
[accounts.test]
regions = ["ap-guangzhou"]
credentials = { provider = "static", secret_id = "AKIDEXAMPLE", secret_key = "example" }
"""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "orchestrator", *arguments]


class Started:
    """A daemon in a process of its own, and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    def until_logged(self, text: str) -> str:
        end = time.monotonic() + HANG_S
        while text not in (logged := self._log.read_text()):
            assert self.process.poll() is None, logged
            assert time.monotonic() < end, logged
            time.sleep(0.02)
        return logged


@contextmanager
def serving(directory: Path, config: str, *before: str) -> Iterator[Started]:
    """Run ``serve`` until the block is left."""
    path, log = directory / "orchestrator.toml", directory / "log"
    path.write_text(config)
    path.chmod(0o600)
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*before, *command("serve", "--config", str(path))], env=ENVIRONMENT, stderr=stderr
        )
    try:
        yield Started(process, log)
    finally:
        process.kill()
        process.wait()


def without_server(port: int) -> str:
    return (
        f"{ACCOUNT}[database]\nurl = 'postgresql://nobody:secret@127.0.0.1:{port}/orchestrator'\n"
    )


def test_sigterm_ends_a_daemon_that_waits_for_its_database(tmp_path: Path) -> None:
    """It ends at once; SIGHUP does not end it."""
    with serving(tmp_path, without_server(free_ports(1)[0])) as daemon:
        logged = daemon.until_logged(WAITING)
        assert "see whether the server runs and can be reached" in logged
        assert "secret" not in logged
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until_logged("SIGHUP is ignored: settings are read at the start")
        daemon.process.terminate()
        assert daemon.process.wait(AT_ONCE_S) == -signal.SIGTERM


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run([*NEW_PROCESS_IDS, "true"], check=False, capture_output=True).returncode != 0,
    reason="this user may not make process namespaces",
)
def test_sigterm_ends_it_also_as_the_first_process_of_a_container(tmp_path: Path) -> None:
    """As PID 1 it has no default handler of the kernel."""
    with serving(tmp_path, without_server(free_ports(1)[0]), *NEW_PROCESS_IDS) as daemon:
        daemon.until_logged(WAITING)
        parent = daemon.process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)
        assert daemon.process.wait(AT_ONCE_S) == 128 + signal.SIGTERM


def test_sighup_changes_nothing_of_a_daemon_that_starts(tmp_path: Path) -> None:
    """Also while it imports; it then waits for a configuration that is never written."""
    pipe = tmp_path / "orchestrator.toml"
    os.mkfifo(pipe)
    arguments = [sys.executable, "-X", "importtime", "-m", "orchestrator", "serve", "--config"]
    with subprocess.Popen([*arguments, str(pipe)], env=ENVIRONMENT, stderr=subprocess.PIPE) as it:
        assert it.stderr is not None
        while b" orchestrator.cli" not in (line := it.stderr.readline()):
            assert line
        it.send_signal(signal.SIGHUP)
        it.terminate()
        assert it.wait(AT_ONCE_S) == -signal.SIGTERM


def test_sighup_changes_nothing_of_a_daemon_that_serves(tmp_path: Path) -> None:
    """Nor while it ends."""
    config = f"{ACCOUNT}[server]\nport = 0\n[database]\nurl = 'sqlite:///{tmp_path}/a.db'\n"
    with serving(tmp_path, config) as daemon:
        daemon.until_logged("serving http://127.0.0.1:")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until_logged("SIGHUP is ignored")
        daemon.process.terminate()
        while daemon.process.poll() is None:
            daemon.process.send_signal(signal.SIGHUP)
            time.sleep(0.003)
        assert daemon.process.returncode == 0


def test_warnings_are_logged_and_errors_end_it(tmp_path: Path) -> None:
    config = (
        f"{ACCOUNT}[server]\nport = 0\n[database]\nurl = 'sqlite:///{tmp_path}/a.db'\n"
    ).replace("ap-guangzhou", "ap-guangzhuo")
    with serving(tmp_path, config) as daemon:
        logged = daemon.until_logged("serving http://127.0.0.1:")
        assert "configuration: accounts.test.regions: ap-guangzhuo is not a region" in logged
    with serving(tmp_path, config.replace("/a.db", "/missing/a.db")) as daemon:
        assert daemon.process.wait(HANG_S) == 2
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["database.url", "warning"]


def test_an_upgrade_by_hand_does_not_wait(tmp_path: Path) -> None:
    """The caller sees the reason; it is no mistake in the configuration."""
    path = tmp_path / "orchestrator.toml"
    path.write_text(without_server(free_ports(1)[0]))
    upgrade = command("db", "upgrade", "--config", str(path))
    done = subprocess.run(upgrade, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "see whether the server runs and can be reached" in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_server_that_refuses_is_waited_for(
    postgres: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The wait is logged once, and its end once."""
    monkeypatch.setattr(daemon, "DATABASE_RETRY_S", 0.05)
    async with postgres.database() as url, TcpProxy(make_url(url).port or 0) as proxy:
        through = make_url(url).set(port=proxy.port).render_as_string(hide_password=False)
        proxy.refuse(on=True)

        async def serve() -> str:
            async with service(through) as running:
                return await running.submit("job-waits001")

        starting = asyncio.create_task(serve())
        async with asyncio.timeout(HANG_S):
            while proxy.refused < 3:  # noqa: ASYNC110 - the proxy only counts
                await asyncio.sleep(0.01)
            proxy.refuse(on=False)
            assert await starting
    logged = [each.getMessage() for each in caplog.records if each.name == daemon.__name__]
    assert sum(WAITING in each for each in logged) == 1
    assert sum("the database is available" in each for each in logged) == 1
