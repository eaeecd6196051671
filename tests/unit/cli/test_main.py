"""What holds for every command, and the commands of this machine."""

from __future__ import annotations

import hashlib
import inspect

import pytest
import typer
from typer.testing import CliRunner

from orchestrator import __version__
from orchestrator.cli import main, serving
from orchestrator.cli.failures import RunFailed
from orchestrator.domain.errors import ConfigurationError, StoreUnavailable

SECRET = "do-not-print-me"
CONFIG = f"""
[database]
url = "sqlite:///FILE"
[accounts.one]
regions = ["ap-guangzhou"]
credentials = {{ provider = "static", secret_id = "AKID1", secret_key = "{SECRET}" }}
[accounts.two]
regions = ["ap-guangzhou", "ap-shanghai"]
default_region = "ap-shanghai"
credentials = {{ provider = "static", secret_id = "AKID1", secret_key = "{SECRET}" }}
quotas = {{ TerminateJob = 7 }}
[[auth.tokens]]
name = "sre"
sha256 = "{hashlib.sha256(b"x").hexdigest()}"
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "orchestrator.toml"
    path.write_text(CONFIG.replace("FILE", str(tmp_path / "test.db")))
    return path


def run(*arguments):
    return CliRunner().invoke(main.app, list(arguments))


def test_no_command_is_a_coroutine():
    """Typer would exit 0 without running it."""
    commands = [*main.app.registered_commands, *main.db.registered_commands]
    assert len(commands) == 8
    for command in commands:
        assert command.callback is not None
        assert not inspect.iscoroutinefunction(inspect.unwrap(command.callback))


def test_version():
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"orchestrator {__version__}\n")


@pytest.mark.parametrize("url", ["127.0.0.1:8642", "ftp://x", "http://"])
def test_a_url_that_is_none(url):
    """It is named before anything is sent."""
    result = run("--url", url, "status", "op_1")
    assert result.exit_code == 2
    assert "--url" in result.stderr


@pytest.mark.parametrize(
    "arguments", [("status", "op_1"), ("watch", "op_1"), ("terminate", "job-a", "--reason", "r")]
)
def test_no_daemon(arguments, monkeypatch):
    """The URL is named, and how to start one."""
    monkeypatch.setenv("ORCHESTRATOR_URL", "http://127.0.0.1:9")
    result = run(*arguments)
    assert result.exit_code == 3
    assert "http://127.0.0.1:9" in result.stderr
    assert "orchestrator serve" in result.stderr


@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_every_mistake_of_a_configuration_at_once(command, tmp_path):
    """One a line on standard error, and no value, for it may be a secret."""
    path = tmp_path / "bad.toml"
    path.write_text(f'servre = "{SECRET}"\n[server]\nport = "{SECRET}"\n')
    result = run(command, "--config", str(path))
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    assert {line.partition(":")[0] for line in lines} == {"servre", "server.port", "accounts"}
    assert SECRET not in result.output


def test_check_config_tells_what_it_says(config):
    """Accounts, hosts, quotas and warnings; no secret."""
    result = run("check-config", "--config", str(config))
    assert result.exit_code == 0
    for told in (
        "callers: sre",
        "account    two, credentials: static",
        "ap-shanghai (default) at batch.ap-shanghai.tencentcloudapi.com",
        "TerminateJob 7",
    ):
        assert told in result.stdout
    assert "warning: accounts one, two use one SecretId" in result.stderr
    assert SECRET not in result.output


def test_db_upgrade_can_be_repeated(config, tmp_path):
    """The second time there is nothing to do."""
    first = run("db", "upgrade", "--config", str(config))
    assert first.exit_code == 0
    assert "the database is at schema revision" in first.stdout
    assert (tmp_path / "test.db").exists()
    assert run("db", "upgrade", "--config", str(config)).stdout == first.stdout


def test_every_mistake_of_a_scenario_at_once(tmp_path):
    """As with a configuration."""
    path = tmp_path / "scenario.toml"
    path.write_text('sede = 1\n[[jobs]]\ninstances = "many"\n')
    result = run("simulator", "--scenario", str(path))
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) >= 3


def test_a_scenario_that_is_not_there(tmp_path):
    result = run("simulator", "--scenario", str(tmp_path / "none.toml"))
    assert result.exit_code == 2
    assert "none.toml cannot be read" in result.stderr


@pytest.mark.parametrize(
    ("failure", "code", "told"),
    [
        (StoreUnavailable("the disk is full"), 1, "the disk is full\n"),
        (RunFailed("it stopped\x1b[31m"), 1, "it stopped\n"),
        (ConfigurationError(["one", "two"]), 2, "one\ntwo\n"),
        (KeyboardInterrupt(), 130, "\nstopped\n"),
    ],
)
def test_exit_codes(monkeypatch, config, failure, code, told):
    """What ends a command is told without a traceback."""

    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(serving, "run_daemon", fail)
    result = run("serve", "--config", str(config))
    assert (result.exit_code, result.stderr) == (code, told)


def test_locals_are_never_shown():
    """A traceback with local variables would show secrets."""
    assert main.app.pretty_exceptions_show_locals is False
    assert isinstance(main.app, typer.Typer)
