"""Reads the file and the variables over it, and names every mistake where a person made it."""

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
"""The vendor's own tools take the region from it where none is named."""


def load(path: Path | None) -> Settings:
    """Read the file (default: $ORCHESTRATOR_CONFIG) and the environment.

    Raises ConfigurationError with every problem found.
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
    """The file that is read, given the one that was named on the command line."""
    return path or (Path(given) if (given := os.environ.get(CONFIG_VARIABLE)) else None)


def _where(place: Place, variables: Mapping[Place, str]) -> str:
    """The name under which a person gave the value at ``place``."""
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
    """The values of a TOML file, and what is wrong with it as a file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if "\0" in text:
            return {}, [f"{path} holds a NUL byte: save it as UTF-8"]
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
    """Put the environment's values over the file's.

    Returns the variable that each came from, and what is wrong with the others.
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
    """Where a variable's keys point, and the type of what stands there; raises ValueError."""
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
    """What ``key`` names in a section, and its type; raises ValueError where it may be several.

    A variable's name has no dash, and letter case is often lost in it.
    """
    if get_origin(kind) is not dict:
        fields = getattr(kind, "model_fields", {})
        name = key.lower()
        kinds = {each.lower(): (each, field.annotation) for each, field in fields.items()}
        return kinds.get(name)
    inner = get_args(kind)[1]
    names = [name for name in values if isinstance(name, str)] if isinstance(values, dict) else []
    for plain in (str, str.lower, _as_in_a_variable):
        found = [name for name in names if plain(name) == plain(key)]
        if len(found) > 1:
            raise ValueError(f"it may be meant for {' or '.join(found)}: give it in the file")
        if found:
            return found[0], inner
    return key.lower(), inner


def _as_in_a_variable(name: str) -> str:
    return re.sub(r"[^0-9a-z]", "_", name.lower())


def _parsed(kind: Any, text: str) -> object:
    """A variable's text as the file would have its value; raises ValueError."""
    if get_origin(kind) is dict or hasattr(kind, "model_fields"):
        raise ValueError("this is a section: give its settings, each by a variable of its own")
    if get_origin(kind) is not list:
        return text
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError("must be a list in JSON") from None


def _put(values: dict[str, Any], place: tuple[str, ...], value: object) -> None:
    *sections, name = place
    table: Any = values
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            return
    table[name] = value
