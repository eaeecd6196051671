"""Limit on the open connections to the API.

A process has a limited number of file descriptors. If clients used all of them, the daemon could
open no connection to the cloud or the database, and could accept no other client.
"""

from __future__ import annotations

import logging
import resource
from contextlib import suppress
from typing import Final, Protocol

CONNECTIONS_MAX: Final = 4_096

log = logging.getLogger(__name__)


def descriptors_max() -> int:
    """Raise the descriptor limit of the process to its hard limit, and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS allows less than its hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS_MAX * 2 if soft == resource.RLIM_INFINITY else soft


def connections_max() -> int:
    """Return the limit: half of the descriptors, the other half stays for the daemon itself."""
    descriptors = descriptors_max()
    most = min(descriptors // 2, CONNECTIONS_MAX)
    log.info(
        "the API accepts up to %d connections; %d of %d file descriptors are kept for the cloud, "
        "the database and files",
        most,
        descriptors - most,
        descriptors,
    )
    return most


class Connection(Protocol):
    """An open connection."""

    @property
    def idle(self) -> bool:
        """True if no request of this connection is being answered."""

    def abort(self) -> None:
        """Close the connection at once and drop unsent data."""


class Connections:
    """The open connections, at most ``most``, in the order of their last use."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._open: dict[Connection, None] = {}

    def admit(self, connection: Connection) -> bool:
        """Add a connection, closing the one that was idle for longest if the limit is reached.

        Return False if no connection is idle: the new one must be refused.
        """
        if len(self._open) >= self.most:
            idle = next((each for each in self._open if each.idle), None)
            if idle is None:
                log.warning(
                    "all %d connections to the API are in use: a new one is refused with 503; find "
                    "the client that opens them, or raise LimitNOFILE",
                    self.most,
                )
                return False
            log.warning(
                "the limit of %d connections to the API is reached: the one that was idle for "
                "longest is closed to accept a new one",
                self.most,
            )
            del self._open[idle]
            idle.abort()
        self._open[connection] = None
        return True

    def used(self, connection: Connection) -> None:
        """Move a connection to the end of the order: it was used just now."""
        if connection in self._open:
            del self._open[connection]
            self._open[connection] = None

    def closed(self, connection: Connection) -> None:
        """Remove a connection."""
        self._open.pop(connection, None)
