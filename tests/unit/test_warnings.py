"""Warnings about values that may be intended: plain http, and world-readable secrets."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from orchestrator import settings
from orchestrator.settings.advice import NEEDED_VARIABLES

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "do-not-print-me"
STATIC = f'provider = "static", secret_id = "AKID1", secret_key = "{SECRET}"'


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in os.environ:
        if name.upper().startswith(("ORCHESTRATOR_", "TENCENTCLOUD_")):
            monkeypatch.delenv(name)
    for names in NEEDED_VARIABLES.values():
        for name in names:
            monkeypatch.setenv(name, "given")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def file(home: Path) -> Path:
    return home / "orchestrator.toml"


def account(credentials: str, *more: str) -> str:
    lines = ("[accounts.prod]", 'regions = ["ap-guangzhou"]', *more)
    return "\n".join((*lines, f"credentials = {{ {credentials} }}\n"))


def warned(file: Path, text: str, mode: int = 0o600) -> list[str]:
    file.write_text(text)
    file.chmod(mode)
    advice = settings.advise(settings.load(file), os.environ, file)
    assert SECRET not in str(advice)
    return list(advice.warnings)


@pytest.mark.parametrize(
    ("endpoint", "cvm_endpoint", "named"),
    [
        ("http://batch.internal", "https://cvm.internal", ["endpoint"]),
        ("https://batch.internal", "http://10.0.0.1:80", ["cvm_endpoint"]),
        ("http://127.0.0.1:1", "http://localhost:1", []),
        ("http://[::1]:1", "none", []),
        ("https://batch.internal", "none", []),
    ],
)
def test_plain_http_to_another_host(
    file: Path, endpoint: str, cvm_endpoint: str, named: list[str]
) -> None:
    more = (f'endpoint = "{endpoint}"', f'cvm_endpoint = "{cvm_endpoint}"')
    warnings = warned(file, account(STATIC, *more))
    assert [line.split()[0] for line in warnings] == [f"accounts.prod.{name}" for name in named]
    assert all("use https://" in line for line in warnings)


def test_plain_http_to_another_sts(file: Path) -> None:
    """The metadata service of a machine only has plain http, so it is no warning."""
    for provider, warnings in (("tke-oidc", 1), ("cvm-role", 0)):
        text = account(f'provider = "{provider}", endpoint = "http://sts.internal.test"')
        assert len(warned(file, text)) == warnings


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o604])
@pytest.mark.parametrize(
    ("text", "held"),
    [
        (account(STATIC), ["accounts.prod.credentials.secret_key"]),
        (account(STATIC, 'proxy = "http://u:p@x:1"'), ["accounts.prod.proxy", "secret_key"]),
        (f'database.url = "postgresql://u:{SECRET}@h/n"\n' + account(STATIC), ["database.url"]),
        (account('provider = "environment"', 'proxy = "http://x:1"'), []),
    ],
)
def test_a_configuration_with_secrets_that_all_users_can_read(
    file: Path, text: str, held: list[str], mode: int
) -> None:
    warnings = warned(file, text, mode)
    assert len(warnings) == bool(held and mode & 0o004)
    for line in warnings:
        assert all(name in line for name in held)
        assert f"chmod 600 {file}" in line


@pytest.mark.parametrize("name", [".tencentcloud/credentials", ".tccli/default.credential", "own"])
def test_a_profile_that_all_users_can_read(file: Path, home: Path, name: str) -> None:
    path = home / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"secretId": "AKID", "secretKey": SECRET}))
    own = f', path = "{path}"' if name == "own" else ""
    for mode, count in ((0o600, 0), (0o644, 1)):
        path.chmod(mode)
        assert len(warned(file, account(f'provider = "profile"{own}'), 0o644)) == count
