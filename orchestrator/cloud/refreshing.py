"""Credential that is loaded again before it expires, from any source."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from orchestrator.cloud import error_codes
from orchestrator.domain.errors import CloudError
from orchestrator.domain.model.error_detail import ClientCode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from orchestrator.cloud.signing import Credential
    from orchestrator.engine.ports import Clock

_LOG: Final = logging.getLogger(__name__)


class RefreshingProvider:
    """A credential that is loaded at the first ``get`` and replaced before it expires.

    One load runs at a time. A load starts if there is no valid credential, some time before the
    credential expires, and after the cloud rejected it; but not within ``retry_s`` of a failed
    load, and, for a rejection, not within ``retry_s`` of any load. A failed load changes nothing.
    ``get`` waits for a load only if the current credential is invalid or rejected.
    """

    def __init__(
        self,
        load: Callable[[], Awaitable[Credential]],
        *,
        clock: Clock,
        account: str = "",
        timeout_s: float = 10.0,
        margin_s: float = 300.0,
        retry_s: float = 30.0,
    ) -> None:
        """Call ``load``, which raises CloudError, ``margin_s`` before the credential expires.

        A credential whose lifetime is less than twice ``margin_s`` is replaced after half of it.
        """
        self._load = load
        self._clock = clock
        self._account = account
        self._timeout_s = timeout_s
        self._margin_s = margin_s
        self._retry_s = retry_s
        self._held: Credential | None = None
        self._rejected = False
        self._due_at: datetime | None = None
        self._load_not_before = clock.monotonic()
        self._loading: asyncio.Task[None] | None = None
        self._failure: CloudError | None = None

    async def get(self) -> Credential:
        """Return a credential that has not expired; raise CloudError of kind CREDENTIAL."""
        if self._loading is None and self._load_wanted():
            self._loading = asyncio.create_task(self._load_once())
        if self._loading is not None and (self._rejected or self._valid() is None):
            await asyncio.shield(self._loading)
        held = self._valid()
        if held is None:
            error = self._failure or _unavailable("the credential expired before it was used")
            raise error.with_traceback(None)
        return held

    def invalidate(self, rejected: Credential) -> None:
        """Make the next ``get`` wait for a new credential, if ``rejected`` is the current one."""
        self._rejected = self._rejected or rejected is self._held

    def _valid(self) -> Credential | None:
        held = self._held
        if held is None or (held.expires_at and held.expires_at <= self._clock.now()):
            return None
        return held

    def _load_wanted(self) -> bool:
        due = self._due_at is not None and self._due_at <= self._clock.now()
        needed = due or self._valid() is None
        if needed and self._failure is None:
            return True
        return (needed or self._rejected) and self._load_not_before <= self._clock.monotonic()

    async def _load_once(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                loaded = await self._load()
            self._keep(loaded)
        except TimeoutError:
            reason = f"the credential was not loaded within {self._timeout_s:g} s"
            self._keep_failure(_unavailable(reason))
        except CloudError as error:
            self._keep_failure(error)
        finally:
            self._loading = None

    def _keep(self, loaded: Credential) -> None:
        self._due_at = None
        if loaded.expires_at is not None:
            life_s = (loaded.expires_at - self._clock.now()).total_seconds()
            if life_s <= 0:
                raise _unavailable("the provider returned a credential that has expired")
            margin_s = min(self._margin_s, life_s / 2)
            self._due_at = loaded.expires_at - timedelta(seconds=margin_s)
        if self._failure is not None:
            _LOG.warning(
                "account %s: the credential could be loaded; API calls continue", self._account
            )
        elif self._rejected and loaded != self._held:
            _LOG.info(
                "account %s: the cloud refused the credential; a new one from the same source is "
                "used now",
                self._account,
            )
        self._held, self._rejected, self._failure = loaded, False, None
        self._load_not_before = self._clock.monotonic() + self._retry_s

    def _keep_failure(self, error: CloudError) -> None:
        if self._failure is None:
            _LOG.warning(
                "account %s: the credential cannot be loaded: %s",
                self._account,
                error.with_advice,
            )
        self._failure = error
        self._load_not_before = self._clock.monotonic() + self._retry_s


def _unavailable(reason: str) -> CloudError:
    return error_codes.error(ClientCode.CREDENTIAL_UNAVAILABLE, reason)
