"""Rules of every command, and the commands that need no daemon."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import typer
from typer.models import ArgumentInfo
from typer.testing import CliRunner

from orchestrator import __version__
from orchestrator.cli import main
from orchestrator.cli.client import api_client
from orchestrator.cli.commands import serve
from orchestrator.cli.exit_codes import RunFailed
from orchestrator.domain.errors import ConfigurationError, StoreUnavailable
from tests.unit.cli.fake import problem

SECRET = "do-not-print-me"
COMMANDS = [
    ("status", "op_1"),
    ("watch", "op_1"),
    ("certificate", "op_1"),
    ("terminate", "job-a", "--reason", "r"),
]
"""Commands that talk to the daemon."""
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
    """Typer would exit 0 without running a coroutine function."""
    commands = [*main.app.registered_commands, *main.db.registered_commands]
    assert len(commands) == 11
    for command in commands:
        assert command.callback is not None
        assert not inspect.iscoroutinefunction(inspect.unwrap(command.callback))


def test_version():
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"orchestrator {__version__}\n")


@pytest.mark.parametrize(
    "url",
    [
        *("", "127.0.0.1:8642", "localhost:8642", "ftp://x", "http://", "http:///path"),
        *("http://:80", "http://host:99999", "http://host:abc", "http://[::1", "http://ho st"),
        *("http://host\n", "http://host\\path", "http://a..b", f"http://{'a' * 64}.example"),
        *("http://host?query", "http://host/#fragment", "http://user:password@host"),
    ],
)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_url_that_is_none(url, command):
    """The error is one line, printed before anything is sent."""
    result = run("--url", url, *command)
    assert result.exit_code == 2
    assert result.stderr == (
        "the daemon's URL (--url or ORCHESTRATOR_URL) must be http://HOST:PORT or "
        "https://HOST:PORT, for example http://127.0.0.1:8642\n"
    )


@pytest.mark.parametrize(
    "url",
    ["HTTP://127.0.0.1:8642/", "https://batch.example/orchestrator", "http://[::1]:1", "http://é"],
)
def test_a_url_that_is_one(url):
    assert api_client.Api(url, None).url == url.rstrip("/")


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda command: command[0])
def test_no_daemon(arguments, monkeypatch):
    """The error names the URL, and how to start a daemon."""
    monkeypatch.setenv("ORCHESTRATOR_URL", "http://127.0.0.1:9")
    result = run(*arguments)
    assert result.exit_code == 3
    assert "http://127.0.0.1:9" in result.stderr
    assert "orchestrator serve" in result.stderr


@pytest.mark.parametrize("command", [*COMMANDS, ("list",)], ids=lambda command: command[0])
def test_a_url_may_stand_after_the_command(command):
    """A URL after the command overrides one before it."""
    result = run("--url", "http://127.0.0.1:7", *command, "--url", "http://127.0.0.1:9")
    assert result.exit_code == 3
    assert "no orchestrator answers at http://127.0.0.1:9 " in result.stderr


@pytest.fixture
def refusing(daemon):
    """A daemon that refuses every request, after it has recorded the headers."""
    for request in (
        "POST /v1/operations",
        "GET /v1/operations",
        "GET /v1/operations/op_1",
        "GET /v1/operations/op_1/certificate",
    ):
        daemon.answer(request, (403, problem("Forbidden", "no")))
    return daemon


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text("\ufeff t0ken\r\n", encoding="utf-8")
    return path


def authorization(daemon):
    (call,) = daemon.calls
    return call.headers.get("Authorization")


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("command", [*COMMANDS, ("list",)], ids=lambda command: command[0])
def test_url_and_token_file_before_or_after_the_command(refusing, token_file, command, place):
    """The token is the content of the file without white space around it."""
    options = ("--url", refusing.url, "--token-file", str(token_file))
    arguments = (*options, *command) if place == "before" else (*command, *options)
    result = run(*arguments)
    assert (result.exit_code, result.stderr) == (2, "Forbidden: no\n")
    assert authorization(refusing) == "Bearer t0ken"


def test_a_token_file_after_the_command_overrides_one_before_it(refusing, token_file, tmp_path):
    """The file before the command is not even read."""
    before = ("--url", refusing.url, "--token-file", str(tmp_path / "missing"))
    run(*before, "status", "op_1", "--token-file", str(token_file))
    assert authorization(refusing) == "Bearer t0ken"


def test_a_token_file_overrides_the_environment(refusing, token_file, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_URL", refusing.url)
    monkeypatch.setenv("ORCHESTRATOR_TOKEN", "other")
    run("status", "op_1", "--token-file", str(token_file))
    assert authorization(refusing) == "Bearer t0ken"


@pytest.mark.parametrize(("token", "sent"), [("t0ken\n", "Bearer t0ken"), ("", None)])
def test_the_environment_is_the_default(refusing, monkeypatch, token, sent):
    """The token is sent as a bearer token, without a newline at its end."""
    monkeypatch.setenv("ORCHESTRATOR_URL", refusing.url)
    monkeypatch.setenv("ORCHESTRATOR_TOKEN", token)
    run("status", "op_1")
    assert authorization(refusing) == sent


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is empty: write the bearer token into it"),
        (b" \r\n\t", "is empty: write the bearer token into it"),
        (b"\xef\xbb\xbf\n", "is empty: write the bearer token into it"),
        (b"\xff", "is not text in UTF-8"),
    ],
)
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_token_file_that_cannot_be_used(refusing, tmp_path, content, error, place):
    """The error is one line with the reason, printed before anything is sent."""
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    option = ("--token-file", str(path))
    command = (*option, "status", "op_1") if place == "before" else ("status", "op_1", *option)
    result = run("--url", refusing.url, *command)
    assert (result.exit_code, result.stderr) == (2, f"the token file {path} {error}\n")
    assert not refusing.calls


def test_a_token_file_of_several_lines(refusing, tmp_path):
    """The error names the option, but not the content."""
    path = tmp_path / "token"
    path.write_text(f"{SECRET}\nmore\n")
    result = run("--url", refusing.url, "status", "op_1", "--token-file", str(path))
    assert result.exit_code == 2
    assert "the bearer token (--token-file or ORCHESTRATOR_TOKEN) contains a line" in result.stderr
    assert SECRET not in result.output
    assert not refusing.calls


def test_a_command_that_sends_no_token_reads_no_token_file(daemon, tmp_path):
    daemon.answer("GET /readyz", {"status": "ready", "troubles": {}})
    result = run("--url", daemon.url, "--token-file", str(tmp_path / "missing"), "health")
    assert (result.exit_code, result.stdout) == (0, "ready\n")


def texts():
    """Yield every text option of every command, with the other arguments that it needs."""
    needed = {command: others for command, *others in COMMANDS} | {"simulator": ["--scenario", "x"]}
    for command in main.app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        hints = get_type_hints(inspect.unwrap(command.callback), include_extras=True)
        for parameter, hint in hints.items():
            kind, *more = get_args(hint) or (hint,)
            if not more or str not in {kind, *get_args(kind)}:
                continue
            arguments = [*needed.get(name, []), f"--{parameter.replace('_', '-')}"]
            if isinstance(more[0], ArgumentInfo):
                arguments = needed[name][1:]
            yield pytest.param(name, arguments, id=f"{name} {parameter}")


@pytest.mark.parametrize(("command", "arguments"), list(texts()))
def test_an_argument_that_is_no_text_is_refused(daemon, monkeypatch, command, arguments):
    """Bytes that are not UTF-8 are refused before anything is sent."""
    monkeypatch.setenv("ORCHESTRATOR_URL", daemon.url)
    result = run(command, *arguments, "a\udcff")
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    shown = " ".join(result.stderr.split())
    expected = (
        "is not text in UTF-8",
        "the daemon's URL",
        "printable ASCII",
        r"'a\udcff' is not a job id",
    )
    assert any(each in shown for each in expected)
    assert not daemon.calls


@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_every_mistake_of_a_configuration_at_once(command, tmp_path):
    """Each mistake is one line on standard error, without its value, which may be a secret."""
    path = tmp_path / "bad.toml"
    path.write_text(f'servre = "{SECRET}"\n[server]\nport = "{SECRET}"\n')
    result = run(command, "--config", str(path))
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    assert {line.partition(":")[0] for line in lines} == {"servre", "server.port", "accounts"}
    assert SECRET not in result.output


@pytest.mark.parametrize("command", [("serve",), ("check-config",), ("db", "upgrade")])
def test_no_configuration_at_all(command):
    """The error says how to give a file, and where an example is."""
    result = run(*command)
    assert result.exit_code == 2
    hint, mistake = result.stderr.splitlines()
    assert hint.startswith("no configuration file is given: give one with --config or ORCH")
    example = hint.partition("; ")[2].removesuffix(" is an example")
    assert "[accounts.prod]" in Path(example).read_text(encoding="utf-8")
    assert mistake == "accounts: field required"


def test_a_configuration_that_the_environment_names_was_given(monkeypatch, tmp_path):
    """The error is about the file, not about a missing configuration."""
    path = tmp_path / "none.toml"
    monkeypatch.setenv("ORCHESTRATOR_CONFIG", str(path))
    result = run("serve")
    assert result.exit_code == 2
    assert result.stderr == f"{path} cannot be read: No such file or directory\n"


def test_check_config_prints_the_answer_of_the_cloud(config):
    """The summary has accounts, hosts, quotas and warnings, but no secret."""
    result = run("check-config", "--config", str(config))
    assert result.exit_code == 0
    for expected in (
        "callers: sre",
        f"database   {config.parent}/test.db",
        "account    two, credentials: static",
        "ap-shanghai (default) at batch.ap-shanghai.tencentcloudapi.com",
        "TerminateJob 7",
    ):
        assert expected in result.stdout
    assert "warning: accounts one, two use one SecretId" in result.stderr
    assert SECRET not in result.output


def test_db_upgrade_can_be_repeated(config, tmp_path):
    """The second upgrade changes nothing; both name the file."""
    first = run("db", "upgrade", "--config", str(config))
    assert first.exit_code == 0
    path = tmp_path / "test.db"
    assert f"database {path}: created, at schema revision" in " ".join(first.stdout.split())
    assert path.exists()
    second = run("db", "upgrade", "--config", str(config))
    assert f"database {path}: at schema revision" in " ".join(second.stdout.split())


def test_every_mistake_of_a_scenario_at_once(tmp_path):
    """Mistakes are printed in the same way as those of a configuration."""
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
    ("failure", "code", "stderr"),
    [
        (StoreUnavailable("the disk is full"), 1, "the disk is full\n"),
        (RunFailed("it stopped\x1b[31m"), 1, "it stopped\n"),
        (ConfigurationError(["one", "two"]), 2, "one\ntwo\n"),
        (KeyboardInterrupt(), 130, "\nstopped\n"),
    ],
)
def test_exit_codes(monkeypatch, config, failure, code, stderr):
    """An error that ends a command is printed without a traceback."""

    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(serve, "run_daemon", fail)
    result = run("serve", "--config", str(config))
    assert (result.exit_code, result.stderr) == (code, stderr)


def test_locals_are_never_shown():
    """A traceback with local variables would show secrets."""
    assert main.app.pretty_exceptions_show_locals is False
    assert isinstance(main.app, typer.Typer)
