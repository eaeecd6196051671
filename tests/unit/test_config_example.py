"""``config/orchestrator.toml`` shows every setting, nothing else, and the true defaults."""

from __future__ import annotations

import os
import re
import tomllib
from typing import TYPE_CHECKING, Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from orchestrator import settings
from orchestrator.cloud.credentials import REQUIRED_OPTIONS, build_provider
from orchestrator.domain.errors import ConfigurationError
from tests.support.clock import ManualClock
from tests.support.config_example import FILE, SHOWN
from tests.unit.cloud.support import NoTransport

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPENED = re.sub(r"^# (?=\w+ = |\[)", "", SHOWN, flags=re.MULTILINE)
OPENED = OPENED.replace("...", "1").replace("USER:PASSWORD", "me:word")
"""The file with all settings uncommented and the placeholders replaced."""


def of_models(kind: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each setting of a model with its default; ``*`` stands for a name that users choose."""
    if get_origin(kind) in (dict, list):
        yield from of_models(get_args(kind)[-1], f"{place}*.")
        return
    for name, field in kind.model_fields.items():
        inner = get_args(field.annotation)[-1:] or (field.annotation,)
        if isinstance(inner[0], type) and issubclass(inner[0], BaseModel):
            yield from of_models(field.annotation, f"{place}{name}.")
        else:
            yield f"{place}{name}", field.default


def of_file(table: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each setting of a TOML document with its value."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from of_file(value, f"{place}{'*' if place == 'accounts.' else name}.")
        elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
            for each in value:
                yield from of_file(each, f"{place}{name}.*.")
        else:
            yield f"{place}{name}", value


SETTINGS = dict(of_models(settings.Settings))


def test_the_models_are_walked_to_their_ends() -> None:
    """Without this, the other tests would prove nothing."""
    assert {
        "server.port",
        "engine.poll.held_interval_s",
        "accounts.*.regions",
        "accounts.*.quotas.TerminateJob",
        "accounts.*.credentials.secret_key",
        "auth.tokens.*.sha256",
    } <= SETTINGS.keys()
    assert not [name for name in SETTINGS if name in ("server", "accounts", "auth.tokens")]


def test_every_setting_is_shown_and_nothing_else() -> None:
    assert {name for name, _ in of_file(tomllib.loads(OPENED))} == SETTINGS.keys()


def test_the_values_shown_are_the_defaults() -> None:
    """Settings without a default, and commented-out examples, are not compared."""
    shown = dict(of_file(tomllib.loads(SHOWN)))
    defaults = {
        name: SETTINGS[name] for name in shown if isinstance(SETTINGS[name], str | int | float)
    }
    assert {name: shown[name] for name in defaults} == defaults
    assert len(defaults) > 20


@pytest.mark.parametrize("name", ["endpoint", "cvm_endpoint"])
def test_the_endpoints_shown_are_those_taken_where_none_is_given(tmp_path: Path, name: str) -> None:
    """The default of one of them depends on the other."""
    file = tmp_path / "orchestrator.toml"
    file.write_text(re.sub(r"^(cvm_)?endpoint = .*\n", "", SHOWN, flags=re.MULTILINE))
    taken, shown = settings.load(file), settings.load(FILE)
    assert getattr(taken.accounts["prod"], name) == getattr(shown.accounts["prod"], name)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith(("ORCHESTRATOR_", "TENCENTCLOUD_")):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("text", [SHOWN, OPENED], ids=["shown", "opened"])
@pytest.mark.parametrize("provider", REQUIRED_OPTIONS)
def test_it_is_a_configuration(tmp_path: Path, text: str, provider: str) -> None:
    """The file is valid as it is and with all settings uncommented, for every provider."""
    file = tmp_path / "orchestrator.toml"
    file.write_text(text.replace('provider = "environment"', f'provider = "{provider}"'))
    if text is SHOWN and REQUIRED_OPTIONS[provider]:
        with pytest.raises(ConfigurationError, match=f"is required by provider {provider}"):
            settings.load(file)
    else:
        credentials = settings.load(file).accounts["prod"].credentials
        built = build_provider(
            credentials.provider, credentials.options(), ManualClock(), NoTransport()
        )
        assert callable(built.get)


@pytest.mark.parametrize("provider", REQUIRED_OPTIONS)
def test_every_provider_is_explained(provider: str) -> None:
    assert re.search(rf"^# {provider}: ", SHOWN, flags=re.MULTILINE)
