"""Validation of a table of a TOML or JSON document, with all mistakes reported at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeGuard

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from random import Random

RANGE_ENDS: Final = 2


@dataclass(frozen=True, slots=True)
class Range:
    """A number, or a range from which one is drawn uniformly.

    ``whole``: draw integers, both ends included.
    """

    low: float
    high: float
    whole: bool = False

    def draw(self, random: Random) -> float:
        if self.whole:
            return random.randint(int(self.low), int(self.high))
        return random.uniform(self.low, self.high)


class TableReader:
    """Reader of one table.

    Each mistake is appended to ``problems`` as a line that begins with its place.
    """

    def __init__(self, table: object, where: str, problems: list[str]) -> None:
        self.where = where
        self._problems = problems
        self._read: set[str] = set()
        self._table: Mapping[str, object] = {}
        if isinstance(table, dict):
            self._table = table
        else:
            problems.append(f"{where}: must be a table")

    def __contains__(self, key: str) -> bool:
        return key in self._table

    def names(self) -> list[str]:
        return list(self._table)

    def take(self, key: str) -> object:
        """Return the value unchecked; None if it is absent."""
        self._read.add(key)
        return self._table.get(key)

    def add_error(self, key: str, problem: str) -> None:
        self._problems.append(f"{self.where}.{key}: {problem}")

    def text(self, key: str, default: str | None = None) -> str | None:
        value = self.take(key)
        if value is None:
            return default
        if isinstance(value, str) and value:
            return value
        self.add_error(key, "must be a non-empty string")
        return default

    def choice(self, key: str, options: Collection[str], default: str) -> str:
        value = self.take(key)
        if value is None:
            return default
        if isinstance(value, str) and value in options:
            return value
        self.add_error(key, f"must be one of {', '.join(options)}")
        return default

    def flag(self, key: str) -> bool:
        value = self.take(key)
        if value is None or isinstance(value, bool):
            return bool(value)
        self.add_error(key, "must be true or false")
        return False

    def texts(self, key: str) -> tuple[str, ...]:
        """Read a list of texts, or one text."""
        value = self.take(key)
        values = [value] if isinstance(value, str) else value
        if values is None:
            return ()
        if isinstance(values, list) and all(isinstance(item, str) and item for item in values):
            return tuple(values)
        self.add_error(key, "must be a list of non-empty strings")
        return ()

    def choices(self, key: str, options: Collection[str]) -> tuple[str, ...]:
        """Read a list of these options, or one of them."""
        words = self.texts(key)
        for word in words:
            if word not in options:
                self.add_error(key, f"{word} is not one of {', '.join(options)}")
        return words

    def text_table(self, key: str) -> dict[str, str]:
        inner = TableReader(self.take(key) or {}, f"{self.where}.{key}", self._problems)
        return {name: inner.text(name) or "" for name in inner.names()}

    def number(self, key: str, default: float) -> float:
        value = self.take(key)
        if value is None:
            return default
        if is_number(value) and value >= 0:
            return value
        self.add_error(key, "must be a number, 0 or more")
        return default

    def whole(self, key: str, default: int, *, minimum: int) -> int:
        value = self.take(key)
        if value is None:
            return default
        if isinstance(value, int) and not isinstance(value, bool) and value >= minimum:
            return value
        self.add_error(key, f"must be a whole number, {minimum} or more")
        return default

    def range(self, key: str) -> Range | None:
        """Read a number of 0 or more, or two as [from, to]."""
        value = self.take(key)
        if value is None:
            return None
        ends = value if isinstance(value, list) else [value, value]
        if len(ends) == RANGE_ENDS:
            low, high = ends
            if is_number(low) and is_number(high) and 0 <= low <= high:
                return Range(low, high)
        self.add_error(key, "must be a number, 0 or more, or [from, to]")
        return None

    def whole_range(self, key: str, default: int) -> Range:
        """Read a whole number of 1 or more, or two as [from, to]."""
        given = self.range(key) or Range(default, default)
        if given.low < 1 or given.low != int(given.low) or given.high != int(given.high):
            self.add_error(key, "must be a whole number, 1 or more, or [from, to]")
            return Range(default, default)
        return Range(given.low, given.high, whole=True)

    def shares(self, key: str, names: Collection[str]) -> dict[str, float]:
        """Read a table of names with shares from 0 to 1, with a sum of at most 1."""
        shares: dict[str, float] = {}
        inner = TableReader(self.take(key) or {}, f"{self.where}.{key}", self._problems)
        for name in inner.names():
            if name in names:
                shares[name] = inner.number(name, 0.0)
        inner.finish()
        if sum(shares.values()) > 1:
            self.add_error(key, "the shares must not add up to more than 1")
        return shares

    def finish(self) -> None:
        """Add an error for each key that was not read."""
        for key in self._table:
            if key not in self._read:
                self.add_error(key, "unknown key")


def is_number(value: object) -> TypeGuard[float]:
    """Return whether this is a finite number and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
