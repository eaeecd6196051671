"""``orchestrator check-config``: loading of keys, routes to the cloud, and warnings."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from asyncio.subprocess import PIPE
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from typer.testing import CliRunner

from orchestrator.cli import main
from tests.unit.cloud.support import ScriptedServer, served

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result

SECRET = "do-not-print-me"
STATIC = f'provider = "static", secret_id = "AKID1", secret_key = "{SECRET}"'
CVM_NONE = 'cvm_endpoint = "none"'


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in os.environ:
        if name.upper().startswith(("ORCHESTRATOR_", "TENCENTCLOUD_", "TKE_")) or name.lower() in {
            "http_proxy",
            "https_proxy",
            "no_proxy",
        }:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def file(home: Path) -> Path:
    return home / "orchestrator.toml"


def account(credentials: str, *more: str, name: str = "prod") -> str:
    lines = (f"[accounts.{name}]", 'regions = ["ap-guangzhou"]', *more)
    return "\n".join((*lines, f"credentials = {{ {credentials} }}\n"))


def write(file: Path, text: str, mode: int) -> None:
    file.write_text(text)
    file.chmod(mode)


def checked(file: Path, text: str, mode: int = 0o600) -> Result:
    write(file, text, mode)
    result = CliRunner().invoke(main.app, ["check-config", "--config", str(file)])
    assert SECRET not in result.output
    return result


def errors(result: Result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]


# --- keys ----------------------------------------------------------------------------------------


def test_keys_that_are_there(file: Path) -> None:
    result = checked(file, account(STATIC))
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("credentials", "expected"),
    [
        ('provider = "environment"', "set TENCENTCLOUD_SECRET_ID and TENCENTCLOUD_SECRET_KEY"),
        ('provider = "profile"', "~/.tencentcloud/credentials cannot be read"),
        ('provider = "profile", profile = "x"', "below [x] in ~/.tencentcloud/credentials"),
        ('provider = "tke-oidc"', "TKE_REGION"),
        ('provider = "cvm-role", endpoint = "http://127.0.0.1:9"', "bind a CAM role"),
        (
            f"{STATIC.replace('static', 'sts')}, role_arn = 'r', endpoint = 'http://127.0.0.1:9'",
            "STS AssumeRole: Client.ConnectFailed",
        ),
        (f'provider = "static", secret_id = "A", secret_key = "{SECRET}é"', "no key has"),
    ],
)
def test_keys_that_are_not(file: Path, credentials: str, expected: str) -> None:
    """Each account without keys is reported with advice, beside the summary."""
    result = checked(file, account(credentials) + account(STATIC, name="fine"))
    assert result.exit_code == 1
    (error,) = errors(result)
    assert error.startswith("error: accounts.prod.credentials: ")
    assert expected in error
    assert "account    fine, credentials: static" in result.stdout
    assert "warning: accounts.prod.credentials" not in result.stderr


async def test_the_answer_of_the_cloud_is_printed_once_and_on_one_line(file: Path) -> None:
    """The command runs in its own process, where logging has no handler."""
    error = {"Code": "AuthFailure", "Message": "no\x1b[31m\r\nwarning: all is \x07well"}
    refusing = ScriptedServer(lambda _: web.json_response({"Response": {"Error": error}}))
    async with served(refusing.handle) as url:
        sts = f"{STATIC.replace('static', 'sts')}, role_arn = 'r', endpoint = '{url}'"
        write(file, account(sts), 0o600)
        command = (sys.executable, "-m", "orchestrator", "check-config", "--config", str(file))
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
        _, stderr = await process.communicate()
    assert process.returncode == 1
    (line,) = stderr.decode().splitlines()
    assert line.startswith("error: accounts.prod.credentials: STS AssumeRole: ")
    assert "no  warning: all is well" in line


def test_sources_that_hang(file: Path, home: Path) -> None:
    """A named pipe without a writer and an STS that does not answer are loaded concurrently.

    The STS takes as long as a call of the account may take.
    """
    os.mkfifo(home / "pipe")
    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        sts = (
            'provider = "sts", secret_id = "A", secret_key = "k", role_arn = "r", '
            f'endpoint = "http://127.0.0.1:{port}"'
        )
        result = checked(
            file,
            account(f'provider = "profile", path = "{home}/pipe"', name="one")
            + account(sts, name="two"),
        )
    assert result.exit_code == 1
    assert [line.partition(";")[0] for line in errors(result)] == [
        f"error: accounts.{name}.credentials: the credential was not loaded within 10 s"
        for name in ("one", "two")
    ]
    (hanging,) = set(threading.enumerate()) - before
    assert hanging.name == "read credentials"
    os.close(os.open(home / "pipe", os.O_RDWR | os.O_NONBLOCK))


# --- routes --------------------------------------------------------------------------------------


def test_the_proxy_of_each_account_is_printed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each route is shown with the setting that configures it, and without passwords."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:{SECRET}@env.test:3128")
    monkeypatch.setenv("NO_PROXY", "cvm.ap-guangzhou.tencentcloudapi.com")
    own = f'proxy = "http://me:{SECRET}@own.test:1"'
    text = (
        account(STATIC, name="env")
        + account(STATIC, own, name="own")
        + account(STATIC, 'proxy = "none"', name="direct")
    )
    result = checked(file, text)
    batch, cvm = (f"{name}.ap-guangzhou.tencentcloudapi.com" for name in ("batch", "cvm"))
    assert [line.strip() for line in result.stdout.splitlines() if " route " in line] == [
        f"route    {batch} through proxy http://env.test:3128 (HTTPS_PROXY)",
        f"route    {cvm} directly",
        f"route    {batch}, {cvm} through proxy http://own.test:1 (accounts.own.proxy)",
        f"route    {batch}, {cvm} directly",
    ]
    for_all = '[egress]\nproxy = "http://all.test:2"\n'
    result = checked(file, for_all + account(STATIC, own, name="own") + account(STATIC))
    assert [
        line.partition(" through ")[2] for line in result.stdout.splitlines() if " route " in line
    ] == [
        "proxy http://own.test:1 (accounts.own.proxy)",
        "proxy http://all.test:2 (egress.proxy)",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[egress]\nproxy = "socks5://SECRET@proxy:1"\n', "egress.proxy: must be http(s)://"),
        ('[egress]\nca_file = "/none.pem"\n', "accounts.prod: ca_file /none.pem has no CA"),
        ("", "HTTPS_PROXY: must be http(s)://"),
    ],
)
def test_a_proxy_that_cannot_be_used(
    file: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    if not text:
        monkeypatch.setenv("HTTPS_PROXY", f"socks5://{SECRET}@proxy:1")
    result = checked(file, text.replace("SECRET", SECRET) + account(STATIC))
    assert result.exit_code == 2
    assert expected in result.stderr


def test_a_doubtful_setting_is_a_warning(file: Path) -> None:
    """Warnings are printed beside the summary and do not end the command."""
    result = checked(file, account(STATIC, 'endpoint = "http://x.test"', CVM_NONE), 0o644)
    assert result.exit_code == 0
    plain, readable = result.stderr.splitlines()
    assert plain.startswith("warning: accounts.prod.endpoint is plain http to another host")
    assert readable.startswith(f"warning: every user of this host can read {file}")
