"""``orchestrator health``: for probes."""

from __future__ import annotations

from orchestrator.cli.demo.subprocesses import free_ports
from tests.unit.cli.fake import problem

READYZ = "GET /readyz"


def test_ready(daemon, run):
    daemon.answer(READYZ, {"status": "ready", "troubles": {}})
    result = run("health")
    assert (result.exit_code, result.stdout) == (0, "ready\n")


def test_the_url_may_stand_behind_the_command(daemon, run):
    """Probes are often written in this order."""
    daemon.answer(READYZ, {"status": "ready", "troubles": {}, "more": 1})
    result = run("--url", "http://127.0.0.1:1", "health", "--url", daemon.url)
    assert (result.exit_code, result.stdout) == (0, "ready\n")


def test_degraded_is_ready(daemon, run):
    """The reasons are printed."""
    troubles = {"prod@host": "AuthFailure.SecretIdNotFound", "x": "evil\n\x1b[31m"}
    daemon.answer(READYZ, {"status": "degraded", "troubles": troubles})
    result = run("health")
    expected = "degraded; prod@host: AuthFailure.SecretIdNotFound; x: evil\n"
    assert (result.exit_code, result.stdout) == (0, expected)


def test_not_ready(daemon, run):
    daemon.answer(READYZ, (503, problem("Database unavailable", "it is locked")))
    result = run("health")
    assert result.exit_code == 1
    assert result.stdout == "not ready: Database unavailable: it is locked\n"


def test_no_server_answers(run):
    (port,) = free_ports(1)
    result = run("health", "--url", f"http://127.0.0.1:{port}")
    assert result.exit_code == 1
    assert result.stdout.startswith(
        f"not ready: no orchestrator answers at http://127.0.0.1:{port}"
    )
    assert len(result.stdout.splitlines()) == 1


def test_another_server_answers(daemon, run):
    daemon.answer(READYZ, b"<html>hello</html>")
    result = run("health")
    assert result.exit_code == 1
    assert "not an orchestrator of this version" in result.stdout
