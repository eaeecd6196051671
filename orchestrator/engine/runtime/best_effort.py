"""What only informs (forecasts, explanations) never fails what it is told along with."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestrator.domain.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)


class BestEffort:
    """Leaves out what fails, and logs the first failure of each kind."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    @contextmanager
    def leaving_out(self, what: str) -> Iterator[None]:
        """Go on after the block where it fails; that the database is away is logged elsewhere."""
        try:
            yield
        except StoreUnavailable:
            pass
        except Exception as error:  # noqa: BLE001 - logged
            self.failed(what, error)

    def failed(self, what: str, error: Exception) -> None:
        if what not in self._logged:
            self._logged.add(what)
            log.error("%s failed and is left out, as it will be again", what, exc_info=error)
