"""How many connections to the API are open: never so many that the daemon itself has no room.

A process may have so many descriptors and no more.  Where clients use them all, no call to the
cloud and no connection to the database can be made, and nobody else is answered.
"""

from __future__ import annotations

import logging
import resource
from contextlib import suppress
from typing import Final, Protocol

CONNECTIONS_MAX: Final = 4_096

log = logging.getLogger(__name__)


def descriptors_max() -> int:
    """How many descriptors the process may have; its limit is raised as far as it may be."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS allows less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS_MAX * 2 if soft == resource.RLIM_INFINITY else soft


def connections_max() -> int:
    """How many connections to the API there is room for: the other half is the daemon's own."""
    descriptors = descriptors_max()
    most = min(descriptors // 2, CONNECTIONS_MAX)
    log.info(
        "up to %d connections to the API; %d of %d descriptors are kept for the cloud, the "
        "database and files",
        most,
        descriptors - most,
        descriptors,
    )
    return most


class Connection(Protocol):
    """What is known of an open connection."""

    @property
    def idle(self) -> bool:
        """No request of it is being answered."""

    def abort(self) -> None:
        """Close it at once, whatever is still to be sent."""


class Connections:
    """The open connections, in the order in which they were last used; no more than ``most``."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._open: dict[Connection, None] = {}

    def admit(self, connection: Connection) -> bool:
        """Whether there is room for it; the connection that was idle for longest makes room."""
        if len(self._open) >= self.most:
            idle = next((each for each in self._open if each.idle), None)
            if idle is None:
                log.warning(
                    "all %d connections to the API are in use: more are answered 503", self.most
                )
                return False
            log.warning(
                "%d connections to the API are open, and no more can be: the one that was idle "
                "for longest is closed for a new one",
                self.most,
            )
            del self._open[idle]
            idle.abort()
        self._open[connection] = None
        return True

    def used(self, connection: Connection) -> None:
        if connection in self._open:
            del self._open[connection]
            self._open[connection] = None

    def left(self, connection: Connection) -> None:
        self._open.pop(connection, None)
