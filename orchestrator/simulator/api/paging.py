"""Pages of rows that are kept as pieces of neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from orchestrator.simulator.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class IndexRange(Protocol):
    """``count`` rows with the indices from ``first`` up to ``end``."""

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


def rows(pieces: Iterable[N], *, offset: int, limit: int) -> Iterator[tuple[N, int]]:
    """The indices on a page, each with its piece."""
    for piece in pieces:
        start = piece.first + min(offset, piece.count)
        offset -= start - piece.first
        end = min(piece.end, start + limit)
        limit -= end - start
        for index in range(start, end):
            yield piece, index
