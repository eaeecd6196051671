"""Loading of the configuration; every mistake is reported under the name that the user wrote."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

from pydantic import ValidationError

from orchestrator.domain.errors import ConfigurationError
from orchestrator.settings.placeholders import UNFILLED, placeholders
from orchestrator.settings.sections import FOLDER, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails

    from orchestrator.settings.placeholders import Place

PREFIX = "ORCHESTRATOR__"
CONFIG_VARIABLE = "ORCHESTRATOR_CONFIG"
REGION_VARIABLE = "TENCENTCLOUD_REGION"
"""Variable of the vendor's tools: the default region of an account that configures none."""


def load(path: Path | None) -> Settings:
    """Read the file (default: $ORCHESTRATOR_CONFIG) and the environment.

    Raises ConfigurationError with all problems.
    """
    named = config_path(path)
    values, problems = read_file(named) if named else ({}, [])
    unreadable = bool(problems)
    variables, misspelt = _override(values, os.environ)
    problems += misspelt
    _name_default_region(values, os.environ.get(REGION_VARIABLE))
    unfilled = set(placeholders(values))
    problems += sorted(f"{_where(place, variables)}: {UNFILLED}" for place in unfilled)
    if not unreadable:
        try:
            folder = named.parent if named else Path()
            settings = Settings.model_validate(values, context={FOLDER: folder})
        except ValidationError as error:
            problems += [
                f"{_where(found['loc'], variables)}: {_message(found)}"
                for found in error.errors(include_url=False, include_input=False)
                if found["loc"] not in unfilled
            ]
    if problems:
        raise ConfigurationError(problems)
    return settings


def config_path(path: Path | None) -> Path | None:
    """Return the configuration file: ``path`` (the command line), else $ORCHESTRATOR_CONFIG."""
    return path or (Path(given) if (given := os.environ.get(CONFIG_VARIABLE)) else None)


def _where(place: Place, variables: Mapping[Place, str]) -> str:
    """Return the name under which the user wrote the value at ``place``: variable or setting."""
    for end in range(len(place), 0, -1):
        if place[:end] in variables:
            return variables[place[:end]]
    return ".".join(str(part) for part in place) or "configuration"


def _message(found: ErrorDetails) -> str:
    message = str(found["msg"]).removeprefix("Value error, ")
    if found["type"] == "extra_forbidden":
        return "there is no such setting; see config/orchestrator.toml"
    return message[0].lower() + message[1:]


def read_file(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the values of a TOML file, and the problems that kept it from being read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if "\0" in text:
            return {}, [f"{path} contains a NUL byte: save it as UTF-8"]
        return tomllib.loads(text), []
    except OSError as error:
        return {}, [f"{path} cannot be read: {error.strerror}"]
    except UnicodeDecodeError as error:
        return {}, [f"{path} is not UTF-8 at byte {error.start}: save it as UTF-8"]
    except tomllib.TOMLDecodeError as error:
        return {}, [f"{path} is not TOML: {error}"]


def _name_default_region(values: dict[str, Any], region: str | None) -> None:
    accounts = values.get("accounts")
    for account in accounts.values() if isinstance(accounts, dict) else ():
        regions = account.get("regions") if isinstance(account, dict) else None
        if isinstance(regions, list) and region in regions:
            account.setdefault("default_region", region)


def _override(
    values: dict[str, Any], environment: Mapping[str, str]
) -> tuple[dict[Place, str], list[str]]:
    """Replace values of the file by those of the environment.

    Returns the variable of each replaced value, and the problems with other variables.
    """
    variables: dict[Place, str] = {}
    problems = []
    for variable, text in sorted(environment.items()):
        if variable.upper().startswith(PREFIX):
            try:
                place, kind = _place(values, variable[len(PREFIX) :].split("__"))
                _put(values, place, _parsed(kind, text))
                variables[place] = variable
            except ValueError as error:
                problems.append(f"{variable}: {error}")
    return variables, problems


def _place(values: object, keys: list[str]) -> tuple[tuple[str, ...], Any]:
    """Return the place that a variable's keys name, and the type there; raise ValueError."""
    place: tuple[str, ...] = ()
    kind: Any = Settings
    for key in keys:
        found = _inside(kind, key, values)
        if found is None:
            raise ValueError("there is no such setting; see config/orchestrator.toml")
        name, kind = found
        place = (*place, name)
        values = values.get(name) if isinstance(values, dict) else None
    return place, kind


def _inside(kind: Any, key: str, values: object) -> tuple[str, Any] | None:
    """Return the name and type that ``key`` stands for in a section; raise ValueError if ambiguous.

    The name of a variable cannot contain a dash, and often does not keep the letter case.
    """
    if get_origin(kind) is not dict:
        fields = getattr(kind, "model_fields", {})
        name = key.lower()
        kinds = {each.lower(): (each, field.annotation) for each, field in fields.items()}
        return kinds.get(name)
    inner = get_args(kind)[1]
    names = [name for name in values if isinstance(name, str)] if isinstance(values, dict) else []
    for normalise in (str, str.lower, _as_variable):
        found = [name for name in names if normalise(name) == normalise(key)]
        if len(found) > 1:
            raise ValueError(f"may mean {' or '.join(found)}: write the value in the file instead")
        if found:
            return found[0], inner
    return key.lower(), inner


def _as_variable(name: str) -> str:
    return re.sub(r"[^0-9a-z]", "_", name.lower())


def _parsed(kind: Any, text: str) -> object:
    """Return a variable's text as a value of ``kind``; raise ValueError."""
    if get_origin(kind) is dict or hasattr(kind, "model_fields"):
        raise ValueError("is a section: use one variable for each of its settings")
    if get_origin(kind) is not list:
        return text
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError("must be a JSON list") from None


def _put(values: dict[str, Any], place: tuple[str, ...], value: object) -> None:
    *sections, name = place
    table: Any = values
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            return
    table[name] = value
