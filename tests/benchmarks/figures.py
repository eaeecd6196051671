"""A measured figure and its target."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    name: str
    value: float
    spread: tuple[float, float] | None = None
    """The lowest and the highest of the runs of which ``value`` is the median."""
    least: float | None = None
    most: float | None = None
    unit: str = ""

    @classmethod
    def of_ratios(
        cls,
        name: str,
        runs: Iterable[tuple[float, float]],
        *,
        least: float | None = None,
        most: float | None = None,
    ) -> Self:
        """Return the median ratio of two values that were measured beside each other."""
        ratios = [one / other for one, other in runs]
        value, spread = statistics.median(ratios), (min(ratios), max(ratios))
        return cls(name=name, value=value, spread=spread, least=least, most=most)

    @property
    def met(self) -> bool:
        return (self.least is None or self.value >= self.least) and (
            self.most is None or self.value <= self.most
        )

    def __str__(self) -> str:
        target = f">= {self.least:g}" if self.least is not None else ""
        target = f"<= {self.most:g}" if self.most is not None else target
        verdict = "" if not target else (" ok" if self.met else " MISSED")
        spread = "" if self.spread is None else "({:.3f}-{:.3f})".format(*self.spread)
        figure = f"{self.value:10.3f} {self.unit:<6} {spread:<16} {target:<10}{verdict}"
        return f"{self.name:<58} {figure}".rstrip()
