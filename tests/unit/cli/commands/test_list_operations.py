"""``orchestrator list``."""

from __future__ import annotations

import asyncio
import io

import pytest
from rich.console import Console

from orchestrator.cli.commands.list_operations import show
from tests.unit.cli.fake import operation, problem

LIST = "GET /v1/operations"


def page(*operations, following=None):
    return {"operations": list(operations), "next_page_token": following}


def named(number: int, **more):
    return operation(queued=2) | {"id": f"op_{number}"} | more


def test_a_line_for_each_operation(daemon, run):
    """Cells are separated by tabs: no cell contains one, and none is empty."""
    odd = named(2, reason="over\tbudget:\n\x1b[31mteam A", requested_by="\x1b[0m")
    ended = operation("finished", "verified", verified=3)
    ended["progress"]["revived"] = 2
    daemon.answer(LIST, page(ended, odd))
    result = run("list")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "op_1\tfinished\tverified\t3\tlocal\tbudget\t2026-01-01T00:00:00Z\t2",
        "op_2\trunning\t-\t2\t-\tover budget: team A\t2026-01-01T00:00:00Z\t0",
    ]
    assert daemon.calls[0].query == {"limit": "20"}


def test_asks_for_what_is_wanted(daemon, run):
    daemon.answer(LIST, page())
    result = run("list", "--state", "running", "--account", "a&b", "--limit", "7")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "no operation matches --state running --account a&b\n"
    assert daemon.calls[0].query == {"limit": "7", "state": "running", "account": "a&b"}


def test_an_empty_list_is_reported(daemon, run):
    daemon.answer(LIST, page())
    result = run("list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "there is no operation yet\n"


def test_page_after_page_until_there_are_enough(daemon, run):
    """A daemon that returns more than requested changes nothing."""
    pages = [page(*(named(n) for n in range(start, start + 3)), following="t") for start in (1, 4)]
    daemon.answer(LIST, *pages)
    result = run("list", "--limit", "5")
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == [
        *("op_1", "op_2", "op_3", "op_4", "op_5")
    ]
    assert [call.query for call in daemon.calls] == [
        {"limit": "5"},
        {"limit": "2", "page_token": "t"},
    ]


@pytest.mark.parametrize("arguments", [("--limit", "0"), ("--state", "done")])
def test_invalid_arguments(daemon, run, arguments):
    assert run("list", *arguments).exit_code == 2
    assert not daemon.calls


def test_an_error_of_the_daemon_is_printed(daemon, run):
    daemon.answer(LIST, (401, problem("Authentication required", "send a token")))
    result = run("list")
    assert result.exit_code == 2
    assert "Authentication required: send a token" in result.stderr


WORDS = ["our", "team", "is", "over", "its", "budget", "since", "last", "Tuesday"]


@pytest.mark.parametrize(
    ("width", "more"),
    [
        (40, ()),
        (60, ("10000", *WORDS)),
        (80, ("10000", *WORDS, "2026-01-01T00:00:00Z")),
        (110, ("10000", *WORDS, "2026-01-01T00:00:00Z", "local")),
    ],
)
@pytest.mark.parametrize("outcome", ["verified", "withdrawn", "partial", "failed"])
def test_a_terminal_has_a_table_that_breaks_no_word(daemon, width, more, outcome):
    """A narrower terminal has fewer columns."""
    ended = operation("finished", outcome, verified=10000)
    ended |= {"id": "op_" + "x" * 20, "reason": " ".join(WORDS)}
    ended["progress"]["revived"] = 2
    daemon.answer(LIST, page(ended))
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=width, color_system=None)
    asyncio.run(show(daemon.url, None, console, state=None, account=None, limit=1))
    _, *lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    expected = sorted(word for line in lines for word in line.split())
    assert expected == sorted([ended["id"], f"{outcome},", "2", "REVIVED", *more])
