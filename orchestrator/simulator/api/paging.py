"""Pages of rows that are stored as ranges of indices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from orchestrator.simulator.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class IndexRange(Protocol):
    """``count`` rows with the indices ``first`` to ``end`` - 1."""

    @property
    def first(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def end(self) -> int: ...


N = TypeVar("N", bound=IndexRange)


def check_page(offset: int, limit: int) -> None:
    if offset < 0 or limit < 0:
        raise ApiError("InvalidParameterValue", "Offset and Limit must not be negative.")


def rows(ranges: Iterable[N], *, offset: int, limit: int) -> Iterator[tuple[N, int]]:
    """Yield the indices on a page, each with its range."""
    for each in ranges:
        start = each.first + min(offset, each.count)
        offset -= start - each.first
        end = min(each.end, start + limit)
        limit -= end - start
        for index in range(start, end):
            yield each, index
