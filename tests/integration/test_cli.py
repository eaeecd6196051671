"""The commands against a real daemon and simulator, each a process of its own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from orchestrator.cli.demo.subprocesses import free_ports
from tests.support import HANG_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCENARIO = """
[[credentials]]
secret_id = "AKIDEXAMPLE"
secret_key = "example"
[quotas]
TerminateJob = 10
DescribeJob = 20
DescribeJobs = 10
DescribeTask = 20
[[jobs]]
prefix = "run"
count = 6
instances = 5
drain_s = 0.5
[[jobs]]
ids = ["job-slow0001"]
instances = 5
drain_s = 3600
[[jobs]]
ids = ["job-held0001"]
name = "\\u001b[31mevil"
state = "SUBMITTED"
"""
CONFIG = """
[server]
port = {port}
[database]
url = "sqlite:///{directory}/test.db"
[engine]
settle_s = 0
not_found_after_s = 1
[accounts.test]
endpoint = "{cloud}"
cvm_endpoint = "{cloud}"
regions = ["ap-guangzhou"]
quotas = {{ TerminateJob = 10, DescribeJob = 20, DescribeJobs = 10, DescribeTask = 20 }}
credentials = {{ provider = "static", secret_id = "AKIDEXAMPLE", secret_key = "example" }}
"""
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")
}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "orchestrator", *arguments]


@contextmanager
def process(*arguments: str, url: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until the block is left; entered once something answers at ``url``."""
    started = subprocess.Popen(command(*arguments), env=ENVIRONMENT)
    try:
        end = time.monotonic() + HANG_S
        while not answers(url):
            assert started.poll() is None, f"{arguments} ended with {started.returncode}"
            assert time.monotonic() < end, f"{arguments} did not start"
            time.sleep(0.05)
        yield started
    finally:
        if started.poll() is None:
            started.send_signal(signal.SIGTERM)
        started.wait(20)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    directory: Path = tmp_path_factory.mktemp("cli")
    (directory / "scenario.toml").write_text(SCENARIO)
    return directory


@pytest.fixture(scope="module")
def ports(place) -> tuple[int, int]:
    cloud, port = free_ports(2)
    text = CONFIG.format(port=port, directory=place, cloud=f"http://127.0.0.1:{cloud}")
    (place / "orchestrator.toml").write_text(text)
    return cloud, port


@pytest.fixture(scope="module")
def cloud(place, ports):
    arguments = ("simulator", "--scenario", str(place / "scenario.toml"), "--port", str(ports[0]))
    with process(*arguments, url=f"http://127.0.0.1:{ports[0]}/_control/truth"):
        yield


@pytest.fixture
def url(place, ports, cloud):
    at = f"http://127.0.0.1:{ports[1]}"
    with process("serve", "--config", str(place / "orchestrator.toml"), url=f"{at}/readyz"):
        yield at


def run(url: str, *arguments: str, input_text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        env={**ENVIRONMENT, "ORCHESTRATOR_URL": url},
        input=input_text,
        text=True,
        capture_output=True,
        timeout=40,
        check=False,
    )


def test_terminate_and_watch_to_the_end(url):
    """Exit code 0 once every job is proven stopped."""
    result = run(url, "terminate", "job-run00001", "job-run00002", "--reason", "r", "--watch")
    assert result.returncode == 0, result.stderr
    assert re.match(r"op_\w+\n", result.stdout)
    assert "2 of 2 jobs ended" in result.stdout
    assert "proven stopped" in result.stdout


def test_a_certificate_is_verified_without_a_daemon(url, place):
    """Exit code 1 once a byte of it was changed."""
    arguments = ("terminate", "job-run00004", "--reason", "r", "--watch")
    operation = run(url, *arguments).stdout.splitlines()[0]
    path = place / "certificate.json"
    result = run(url, "certificate", operation, "--output", str(path))
    assert result.returncode == 0, result.stderr
    assert f"valid: {operation}: 1 of 1 job proven stopped\n" in result.stderr
    assert run(url, "certificate", operation).stdout.startswith('{"certificate":')
    nowhere = "http://127.0.0.1:9"
    offline = ("certificate", operation, "--verify", str(path))
    assert run(nowhere, *offline).stderr == result.stderr
    path.write_bytes(path.read_bytes().replace(b"settled", b"settLed"))
    verified = run(nowhere, *offline)
    assert verified.returncode == 1
    assert "job job-run00004: event 5: the chain is broken" in verified.stderr


def test_a_job_that_the_cloud_does_not_know(url):
    """Never counted as success: exit code 1, and status names the job."""
    arguments = ("job-run00003", "job-nobody01", "--reason", "r", "--watch")
    result = run(url, "terminate", *arguments)
    assert result.returncode == 1
    operation = result.stdout.splitlines()[0]
    status = run(url, "status", operation)
    assert status.returncode == 0
    assert "job-nobody01  not_found" in status.stdout
    assert "job-run00003" not in status.stdout


def test_status_shows_what_a_held_job_waits_for(url):
    """With the cloud's name for it, without its escapes."""
    result = run(url, "terminate", "-", "--reason", "r", input_text="job-held0001\n")
    assert result.returncode == 0, result.stderr
    operation = result.stdout.strip()
    end = time.monotonic() + 20
    while "  held  " not in (shown := run(url, "status", operation).stdout):
        assert time.monotonic() < end, shown
    last = shown.splitlines()[-1]
    assert re.match(r"job-held0001 \(evil-\d\)  held  evidence 0  waits for the job to leave", last)
    assert re.search(r"  next at \S+Z: poll the job again", last)


def test_a_key_used_twice_is_one_operation(url):
    """The same id is printed, with its state; another request under it is refused."""
    arguments = ("--reason", "r", "--idempotency-key", "cli-1")
    first = run(url, "terminate", "job-run00005", *arguments)
    assert run(url, "watch", first.stdout.strip()).returncode == first.returncode == 0
    again = run(url, "terminate", "job-run00005", *arguments)
    assert first.stdout == again.stdout != ""
    assert again.returncode == 5
    assert "(outcome verified), before this request" in again.stderr
    listed = [
        line.split("\t") for line in run(url, "list", "--state", "finished").stdout.splitlines()
    ]
    assert [cells[1:4] for cells in listed if cells[0] == again.stdout.strip()] == [
        ["finished", "verified", "1"]
    ]
    assert run(url, "terminate", "job-run00006", *arguments).returncode == 2


def test_watch_survives_a_restart_of_the_daemon(place, ports, cloud):
    """It prints that the daemon stops and returns, and Ctrl-C ends watching only."""
    at = f"http://127.0.0.1:{ports[1]}"
    serve = ("serve", "--config", str(place / "orchestrator.toml"))
    with process(*serve, url=f"{at}/readyz"):
        operation = run(at, "terminate", "job-slow0001", "--reason", "r").stdout.strip()
        watching = subprocess.Popen(
            command("--url", at, "watch", operation),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        assert watching.stdout is not None
        assert "0 of 1 jobs ended" in watching.stdout.readline()
    while "the daemon does not answer" not in watching.stdout.readline():
        assert watching.poll() is None
    with process(*serve, url=f"{at}/readyz"):
        while "the daemon answers again" not in watching.stdout.readline():
            assert watching.poll() is None
        watching.send_signal(signal.SIGINT)
        _, errors = watching.communicate(timeout=20)
        assert watching.returncode == 130
        assert f"operation {operation} continues" in errors
        assert f"operation  {operation}" in run(at, "status", operation).stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_ends_cleanly_after_any_number_of_signals(place, ports, number):
    """Until it has ended: neither the drain nor the end after it is cut short."""
    arguments = ("serve", "--config", str(place / "orchestrator.toml"))
    with process(*arguments, url=f"http://127.0.0.1:{ports[1]}/livez") as daemon:
        end = time.monotonic() + 20
        while daemon.poll() is None:
            assert time.monotonic() < end
            daemon.send_signal(number)
            time.sleep(0.003)
        assert daemon.returncode == 0


def test_serve_on_a_port_that_is_taken(place, ports):
    """A sentence and exit code 2, no traceback."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", ports[1]))
        taken.listen()
        result = run("http://x", "serve", "--config", str(place / "orchestrator.toml"))
    assert result.returncode == 2
    assert "cannot listen on 127.0.0.1" in result.stderr
    assert "Traceback" not in result.stderr
