"""``orchestrator certificate``."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from orchestrator.cli.commands import certificate
from orchestrator.cli.main import app
from tests.unit.cli.fake import problem
from tests.unit.domain.histories import certified, one_of_each_end, verified

GET = "GET /v1/operations/op_1/certificate"
MADE = certified(one_of_each_end())
VALID = f"valid: op_1: 2 of 6 jobs proven stopped\ndigest {MADE.digest}\n"
CHANGED = MADE.data.replace(b"request-1", b"request-3", 1)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "certificate.json"
    path.write_bytes(MADE.data)
    return path


def offline(*arguments: str):
    """Run the command with a URL at which there is no daemon."""
    return CliRunner().invoke(app, ["--url", "none", "certificate", *arguments])


# --- fetched -------------------------------------------------------------------------------------


def test_it_is_written_as_it_came(daemon, run):
    """The certificate is on standard output, the result on standard error."""
    daemon.answer(GET, MADE.data)
    result = run("certificate", "op_1")
    assert (result.exit_code, result.stderr) == (0, VALID)
    assert result.stdout_bytes == MADE.data


def test_it_is_written_to_a_file(daemon, run, tmp_path):
    daemon.answer(GET, MADE.data)
    path = tmp_path / "made.json"
    result = run("certificate", "op_1", "--output", str(path))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", VALID)
    assert path.read_bytes() == MADE.data


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_shown_no_escapes(daemon, monkeypatch):
    made = verified()
    made.record(at=made.events[-1]["at"], type="odd", why="\x9b31m", facts={})
    daemon.answer(GET, certified([made]).data)
    shown = Terminal(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", shown)
    assert certificate.fetch(daemon.url, None, "op_1", None) == 0
    shown.seek(0)
    text = shown.read()
    assert "\x9b" not in text
    assert '"type":"odd","why":""' in text


def test_an_invalid_certificate_is_written_and_reported(daemon, run, tmp_path):
    daemon.answer(GET, CHANGED)
    path = tmp_path / "made.json"
    result = run("certificate", "op_1", "--output", str(path))
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "file: digest does not match the certificate: the certificate was changed",
        "job job-lost: attempt 2: it differs from event 5",
        "not valid: 2 faults",
    ]
    assert path.read_bytes() == CHANGED


def test_the_certificate_of_another_operation_is_not_valid(daemon, run):
    daemon.answer(GET.replace("op_1", "op_2"), MADE.data)
    result = run("certificate", "op_2")
    assert result.exit_code == 1
    assert "operation: this is the certificate of op_1, not of op_2" in result.stderr


def test_an_operation_that_there_is_not(daemon, run):
    daemon.answer(GET, (404, problem("Not found", "no operation op_1")))
    result = run("certificate", "op_1")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "Not found: no operation op_1\n"


def test_a_file_that_cannot_be_written(daemon, run, tmp_path):
    daemon.answer(GET, MADE.data)
    result = run("certificate", "op_1", "--output", str(tmp_path))
    assert result.exit_code == 2
    assert result.stderr == f"{tmp_path} cannot be written: Is a directory\n"


# --- offline -------------------------------------------------------------------------------------


def test_a_file_is_verified_without_a_daemon(file):
    for arguments in (("op_1", "--verify", str(file)), ("--verify", str(file))):
        result = offline(*arguments)
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", VALID)


def test_every_fault_of_a_file_is_reported(file):
    """Each fault has its own line, without terminal control characters."""
    text = MADE.data.decode()
    text = text.replace('"reason":"budget"', '"reason":"\x9b31mb"')
    file.write_text(text.replace('"state":"verified"', '"state":"refused"'))
    result = offline("op_1", "--verify", str(file))
    assert result.exit_code == 1
    *faults, last = result.stderr.splitlines()
    assert faults[0] == "file: digest does not match the certificate: the certificate was changed"
    assert any(fault.startswith("job job-verified: ") for fault in faults)
    assert any(fault.startswith("operation op_1: ") for fault in faults)
    assert last == f"not valid: {len(faults)} faults"
    assert "\x9b" not in result.output


def test_a_file_of_another_operation(file):
    result = offline("op_2", "--verify", str(file))
    assert result.exit_code == 1
    assert result.stderr == (
        "operation: this is the certificate of op_1, not of op_2\nnot valid: 1 fault\n"
    )


def test_a_file_that_is_not_there(tmp_path):
    result = offline("--verify", str(tmp_path / "none.json"))
    assert result.exit_code == 2
    assert result.stderr.endswith("none.json cannot be read: No such file or directory\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "give an operation id, or a file with --verify"),
        (("op_1", "--verify", "a", "--output", "b"), "give one of the two"),
    ],
)
def test_contradictory_arguments_are_refused(arguments, expected):
    result = offline(*arguments)
    assert result.exit_code == 2
    assert expected in result.stderr


def test_nothing_of_the_daemon_is_needed_to_verify(file):
    """Not even the libraries of the daemon are imported."""
    program = (
        "import sys; from pathlib import Path;"
        "from orchestrator.domain.audit.certificate_verification import verify;"
        "print(verify(Path(sys.argv[1]).read_bytes()), 'aiohttp' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[] False\n"
