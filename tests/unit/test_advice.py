"""What check-config and serve say of a configuration that is valid, and cannot work or be meant."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from orchestrator import settings
from orchestrator.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith(("ORCHESTRATOR_", "TENCENTCLOUD_")):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "orchestrator.toml"


def advised(file: Path, text: str) -> settings.Advice:
    """By ``advise`` and by ``check-config`` alike."""
    file.write_text(text, encoding="utf-8")
    advice = settings.advise(settings.load(file), os.environ)
    told = CliRunner().invoke(main.app, ["check-config", "--config", str(file)])
    assert told.exit_code == (2 if advice.errors else 0)
    warnings = [f"warning: {text}" for text in advice.warnings]
    assert told.stderr.splitlines() == [*advice.errors, *warnings]
    return advice


STATIC = '{ provider = "static", secret_id = "AKID1", secret_key = "k" }'


@pytest.mark.parametrize(
    ("one", "two", "shared"),
    [
        (STATIC, STATIC, True),
        (STATIC, STATIC.replace("AKID1", "AKID2"), False),
        ('{ provider = "environment" }', '{ provider = "environment" }', True),
        ('{ provider = "environment" }', '{ provider = "profile" }', False),
        ('{ provider = "profile" }', '{ provider = "profile", path = "other" }', False),
        ('{ provider = "cvm-role" }', '{ provider = "cvm-role" }', True),
    ],
)
def test_accounts_that_share_a_quota_unseen_are_told(
    file: Path, one: str, two: str, *, shared: bool
) -> None:
    """For the cloud counts by key and host, whatever we call them."""
    for endpoint, same_host in (("https://batch.tencentcloudapi.com", True), ("", False)):
        accounts = [
            f"[accounts.{name}]\nregions = ['{region}']\ncredentials = {credentials}\n"
            + (f"endpoint = '{endpoint}'\ncvm_endpoint = 'none'\n" if endpoint else "")
            for name, region, credentials in (("a", "ap-guangzhou", one), ("b", "ap-beijing", two))
        ]
        warnings = advised(file, "".join(accounts)).warnings
        assert len(warnings) == (shared and same_host)
        assert all("accounts a, b use one SecretId on batch." in each for each in warnings)


@pytest.mark.parametrize(
    ("cvm_of_two", "told"),
    [
        ("https://cvm.tencentcloudapi.com", ["cvm.tencentcloudapi.com"]),
        ("https://cvm.{region}.tencentcloudapi.com", []),
        ("none", []),
    ],
)
def test_accounts_that_share_a_quota_of_machines_are_told(
    file: Path, cvm_of_two: str, told: list[str]
) -> None:
    """Once a host, also where it serves both of an account's regions."""
    accounts = [
        f"[accounts.{name}]\nregions = {regions}\ncredentials = {STATIC}\n"
        f"endpoint = 'https://{name}.batch.cloud'\ncvm_endpoint = '{cvm_endpoint}'\n"
        for name, regions, cvm_endpoint in (
            ("a", ["ap-guangzhou", "ap-shanghai"], "https://cvm.tencentcloudapi.com"),
            ("b", ["ap-guangzhou", "ap-beijing"], cvm_of_two),
        )
    ]
    warnings = advised(file, "".join(accounts)).warnings
    assert [warning.partition(" on ")[2].partition(":")[0] for warning in warnings] == told


def test_keys_of_the_environment_may_be_those_of_another_account(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(
        f"[accounts.{name}]\nregions = ['ap-guangzhou']\ncredentials = {credentials}\n"
        for name, credentials in (("a", STATIC), ("b", '{ provider = "environment" }'))
    )
    for secret_id, shared in (("AKID2", False), ("AKID1", True)):
        monkeypatch.setenv("TENCENTCLOUD_SECRET_ID", secret_id)
        told = advised(file, text).warnings
        assert any("accounts a, b use one SecretId" in each for each in told) is shared
