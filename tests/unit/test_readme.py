"""What the README says exists, exists, and what exists is in the README."""

from __future__ import annotations

import re
import textwrap
from configparser import ConfigParser
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
import typer

from orchestrator.api.routes import application
from orchestrator.cli.main import app, simulator
from orchestrator.domain.model.lifecycle import State, mermaid
from orchestrator.settings import load
from orchestrator.simulator.scenario.scenario import load_scenario

if TYPE_CHECKING:
    from orchestrator.api.routes import Context

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def fenced(language: str) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", README, re.MULTILINE | re.DOTALL)


def test_the_diagram_is_drawn_from_the_table() -> None:
    assert fenced("mermaid") == [mermaid() + "\n"]


@pytest.mark.parametrize("state", State)
def test_every_state_is_explained(state: State) -> None:
    assert f"\n| `{state}` | " in README


def routes() -> set[str]:
    context = cast("Context", SimpleNamespace(tokens={}))
    return {
        resource.canonical.replace("/operations/{id}", "/operations/OPERATION").replace(
            "/terminations/{id}", "/terminations/TERMINATION"
        )
        for resource in application(context).router.resources()
    }


def test_every_call_is_shown_with_curl_and_no_other() -> None:
    shown = {
        path
        for block in fenced("sh")
        for path in re.findall(r"curl [^\n]*localhost:8642(/[^?\s\"]*)", block)
    }
    assert shown == routes()


def commands() -> set[str]:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    names = set()
    for name, command in group.commands.items():
        inner = command.commands if isinstance(command, typer.core.TyperGroup) else {}
        names |= {f"{name} {each}" for each in inner} or {name}
    return names


def test_every_command_is_listed_and_no_other() -> None:
    listed = re.findall(r"^\| `orchestrator ([a-z-]+(?: [a-z]+)?)", README, re.MULTILINE)
    assert set(listed) == commands()


@pytest.mark.parametrize("name", re.findall(r"\]\(([^)]*)\)", README))
def test_every_link_leads_somewhere(name: str) -> None:
    assert (ROOT / name).is_file()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"config/[a-z-]+\.toml", README))))
def test_every_configuration_named_is_there(name: str) -> None:
    assert (ROOT / name).is_file()


def test_the_configuration_for_the_simulator_fits_the_scenario(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.environ", {})
    scenario = load_scenario(ROOT / "config" / "scenario-small.toml")
    (account,) = load(ROOT / "config" / "simulator.toml").accounts.values()
    secret_key = account.credentials.secret_key
    assert secret_key is not None
    assert scenario.secret_keys == {account.credentials.secret_id: secret_key.get_secret_value()}
    assert account.regions == list(scenario.regions)
    assert account.endpoint.endswith(f":{signature(simulator).parameters['port'].default}")


def test_the_unit_runs_as_nobody_special_and_keeps_the_database_where_it_may_write() -> None:
    (text,) = fenced("ini")
    unit = ConfigParser()
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(textwrap.dedent(text))
    service = unit["Service"]
    assert service["User"] != "root"
    assert service["UMask"] == "0077"
    assert int(service["LimitNOFILE"]) >= 4096
    (path,) = re.findall(r"`url = \"(sqlite:///[^\"]*)\"`", README)
    assert path.startswith(f"sqlite:////var/lib/{service['StateDirectory']}/")
