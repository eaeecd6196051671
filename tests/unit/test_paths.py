"""Paths at which no file can exist: each command reports them in one line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from orchestrator.cli import main

if TYPE_CHECKING:
    from pathlib import Path

KEYS = '{ provider = "static", secret_id = "AKID1", secret_key = "k" }'
ACCOUNT = f"[accounts.a]\nregions = ['ap-guangzhou']\ncredentials = {KEYS}\n"
SETTINGS = {
    "database.url": (f"{ACCOUNT}[database]\nurl = ", "sqlite:///PATH"),
    **{
        f"database.url: {name}": (f"{ACCOUNT}[database]\nurl = ", f"postgresql://h/n?{name}=PATH")
        for name in ("sslrootcert", "sslcert", "sslkey")
    },
    "egress.ca_file": (f"{ACCOUNT}[egress]\nca_file = ", "PATH"),
    "accounts.a.ca_file": (f"{ACCOUNT}ca_file = ", "PATH"),
    "accounts.a.credentials.path": (
        ACCOUNT.replace(f" = {KEYS}", ".provider = 'profile'") + "credentials.path = ",
        "PATH",
    ),
}
"""By the name in the error: the text before the path, and the value with the path."""
COMMANDS = [("check-config",), ("db", "upgrade"), ("serve",)]


@pytest.fixture(autouse=True)
def _clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith(("ORCHESTRATOR_", "TENCENTCLOUD_", "PG")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")


def refusal(tmp_path: Path, text: str, *command: str) -> str:
    file = tmp_path / "orchestrator.toml"
    file.write_text(text)
    result = CliRunner().invoke(main.app, [*command, "--config", str(file)])
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 2
    return line


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("where", SETTINGS)
@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("n" * 256, "cannot be the path of a file: File name too long"),
        ("n/" * 2100, "cannot be the path of a file: File name too long"),
        ("FOLDER/loop", "cannot be the path of a file: Too many levels of symbolic links"),
        ("FOLDER/loop/x", "cannot be the path of a file: Too many levels of symbolic links"),
        ("~nobody-of-this-name/x", "the home folder of this user is unknown: give the full path"),
        (r"a\u0000b", "cannot be the path of a file: it contains the character NUL"),
    ],
    ids=["long name", "long path", "loop", "below a loop", "no home", "NUL"],
)
def test_a_path_at_which_no_file_can_be(
    tmp_path: Path, where: str, path: str, why: str, command: tuple[str, ...]
) -> None:
    before, value = SETTINGS[where]
    given = value.replace("PATH", path.replace("FOLDER", str(tmp_path)))
    if value.startswith("sqlite") and "u0000" in path:
        why = "must be sqlite:///PATH of a file"
    line = refusal(tmp_path, f'{before}"{given}"\n', *command)
    assert line.startswith(f"{where}: {why}")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_database_whose_other_files_could_not_be_made(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    """The target of a link is checked, too."""
    link, name = tmp_path / "link", "n" * 250
    link.symlink_to(name)
    for path in (tmp_path / name, link):
        line = refusal(tmp_path, f"{ACCOUNT}[database]\nurl = 'sqlite:///{path}'", *command)
        assert line == "database.url: cannot be the path of a file: File name too long"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (
            "PGSSLROOTCERT",
            "n" * 256,
            "variable PGSSLROOTCERT: cannot be the path of a file",
        ),
        ("PGSSLROOTCERT", "/none", "variable PGSSLROOTCERT: there is no file /none"),
        ("HOME", "/" + "n" * 256, "sslmode=verify-full needs sslrootcert"),
    ],
)
def test_an_authority_that_the_environment_names(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    expected: str,
    command: tuple[str, ...],
) -> None:
    monkeypatch.setenv(name, value)
    url = "postgresql://h/n?sslmode=verify-full"
    line = refusal(tmp_path, f"{ACCOUNT}[database]\nurl = '{url}'", *command)
    assert line.startswith(f"database.url: {expected}")


def test_a_profile_that_no_file_can_be_named_after(tmp_path: Path) -> None:
    text = ACCOUNT.replace(KEYS, r'{ provider = "profile", profile = "a\u0000b" }')
    assert refusal(tmp_path, text, "check-config").startswith("accounts.a.credentials.profile: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
@pytest.mark.parametrize(
    ("url", "code"), [("sqlite:///PATH", 0), ("postgresql://h/n?sslrootcert=PATH", 2)]
)
def test_a_folder_that_this_user_may_not_read(tmp_path: Path, url: str, code: int) -> None:
    """It is not an error: the daemon's user may have access."""
    folder, file = tmp_path / "closed", tmp_path / "orchestrator.toml"
    folder.mkdir(0)
    file.write_text(f"{ACCOUNT}[database]\nurl = '{url.replace('PATH', f'{folder}/x')}'")
    result = CliRunner().invoke(main.app, ["check-config", "--config", str(file)])
    assert result.exit_code == code, result.output
