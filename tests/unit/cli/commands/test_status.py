"""``orchestrator status``."""

from __future__ import annotations

import asyncio
import io
import json

from rich.console import Console

from orchestrator.cli.client import api_client
from orchestrator.cli.commands.status import show
from tests.unit.cli.fake import operation, problem, termination

GET = "GET /v1/operations/op_1"
LIST = "GET /v1/operations/op_1/terminations"


def page(*terminations, following=None):
    return {"terminations": list(terminations), "next_page_token": following}


def test_shows_what_every_job_waits_for(daemon, run):
    """Jobs that have not stopped are listed with state, evidence and reason."""
    daemon.answer(GET, operation(draining=1, verified=2))
    daemon.answer(
        LIST, page(termination("job-a", "draining", waiting_for="3 of 9 instances to stop"))
    )
    result = run("status", "op_1")
    assert result.exit_code == 0
    last = result.stdout.splitlines()[-1]
    assert last == "job-a  draining  evidence 1  waits for 3 of 9 instances to stop"
    assert "draining 1, verified 2" in result.stdout
    assert "2 of 3 jobs ended, 20 of 30 (1 job not counted) instances stopped" in result.stdout


def test_shows_what_comes_next_and_when(daemon, run):
    """If no time is known, only the action is shown."""
    daemon.answer(GET, operation(held=1, sending=1))
    at = "2026-01-01T00:00:07.250Z"
    poll = termination("job-a", "held", waiting_for="x", next_action="poll", next_action_at=at)
    call = termination("job-b", "sending", waiting_for="y", next_action="record the answer")
    daemon.answer(LIST, page(poll), page(call))
    assert run("status", "op_1").stdout.splitlines()[-2:] == [
        "job-a  held  evidence 1  waits for x  next at 2026-01-01T00:00:07Z: poll",
        "job-b  sending  evidence 1  waits for y  next: record the answer",
    ]


def test_a_job_that_has_ended_waits_for_nothing(daemon, run):
    """The reason for the end is shown, and what a person can do."""
    daemon.answer(GET, operation("finished", "failed", not_found=1))
    why = "nothing: the cloud knows no such job"
    ended = termination("job-a", "not_found", waiting_for=why, next_action="check the job id")
    daemon.answer(LIST, page(ended))
    last = run("status", "op_1").stdout.splitlines()[-1]
    assert last == (
        "job-a  not_found  evidence 1  the cloud knows no such job  next: check the job id"
    )


def test_shows_revived_jobs(daemon, run):
    """Revived jobs are requested although their state is proven stopped."""
    answer = operation("finished", "verified", verified=3)
    answer["progress"]["revived"] = 1
    daemon.answer(GET, answer)
    why = "nothing: every instance was observed stopped; but the job was running again"
    daemon.answer(LIST, page(termination("job-a", "verified", waiting_for=why)))
    lines = run("status", "op_1").stdout.splitlines()
    assert "REVIVED    1 of 3 jobs, after they had stopped" in lines
    assert lines[-1].endswith("every instance was observed stopped; but the job was running again")
    assert daemon.calls[-1].query["revived"] == "true"
    assert len(daemon.calls) == 2


def test_a_narrow_terminal_breaks_between_words(daemon):
    """Ids and states stay whole."""
    daemon.answer(GET, operation(draining=1))
    name = "a name that ends beside the state"
    daemon.answer(LIST, page(termination("job-a", "draining", job_name=name)))
    console = Console(file=io.StringIO(), force_terminal=True, width=40, highlight=False)
    asyncio.run(show(daemon.url, None, "op_1", console, as_json=False))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 40
    assert lines[-2:] == ["job-a (a name that ends beside the ", "state)  draining  evidence 1"]


def test_requests_no_job_that_has_stopped(daemon, run):
    """Ten thousand verified jobs cost no request."""
    daemon.answer(GET, operation("finished", "verified", verified=2, already_finished=1))
    assert run("status", "op_1").exit_code == 0
    assert [call.path for call in daemon.calls] == ["/v1/operations/op_1"]


def test_reads_every_page_of_every_state(daemon, run):
    """A job that changed state between two pages is shown once, in its later state."""
    daemon.answer(GET, operation(queued=2, draining=1))
    daemon.answer(
        LIST,
        page(termination("job-a", "queued"), following="more"),
        page(termination("job-b", "queued")),
        page(termination("job-b", "draining"), termination("job-c", "draining")),
    )
    result = run("status", "op_1")
    shown = [line.split("  ")[:2] for line in result.stdout.splitlines() if "job-" in line]
    assert shown == [["job-a", "queued"], ["job-b", "draining"], ["job-c", "draining"]]
    asked = [(call.query["state"], call.query.get("page_token")) for call in daemon.calls[1:]]
    assert asked == [("queued", None), ("queued", "more"), ("draining", None)]


def test_an_error_is_printed_with_its_advice(daemon, run):
    """The code, the message, and what a person can do are shown."""
    daemon.answer(GET, operation("finished", "failed", refused=1))
    error = {"code": "Unauthorized", "message": "no", "advice": "ask for the right"}
    daemon.answer(LIST, page(termination("job-a", "refused", error=error)))
    assert (
        "refused  evidence 1  Unauthorized: no  ask for the right" in run("status", "op_1").stdout
    )


def test_names_from_the_cloud_are_escaped(daemon, run):
    """Escapes are removed, line breaks become spaces, and rich markup stays text."""
    daemon.answer(GET, operation(draining=1))
    name = "\x1b]0;title\x07[red]x[/red]\n\x1b[2Jy\u202e:boom:\x9b1m"
    daemon.answer(LIST, page(termination("job-a", "draining", job_name=name)))
    result = run("status", "op_1")
    assert "job-a ([red]x[/red] y:boom:)  draining" in result.stdout
    assert "\x1b" not in result.stdout


def test_json_keeps_what_the_daemon_sent(daemon, run):
    """The document keeps members that this version does not know, and has no raw escape."""
    daemon.answer(GET, operation(draining=1))
    daemon.answer(LIST, page(termination("job-a", "draining", job_name="\x1b[31m", extra=[1])))
    result = run("status", "op_1", "--json")
    document = json.loads(result.stdout)
    assert document["operation"]["news_of_a_later_version"] == 1
    assert document["operation"]["progress"]["jobs"] == {"total": 1, "draining": 1}
    assert document["terminations"][0]["extra"] == [1]
    assert "\x1b" not in result.stdout


def test_an_id_cannot_leave_its_place_in_the_path(daemon, run):
    """An id is always one path segment."""
    daemon.answer("GET /v1/operations/../livez?x", (404, problem("Not found", "no")))
    result = run("status", "../livez?x")
    assert (result.exit_code, result.stderr) == (2, "Not found: no\n")


def test_another_server_at_the_url_is_reported(daemon, run):
    """A server that answers 200 is not an orchestrator."""
    daemon.answer(GET, {"hello": "world"})
    result = run("status", "op_1")
    assert result.exit_code == 3
    assert "not an orchestrator" in result.stderr


def test_an_answer_without_end_is_not_read_to_it(daemon, run, monkeypatch):
    monkeypatch.setattr(api_client, "ANSWER_BYTES_MAX", 1000)
    daemon.answer("GET /v1/operations/op_1", bytes(1001))
    result = run("status", "op_1")
    assert result.exit_code == 3
    assert "the reply is larger than 1,000 bytes" in result.stderr
