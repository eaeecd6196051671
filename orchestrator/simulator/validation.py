"""Validation of scenarios and control documents: every mistake, with its place in the file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from orchestrator.simulator.errors import ScenarioError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

T = TypeVar("T")

_MESSAGES: Final = {
    "bool_type": "must be true or false",
    "dict_type": "must be a table",
    "extra_forbidden": "unknown key",
    "missing": "is required",
    "model_type": "must be a table",
    "tuple_type": "must be a list",
}
"""Messages for mistakes that pydantic describes in the words of Python."""


class Table(BaseModel):
    """A table without other keys, and without values of other types."""

    model_config = ConfigDict(allow_inf_nan=False, extra="forbid", frozen=True, strict=True)


def one_of(options: Collection[str]) -> AfterValidator:
    """Return a validator that refuses any other text."""

    def check(text: str) -> str:
        if text not in options:
            raise ValueError(f"must be one of {', '.join(options)}")
        return text

    return AfterValidator(check)


def _listed(value: object) -> object:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


LISTED: Final = BeforeValidator(_listed)
"""Accepts a list as a tuple, and one text as a list of it."""
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0)]


def validated(
    kind: TypeAdapter[T], document: object, *, at: str, context: Mapping[str, Any] | None = None
) -> T:
    """Return the value of a document; raise ``ScenarioError`` with every mistake.

    ``at`` is the key of the document in a scenario file; '' for a whole file.
    """
    try:
        return kind.validate_python(document, context=context)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
    raise ScenarioError([f"{_place(at, each)}: {_message(each)}" for each in found])


def _place(at: str, found: ErrorDetails) -> str:
    """Return the place of a mistake in TOML's words, such as ``jobs[3].drain_s``."""
    steps = [step for step in found["loc"] if step != "[key]"]
    words = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return f"{at}{''.join(words)}".removeprefix(".") or "scenario"


def _message(found: ErrorDetails) -> str:
    message = found["msg"].removeprefix("Value error, ")
    return _MESSAGES.get(found["type"]) or re.sub(r"^\w+ should ", "must ", message)
