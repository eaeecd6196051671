"""Whether a value out of a file has the shape that is expected, told without raising.

A shape is a type; a set of values; a list of the shape of its members; a tuple of shapes, any of
which it may have; or a dict of its members' shapes, where a name that ends in ``?`` may be missing
and OTHERS stands for members of any other name and shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Shape: TypeAlias = "type | frozenset[Any] | list[Shape] | tuple[Shape, ...] | dict[str, Shape]"

NOTHING: Final = type(None)
OTHERS: Final = "*"
ECHO_MAX: Final = 60
"""Characters of a value that a fault repeats."""


def misshapen(value: object, shape: Shape, where: str) -> Iterator[str]:
    """Each place in ``value`` that has another shape; ``where`` names it."""
    match shape:
        case dict():
            yield from _members(value, shape, where)
        case list():
            if not isinstance(value, list):
                yield f"{where}: must be a list"
                return
            for number, each in enumerate(value, start=1):
                yield from misshapen(each, shape[0], f"{where} {number}")
        case tuple():
            found = [list(misshapen(value, each, where)) for each in shape]
            if all(found):
                yield from found[0]
        case frozenset():
            if type(value) not in {str, int} or value not in shape:
                yield f"{where}: {_shown(value)} is not possible here"
        case _:
            if type(value) is not shape:
                yield f"{where}: {_shown(value)} is not possible here"


def _members(value: object, shape: Mapping[str, Shape], where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: must be an object"
        return
    for name, each in shape.items():
        plain = name.removesuffix("?")
        if plain in value and name != OTHERS:
            yield from misshapen(value[plain], each, f"{where}, {plain}")
        elif name not in {f"{plain}?", OTHERS}:
            yield f"{where}: lacks {name}"
    if OTHERS not in shape:
        for name in sorted(value.keys() - {name.removesuffix("?") for name in shape}):
            yield f"{where}: has a member {_shown(name)} that is not known"


def _shown(value: object) -> str:
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    text = ascii(value)
    return text if len(text) <= ECHO_MAX else f"{text[:ECHO_MAX]}..."
