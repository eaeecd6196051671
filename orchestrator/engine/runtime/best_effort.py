"""Work that only informs (forecasts, explanations): its failure never fails what it accompanies."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestrator.domain.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)


class BestEffort:
    """Guard that leaves out what fails, and logs the first failure of each kind."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    @contextmanager
    def leaving_out(self, what: str) -> Iterator[None]:
        """Suppress and log a failure of the block.

        StoreUnavailable is suppressed and not logged here: the database logs its own outages.
        """
        try:
            yield
        except StoreUnavailable:
            pass
        except Exception as error:  # noqa: BLE001 - logged
            self._log(what, error)

    def _log(self, what: str, error: Exception) -> None:
        """Log the failure of ``what``, unless one of its failures was logged before."""
        if what not in self._logged:
            self._logged.add(what)
            log.error(
                "%s failed and is left out; jobs are still terminated; later failures of "
                "it are not logged; report this traceback",
                what,
                exc_info=error,
            )
