"""Schema check of a value read from a file; it reports errors and never raises.

A schema (``Shape``) is one of: a type; a set of values; a list with the schema of its members; a
tuple of alternative schemas; a dict with the schema of each member. In a dict, a name that ends in
``?`` is optional, and OTHERS allows members of any other name and shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Shape: TypeAlias = "type | frozenset[Any] | list[Shape] | tuple[Shape, ...] | dict[str, Shape]"

NOTHING: Final = type(None)
OTHERS: Final = "*"
ECHO_MAX: Final = 60
"""Characters of a value that an error message repeats."""


def validation_errors(value: object, shape: Shape, where: str) -> Iterator[str]:
    """Yield an error for each place in ``value`` with another shape; ``where`` names ``value``."""
    match shape:
        case dict():
            yield from _members(value, shape, where)
        case list():
            if not isinstance(value, list):
                yield f"{where}: must be a list"
                return
            for number, each in enumerate(value, start=1):
                yield from validation_errors(each, shape[0], f"{where} {number}")
        case tuple():
            errors = [list(validation_errors(value, each, where)) for each in shape]
            if all(errors):
                yield from errors[0]
        case frozenset():
            if type(value) not in {str, int} or value not in shape:
                yield f"{where}: {_shown(value)} is not a valid value"
        case _:
            if type(value) is not shape:
                yield f"{where}: {_shown(value)} is not a valid value"


def _members(value: object, shape: Mapping[str, Shape], where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: must be an object"
        return
    for name, each in shape.items():
        plain = name.removesuffix("?")
        if plain in value and name != OTHERS:
            yield from validation_errors(value[plain], each, f"{where}, {plain}")
        elif name not in {f"{plain}?", OTHERS}:
            yield f"{where}: {name} is missing"
    if OTHERS not in shape:
        for name in sorted(value.keys() - {name.removesuffix("?") for name in shape}):
            yield f"{where}: unknown member {_shown(name)}"


def _shown(value: object) -> str:
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    text = ascii(value)
    return text if len(text) <= ECHO_MAX else f"{text[:ECHO_MAX]}..."
