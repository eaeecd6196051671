"""Format of the log: one line per event, whatever its text, and no values of variables."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest

from orchestrator.observability import logs

if TYPE_CHECKING:
    from collections.abc import Iterator

FORGED = "a job\r\n2026-01-01T00:00:00Z [info     ] all is well\x1b[2J\x9b\u2028\u202e"
log = logging.getLogger("orchestrator.some")


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers)
    level = root.level
    yield
    root.setLevel(level)


def fail() -> None:
    secret_key = "NobodyMay" + "ReadThis"
    raise ValueError(f"{FORGED} {len(secret_key)}")


def logged(capfd: pytest.CaptureFixture[str], *, as_json: bool) -> str:
    logs.configure(level="info", json=as_json)
    try:
        fail()
    except ValueError:
        log.exception("%s failed", FORGED)
    logs.flush()
    return capfd.readouterr().err


@pytest.mark.parametrize("as_json", [True, False])
def test_a_traceback_shows_no_values(capfd: pytest.CaptureFixture[str], *, as_json: bool) -> None:
    output = logged(capfd, as_json=as_json)
    assert "Traceback (most recent call last)" in output
    assert "NobodyMayReadThis" not in output


def test_in_text_nothing_logged_looks_like_a_line_of_its_own(
    capfd: pytest.CaptureFixture[str],
) -> None:
    first, *traceback = logged(capfd, as_json=False).splitlines()
    assert r"[error    ] a job\r\n2026-01-01T00:00:00Z [info     ] all is well\x1b[2J\x9b" in first
    assert r"\u2028\u202e failed" in first
    assert all(line.startswith("    ") and line.isprintable() for line in traceback)
    assert any("all is well" in line for line in traceback)


def test_in_json_every_event_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    line = logged(capfd, as_json=True)
    assert line.removesuffix("\n").isprintable()
    event = json.loads(line)
    assert event["event"] == f"{FORGED} failed"
    assert event["exception"].endswith("17")
