"""``orchestrator terminate``."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid

import pytest
from typer.testing import CliRunner

from orchestrator.api.problems import NO_SUCH_PATH, Problem
from orchestrator.api.schemas import parse_operation
from orchestrator.cli.demo.subprocesses import free_ports
from orchestrator.cli.main import app
from tests.unit.cli.fake import RESET, operation, problem

SUBMIT = "POST /v1/operations"
GET = "GET /v1/operations/op_1"
ARGUMENTS = ("terminate", "job-a", "--reason", "budget")


def test_prints_the_id_alone_on_stdout(daemon, run):
    """A script can take the id from standard output."""
    daemon.answer(SUBMIT, (202, operation(queued=1)))
    result = run(*ARGUMENTS)
    assert (result.exit_code, result.stdout) == (0, "op_1\n")


def test_sends_what_was_asked_and_nothing_else(daemon, run):
    """Options that were not given are left to the daemon's configuration."""
    daemon.answer(SUBMIT, (202, operation(queued=1)))
    times = ("--settle-s", "0", "--reterminate-for", "60")
    run(*ARGUMENTS, "job-b", *times, "--no-escalate", "--on-submitted", "refuse", "--region", "r")
    assert daemon.calls[0].body == {
        "jobs": ["job-a", "job-b"],
        "reason": "budget",
        "settle_s": 0.0,
        "reterminate_for_s": 60.0,
        "escalate": False,
        "on_submitted": "refuse",
        "region": "r",
    }


def test_reads_ids_from_standard_input(daemon, run):
    """``-`` stands for standard input; arguments are read in the same way."""
    daemon.answer(SUBMIT, (202, operation(queued=3)))
    run("terminate", "-", "job-y,job-z", "--reason", "r", input_text="job-a\n\n  'job-b', \n")
    assert daemon.calls[0].body["jobs"] == ["job-a", "job-b", "job-y", "job-z"]


def test_one_mistake_refuses_everything(daemon, run):
    """Each mistake is printed with its place before anything is sent."""
    text = "job-a\njob-b\x1b[31m\n"
    result = run("terminate", "-", "job-c", "job_d", "--reason", "r", input_text=text)
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        r"standard input, line 2: 'job-b\x1b[31m' is not a job id such as job-dwukenxr",
        "argument 3: 'job_d' is not a job id such as job-dwukenxr",
        "nothing was sent: one mistake refuses the whole request",
    ]
    assert not daemon.calls


@pytest.mark.parametrize(
    "text",
    [
        "job-a\n".encode("utf-16"),
        *("job-a\n".encode(f"utf-{n}-{e}") for n in (16, 32) for e in ("le", "be")),
        b"job-\xff",
    ],
)
def test_standard_input_that_is_no_text(daemon, run, text):
    """The message says how to save the list, and no request is sent."""
    result = run("terminate", "-", "--reason", "r", input_text=text)
    assert result.exit_code == 2
    assert "save the list as UTF-8" in result.stderr
    assert not daemon.calls


@pytest.mark.parametrize("text", [b"job-a\0", b"job-a\0job-b\0job-c", b"job-a\njob-b\0"])
def test_standard_input_that_is_separated_by_nul(daemon, run, text):
    """``find -print0`` writes such lists."""
    result = run("terminate", "-", "--reason", "r", input_text=text)
    assert result.exit_code == 2
    assert "is separated by NUL: use line breaks" in result.stderr
    assert not daemon.calls


@pytest.mark.parametrize(
    ("redirected", "expected"),
    [
        (
            "<&-",
            "standard input is closed: give it the list of job ids, or give the ids as arguments",
        ),
        ("0>/dev/null", "standard input cannot be read: Bad file descriptor"),
    ],
)
def test_standard_input_that_cannot_be_read(daemon, redirected, expected):
    command = [sys.executable, "-m", "orchestrator", "--url", daemon.url, "terminate", "-"]
    shell = ["sh", "-c", f'exec "$@" {redirected}', "sh", *command, "--reason", "r"]
    environment = {**os.environ, "COLUMNS": "200"}
    result = subprocess.run(shell, check=False, capture_output=True, text=True, env=environment)
    assert result.returncode == 2
    assert expected in result.stderr
    assert "Traceback" not in result.stderr
    assert not daemon.calls


def test_a_byte_order_mark_is_no_part_of_an_id(daemon, run):
    """Editors on Windows write a byte order mark."""
    daemon.answer(SUBMIT, (202, operation(queued=1)))
    run("terminate", "-", "--reason", "r", input_text="job-a\r\n".encode("utf-8-sig"))
    assert daemon.calls[0].body["jobs"] == ["job-a"]


def test_ids_that_stand_there_twice_are_merged(daemon, run):
    """Duplicates are merged before the request is limited; their number is printed once."""
    daemon.answer(SUBMIT, (202, operation(queued=2)))
    text = "job-b\njob-a\njob-b\n"
    result = run("terminate", "job-a", "-", "--reason", "r", input_text=text)
    assert daemon.calls[0].body["jobs"] == ["job-a", "job-b"]
    assert (result.stdout, result.stderr) == ("op_1\n", "duplicate job ids merged: 2\n")


@pytest.mark.parametrize("option", ["--settle-s", "--give-up-after-s"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_time_that_is_no_number(daemon, run, option, value):
    """JSON has no such number."""
    result = run(*ARGUMENTS, option, value)
    assert result.exit_code == 2
    assert option in result.stderr
    assert "must be a number of seconds" in result.stderr
    assert not daemon.calls


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("a\nb", "must be printable ASCII characters"),
        ("a\x01", "must be printable ASCII characters"),
        ("é", "must be printable ASCII characters"),
        ("", "is empty: give a key, or omit the option to use a new key"),
        (" ", "is empty: give a key, or omit the option to use a new key"),
    ],
)
def test_a_key_that_cannot_be_sent(daemon, run, key, expected):
    """An empty key is usually an unset variable."""
    result = run(*ARGUMENTS, "--idempotency-key", key)
    assert result.exit_code == 2
    assert expected in result.stderr
    assert not daemon.calls


def test_no_id_at_all_is_a_usage_error(daemon, run):
    """Empty standard input names no job, and no request is sent."""
    result = run("terminate", "-", "--reason", "r", input_text="\n")
    assert result.exit_code == 2
    assert "no job id" in result.stderr
    assert not daemon.calls


def test_a_reason_is_needed(daemon, run):
    """Nothing is terminated without a reason."""
    assert run("terminate", "job-a").exit_code == 2
    assert not daemon.calls


@pytest.mark.parametrize("token", ["a\nb", "a\r\nX-More: b", "a\x01", "a\x7f", "\udcff"])
def test_a_token_that_cannot_be_sent(daemon, run, monkeypatch, token):
    """The message names the sources of the token, but not its value."""
    monkeypatch.setenv("ORCHESTRATOR_TOKEN", token)
    result = run(*ARGUMENTS)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(
        "the bearer token (--token-file or ORCHESTRATOR_TOKEN) contains a line break or another"
    )
    assert not daemon.calls


def test_a_token_that_is_not_known(daemon, run):
    """The advice where to give a token follows the error of the daemon."""
    daemon.answer(SUBMIT, (401, problem("Authentication required", "send a token")))
    result = run(*ARGUMENTS)
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "Authentication required: send a token",
        "  give the bearer token with --token-file or in ORCHESTRATOR_TOKEN",
    ]


def test_each_run_has_a_key_of_its_own(daemon, run):
    """Two runs are two requests."""
    daemon.answer(SUBMIT, (202, operation(queued=1)))
    run(*ARGUMENTS)
    run(*ARGUMENTS)
    first, second = (uuid.UUID(call.headers["Idempotency-Key"]) for call in daemon.calls)
    assert first != second


@pytest.mark.parametrize("failure", [RESET, (503, problem("busy", "later")), (502, b"<html>")])
def test_sends_again_under_the_same_key(daemon, run, failure):
    """An unanswered request is sent again with the same key, so it is accepted only once."""
    daemon.answer(SUBMIT, failure, (202, operation(queued=1)))
    result = run(*ARGUMENTS)
    assert (result.exit_code, result.stdout) == (0, "op_1\n")
    assert "trying again" in result.stderr
    assert len({call.headers["Idempotency-Key"] for call in daemon.calls}) == 1
    assert len(daemon.calls) == 2


def test_gives_up_and_names_the_key(daemon, run):
    """If no answer comes, the key to repeat the request is printed."""
    daemon.answer(SUBMIT, RESET)
    result = run(*ARGUMENTS, "--idempotency-key", "mine")
    assert result.exit_code == 3
    assert len(daemon.calls) == 3
    assert "it may have been accepted" in result.stderr
    assert "--idempotency-key mine" in result.stderr
    assert {call.headers["Idempotency-Key"] for call in daemon.calls} == {"mine"}


def test_a_refused_connection_carried_nothing():
    """The request cannot have been accepted, so no key is printed."""
    (port,) = free_ports(1)
    result = CliRunner().invoke(app, ["--url", f"http://127.0.0.1:{port}", *ARGUMENTS])
    assert result.exit_code == 3
    assert "nothing was sent\n" in result.stderr
    assert "accepted" not in result.stderr
    assert "--idempotency-key" not in result.stderr


def test_a_request_sent_once_may_have_been_accepted():
    """The request may have been accepted even if every later connection is refused."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take_one() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1)
                server.close()

        port = server.getsockname()[1]
        thread = threading.Thread(target=take_one)
        thread.start()
        result = CliRunner().invoke(app, ["--url", f"http://127.0.0.1:{port}", *ARGUMENTS])
        thread.join()
    assert result.exit_code == 3
    assert "Connect call failed" in result.stderr
    assert "it may have been accepted" in result.stderr
    assert "nothing was sent" not in result.stderr


def test_a_busy_daemon_is_a_request_error_in_the_end(daemon, run):
    """A final 503 is printed with the daemon's text and the key."""
    daemon.answer(SUBMIT, (503, problem("Database unavailable", "try again")))
    result = run(*ARGUMENTS, "--idempotency-key", "mine")
    assert result.exit_code == 2
    assert "Database unavailable: try again" in result.stderr
    assert "--idempotency-key mine" in result.stderr


def test_a_problem_is_printed_in_full_and_not_sent_again(daemon, run):
    """Title, detail and every mistake are printed on standard error."""
    errors = [{"field": "jobs.0", "message": "no job id"}, {"field": "", "message": "too odd"}]
    daemon.answer(SUBMIT, (422, problem("Invalid request", "two", errors=errors)))
    result = run(*ARGUMENTS)
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "Invalid request: two",
        "  jobs.0: no job id",
        "  body: too odd",
    ]
    assert result.stdout == ""
    assert len(daemon.calls) == 1


@pytest.mark.parametrize("mistakes", [1, 3, 5, 5000])
def test_no_mistake_is_printed_twice(daemon, run, mistakes):
    """The detail names the first mistakes and the number of the others, which follow."""
    body = json.dumps({"jobs": ["x"] * mistakes, "reason": "r"}).encode()
    with pytest.raises(Problem) as refused:
        parse_operation(body)
    answer = refused.value
    daemon.answer(SUBMIT, (422, problem(answer.title, answer.detail, **answer.more)))
    first, *others = run(*ARGUMENTS).stderr.splitlines()
    assert first == f"{answer.title}: {answer.detail}"
    assert [line.partition(":")[0] for line in others] == [
        f"  jobs.{number}" for number in range(3, min(mistakes, 100))
    ]


@pytest.mark.parametrize(
    "answer", [Problem(404, NO_SUCH_PATH, "Nothing", "no such path").response().body, b"<html>"]
)
def test_a_path_of_the_url_that_there_is_not(daemon, answer):
    """Few proxies serve the daemon under a path; a path is often that of the API."""
    daemon.answer(f"POST /v1{SUBMIT.partition(' ')[2]}", (404, answer))
    result = CliRunner().invoke(app, ["--url", f"{daemon.url}/v1", *ARGUMENTS])
    assert result.exit_code == 2
    assert result.stderr.partition(": ")[2] == (
        "the daemon's URL (--url or ORCHESTRATOR_URL) has the path /v1: remove the path "
        f"({daemon.url}), unless a proxy serves the daemon under it\n"
    )


def test_an_operation_that_there_is_not_has_nothing_to_do_with_the_url(daemon):
    answer = Problem(404, "not-found", "Nothing", "no operation op_1").response().body
    daemon.answer("GET /proxied/v1/operations/op_1", (404, answer))
    result = CliRunner().invoke(app, ["--url", f"{daemon.url}/proxied", "watch", "op_1"])
    assert result.stderr == "Nothing: no operation op_1\n"


def test_an_error_that_is_no_problem_document_is_printed_too(daemon, run):
    """A proxy in between has its own error documents."""
    daemon.answer(SUBMIT, (403, b"<html>"))
    result = run(*ARGUMENTS)
    assert (result.exit_code, result.stderr) == (2, "HTTP 403: Forbidden\n")


def test_redirects_are_not_followed(daemon, run):
    """The token is sent only to the given URL."""
    daemon.answer(SUBMIT, (307, b""))
    assert run(*ARGUMENTS).exit_code == 2
    assert len(daemon.calls) == 1


@pytest.mark.parametrize(("outcome", "code"), [("verified", 0), ("partial", 1), ("failed", 1)])
def test_the_exit_code_of_watch_is_the_outcome(daemon, run, outcome, code):
    """The exit code is 0 only if every job is proven stopped."""
    daemon.answer(SUBMIT, (202, operation(queued=1)))
    daemon.answer(GET, operation(queued=1), operation("finished", outcome, verified=1))
    result = run(*ARGUMENTS, "--watch")
    assert result.exit_code == code
    assert result.stdout.splitlines()[0] == "op_1"
    assert f"op_1: {outcome} after 10 s" in result.stdout


def test_ctrl_c_before_the_answer_names_the_key(daemon, run):
    """It is unknown whether the request was accepted: the key makes repeating it safe."""

    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        return (503, {})

    daemon.answer(SUBMIT, interrupt)
    result = run(*ARGUMENTS, "--idempotency-key", "mine")
    assert result.exit_code == 130
    assert "--idempotency-key mine" in result.stderr


def test_an_id_with_escapes_is_printed_without(daemon, run):
    """Text from the daemon cannot control the terminal."""
    answer = json.loads(json.dumps(operation(queued=1)).replace("op_1", "op_1\\u001b[31m"))
    daemon.answer(SUBMIT, (202, answer))
    assert run(*ARGUMENTS).stdout == "op_1\n"


# --- a key that was used before ------------------------------------------------------------------

REPLAYED = {"Idempotency-Replayed": "true"}
FIXED_KEY = ("--idempotency-key", "nightly")
REPLAY = (
    "replay: this --idempotency-key was used at 2026-01-01T00:00:00Z, so no new operation was "
    "created; its operation is op_1, "
)


@pytest.mark.parametrize("watch", [(), ("--watch",)])
def test_an_operation_that_had_finished_before_is_no_success(daemon, run, watch):
    """The outcome is from an earlier time: the job may run again."""
    daemon.answer(SUBMIT, (202, operation("finished", "verified", verified=1), REPLAYED))
    result = run(*ARGUMENTS, *FIXED_KEY, *watch)
    assert (result.exit_code, result.stdout) == (5, "op_1\n")
    assert result.stderr == (
        f"{REPLAY}finished at 2026-01-01T00:00:10Z (outcome verified), before this request: use "
        "another key to terminate the jobs now (a key expires after 7 days)\n"
    )


def test_a_replay_shows_revived_jobs(daemon, run):
    finished = operation("finished", "verified", verified=1)
    finished["progress"]["revived"] = 1
    daemon.answer(SUBMIT, (202, finished, REPLAYED))
    assert "(outcome verified, 1 REVIVED), before" in run(*ARGUMENTS, *FIXED_KEY).stderr


def test_a_replay_of_what_still_runs_is_followed(daemon, run):
    """The command ends with the outcome of the running operation."""
    daemon.answer(SUBMIT, (202, operation(queued=1), REPLAYED))
    daemon.answer(GET, operation("finished", "verified", verified=1))
    result = run(*ARGUMENTS, *FIXED_KEY, "--watch")
    assert (result.exit_code, result.stderr) == (0, f"{REPLAY}running\n")
    assert "op_1: verified after 10 s" in result.stdout


def test_a_first_answer_under_a_fixed_key_is_no_replay(daemon, run):
    daemon.answer(SUBMIT, (202, operation("finished", "verified", verified=1)))
    result = run(*ARGUMENTS, *FIXED_KEY)
    assert (result.exit_code, result.stderr) == (0, "")


def test_its_own_request_sent_again_is_no_replay(daemon, run):
    """The first response was lost; only this run knows the key."""
    finished = operation("finished", "verified", verified=1)
    daemon.answer(SUBMIT, RESET, (202, finished, REPLAYED))
    result = run(*ARGUMENTS)
    assert (result.exit_code, result.stdout) == (0, "op_1\n")
    assert "replay" not in result.stderr
