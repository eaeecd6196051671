"""README.md, config/README.md and CONTRIBUTING.md against the program: names, links, examples."""

from __future__ import annotations

import re
import textwrap
from configparser import ConfigParser
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final, cast

import pytest
import typer

from orchestrator.api.routes import application
from orchestrator.cli.main import app, simulator
from orchestrator.domain.model.lifecycle import State, mermaid
from orchestrator.settings import load
from orchestrator.simulator.scenario.scenario import load_scenario

if TYPE_CHECKING:
    from orchestrator.api.routes import Context

ROOT: Final = Path(__file__).parents[2]
README: Final = "README.md"
OPERATING: Final = "config/README.md"
CONTRIBUTING: Final = "CONTRIBUTING.md"
TEXTS: Final = {
    name: (ROOT / name).read_text(encoding="utf-8") for name in (README, OPERATING, CONTRIBUTING)
}
BOTH: Final = TEXTS[README] + TEXTS[OPERATING]
"""What users read."""
README_LINES_MAX: Final = 200
IDS: Final = ("$OP", "${OP}", "$TRM", "${TRM}")
"""Shell variables of the examples that hold the id of an operation or a termination."""


def fenced(language: str) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", BOTH, re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """Return the names by which GitHub links to the headings of a document."""
    outside = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", outside, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def links() -> list[tuple[str, str]]:
    return [
        (name, target)
        for name, text in TEXTS.items()
        for target in dict.fromkeys(re.findall(r"\]\(([^)]*)\)", text))
    ]


def test_the_readme_stays_short() -> None:
    assert len(TEXTS[README].splitlines()) <= README_LINES_MAX


def test_the_diagram_is_drawn_from_the_table() -> None:
    assert fenced("mermaid") == [mermaid() + "\n"]


@pytest.mark.parametrize("state", State)
def test_every_state_is_explained_once(state: State) -> None:
    assert BOTH.count(f"\n| `{state}` | ") == 1


def routes() -> set[str]:
    context = cast("Context", SimpleNamespace(tokens={}))
    return {resource.canonical for resource in application(context).router.resources()}


def test_every_call_is_shown_with_curl_and_no_other() -> None:
    shown = set()
    for block in fenced("sh"):
        for path in re.findall(r"curl [^\n]*localhost:8642(/[^?\s\"]*)", block):
            for variable in IDS:
                path = path.replace(variable, "{id}")  # noqa: PLW2901
            shown.add(path)
    assert shown == routes()


def test_examples_set_a_variable_before_they_use_it() -> None:
    for name in (README, OPERATING):
        for variable in ("OP", "TRM"):
            first = re.search(rf"\$\{{?{variable}\b", TEXTS[name])
            assert first is not None
            assert f"\n{variable}=$(" in TEXTS[name][: first.start()]


def commands() -> set[str]:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    names = set()
    for name, command in group.commands.items():
        inner = command.commands if isinstance(command, typer.core.TyperGroup) else {}
        names |= {f"{name} {each}" for each in inner} or {name}
    return names


def test_every_command_is_listed_and_no_other() -> None:
    listed = re.findall(r"^\| `orchestrator ([a-z-]+(?: [a-z]+)?)", BOTH, re.MULTILINE)
    assert set(listed) == commands()


@pytest.mark.parametrize(("document", "target"), links())
def test_every_link_leads_somewhere(document: str, target: str) -> None:
    path, _, anchor = target.partition("#")
    file = (ROOT / document).parent / path if path else ROOT / document
    assert file.is_file()
    if anchor:
        assert anchor in anchors(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("document", [OPERATING, CONTRIBUTING])
def test_the_table_of_contents_has_every_section(document: str) -> None:
    (title,) = re.findall(r"\A# (.*)$", TEXTS[document], re.MULTILINE)
    listed = {target for name, target in links() if name == document and target.startswith("#")}
    sections = anchors(TEXTS[document]) - anchors(f"# {title}")
    assert listed == {f"#{section}" for section in sections}


@pytest.mark.parametrize("name", sorted(set(re.findall(r"config/[a-z-]+\.toml", BOTH))))
def test_every_configuration_named_is_there(name: str) -> None:
    assert (ROOT / name).is_file()


@pytest.mark.parametrize("name", sorted(each.name for each in (ROOT / "config").glob("*.toml")))
def test_every_configuration_there_is_named(name: str) -> None:
    assert f"\n| [{name}]({name}) | " in TEXTS[OPERATING]


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:/|\.py))`", TEXTS[CONTRIBUTING])))
)
def test_every_path_that_contributors_are_sent_to_is_there(path: str) -> None:
    assert (ROOT / "orchestrator" / path).exists() or (ROOT / path).exists()


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


def test_the_unit_runs_unprivileged_and_keeps_the_database_where_it_may_write() -> None:
    (text,) = fenced("ini")
    unit = ConfigParser()
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(textwrap.dedent(text))
    service = unit["Service"]
    assert service["User"] != "root"
    assert service["UMask"] == "0077"
    assert int(service["LimitNOFILE"]) >= 4096
    (path,) = re.findall(r"`url = \"(sqlite:///[^\"]*)\"`", BOTH)
    assert path.startswith(f"sqlite:////var/lib/{service['StateDirectory']}/")
