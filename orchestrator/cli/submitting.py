"""Hand a request to the daemon once, however often it has to be sent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from orchestrator.cli.client import Api
from orchestrator.cli.failures import Interrupted, RequestFailed, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.cli.answers import Operation

DELAYS_S: Final = (0.5, 1.0, 2.0, 4.0)
TRY_AGAIN: Final = frozenset({502, 503, 504})
LATER: Final = "it may have been accepted; with --idempotency-key {key} it is safe to send again"


async def submit(
    url: str,
    token: str | None,
    body: Mapping[str, object],
    *,
    idempotency_key: str,
    say: Callable[[str], None],
) -> Operation:
    """Send until it is answered, with one key, so that it is taken once."""
    async with Api(url, token) as api:
        for delay_s in DELAYS_S:
            try:
                return await api.submit(body, idempotency_key=idempotency_key)
            except (Unreachable, RequestFailed) as error:
                if isinstance(error, RequestFailed) and error.status not in TRY_AGAIN:
                    raise
                say(f"no answer yet, trying again in {delay_s:g} s: {error}")
            await asyncio.sleep(delay_s)
        return await api.submit(body, idempotency_key=idempotency_key)


def run(
    url: str,
    token: str | None,
    body: Mapping[str, object],
    *,
    idempotency_key: str,
    say: Callable[[str], None],
) -> Operation:
    """``submit`` for a command; when it stays unanswered, says how to send it again safely."""
    again = LATER.format(key=idempotency_key)
    try:
        return asyncio.run(submit(url, token, body, idempotency_key=idempotency_key, say=say))
    except KeyboardInterrupt:
        raise Interrupted(f"stopped before an answer came: {again}") from None
    except Unreachable:
        say(again)
        raise
    except RequestFailed as error:
        if error.status in TRY_AGAIN:
            say(again)
        raise
