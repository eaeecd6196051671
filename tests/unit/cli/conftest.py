from __future__ import annotations

import pytest
from typer.testing import CliRunner

from orchestrator.cli.commands import terminate, watch
from orchestrator.cli.main import app
from tests.unit.cli import fake


@pytest.fixture
def daemon():
    with fake.running() as running:
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Shorten all waits, and remove the settings of this machine."""
    monkeypatch.setattr(watch, "POLL_S", 0.01)
    monkeypatch.setattr(terminate, "DELAYS_S", (0.01, 0.01))
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("ORCHESTRATOR_URL", "ORCHESTRATOR_TOKEN", "ORCHESTRATOR_CONFIG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(daemon):
    """Return a function that runs a command against the fake daemon."""

    def invoke(*arguments: str, input_text: str | None = None):
        return CliRunner().invoke(app, ["--url", daemon.url, *arguments], input=input_text)

    return invoke
