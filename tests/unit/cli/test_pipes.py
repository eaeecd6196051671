"""Each command with a standard output that is a pipe, a full device, or closed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.fake import operation, termination
from tests.unit.domain.histories import certified, verified

FULL = Path("/dev/full")
LONG = "waits for " + "something " * 40
COMMANDS = {
    "terminate": ("terminate", "job-a", "--reason", "r"),
    "terminate --watch": ("terminate", "job-a", "--reason", "r", "--watch"),
    "status": ("status", "op_1"),
    "status --json": ("status", "op_1", "--json"),
    "watch": ("watch", "op_1"),
    "certificate": ("certificate", "op_1"),
    "list": ("list",),
}
ACCEPTED = ("terminate", "terminate --watch")
"""Commands that show the operation id nowhere else."""


@pytest.fixture
def url(daemon):
    finished = operation("finished", "partial", verified=1, refused=1) | {"reason": LONG}
    page = {"terminations": [termination("job-a", "refused", waiting_for=LONG)]}
    daemon.answer("POST /v1/operations", (202, operation(queued=2)))
    daemon.answer("GET /v1/operations", {"operations": [finished], "next_page_token": None})
    daemon.answer("GET /v1/operations/op_1", finished)
    daemon.answer("GET /v1/operations/op_1/terminations", page | {"next_page_token": None})
    daemon.answer("GET /v1/operations/op_1/certificate", certified([verified()]).data)
    return daemon.url


UNSET = ("COLUMNS", "PYTHONUNBUFFERED")
"""Unbuffered output leaves nothing that Python would write again at exit."""


def run(url: str, *arguments: str, **more) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if name not in UNSET}
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", "--url", url, *arguments],
        **({"stderr": subprocess.PIPE} | more),
        env=variables | {"FORCE_COLOR": "1", "TERM": "dumb"},
        text=True,
        timeout=40,
        check=False,
    )


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_standard_output(url, name):
    """One line names the operation, and the exit code shows that output was lost."""
    with FULL.open("w") as full:
        result = run(url, *COMMANDS[name], stdout=full)
    about = "" if name == "list" else "; operation: op_1"
    assert result.returncode == 4
    assert result.stderr == (f"standard output cannot be written: No space left on device{about}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_closed_reader(url, name):
    """Nothing is printed, except the id of an operation that would be lost."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as pipe:
        result = run(url, *COMMANDS[name], stdout=pipe)
    assert result.returncode == 141
    assert result.stderr == (
        "standard output cannot be written: Broken pipe; operation: op_1\n"
        if name in ACCEPTED
        else ""
    )


@pytest.mark.parametrize("name", ["terminate", "list"])
def test_a_standard_output_that_was_closed_before(url, name):
    """A service manager may start a command so; the request is sent anyway."""
    result = run(url, *COMMANDS[name], preexec_fn=lambda: os.close(1))
    assert result.returncode == 4
    assert result.stderr.startswith("standard output cannot be written: Bad file descriptor")


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("closed", [False, True])
def test_unreadable_messages_prevent_no_request(url, closed):
    """Duplicates are reported on standard error before the request is sent."""
    with FULL.open("w") as full:
        more = {"preexec_fn": lambda: os.close(2)} if closed else {"stderr": full}
        result = run(url, *COMMANDS["terminate"], "job-a", stdout=subprocess.PIPE, **more)
    assert (result.returncode, result.stdout) == (0, "op_1\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_pipe_gets_whole_lines(url, name):
    """A pipe gets no colours, no bars and no broken lines, whatever FORCE_COLOR is."""
    result = run(url, *COMMANDS[name], stdout=subprocess.PIPE)
    assert "\x1b" not in result.stdout
    for line in result.stdout.splitlines():
        if "something" in line:
            assert LONG.strip() in line
    assert ("something" in result.stdout) == name.startswith(("status", "list"))
