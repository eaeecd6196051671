"""Hand a request to the daemon once, however often it has to be sent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from orchestrator.cli.client.api_client import Api
from orchestrator.cli.client.errors import RequestFailed, Unreachable
from orchestrator.cli.exit_codes import Interrupted
from orchestrator.cli.output import progress_display
from orchestrator.cli.output.tables import utc
from orchestrator.domain.model.operation import KEY_LIFETIME

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.cli.client.api_client import Submitted
    from orchestrator.cli.client.models import Operation

DELAYS_S: Final = (0.5, 1.0, 2.0, 4.0)
TRY_AGAIN: Final = frozenset({502, 503, 504})


async def _submit(
    api: Api,
    body: Mapping[str, object],
    *,
    idempotency_key: str,
    say: Callable[[str], None],
) -> Submitted:
    """Send until it is answered, with one key, so that it is taken once."""
    async with api:
        for delay_s in DELAYS_S:
            try:
                return await api.submit(body, idempotency_key=idempotency_key)
            except (Unreachable, RequestFailed) as error:
                if not _unanswered(error):
                    raise
                say(f"no answer yet, trying again in {delay_s:g} s: {error}")
            await asyncio.sleep(delay_s)
        return await api.submit(body, idempotency_key=idempotency_key)


def _unanswered(error: Unreachable | RequestFailed) -> bool:
    return isinstance(error, Unreachable) or error.status in TRY_AGAIN


def run(
    url: str,
    token: str | None,
    body: Mapping[str, object],
    *,
    idempotency_key: str,
    say: Callable[[str], None],
) -> Submitted:
    """``_submit`` for a command; when it stays unanswered, says whether it may have been taken."""
    api = Api(url, token)
    try:
        return asyncio.run(_submit(api, body, idempotency_key=idempotency_key, say=say))
    except KeyboardInterrupt:
        so_far = _so_far(api, idempotency_key)
        raise Interrupted(f"stopped before an answer came: {so_far}") from None
    except (Unreachable, RequestFailed) as error:
        if _unanswered(error):
            say(_so_far(api, idempotency_key))
        raise


def _so_far(api: Api, idempotency_key: str) -> str:
    if not api.anything_sent:
        return "nothing was sent"
    return (
        "it may have been accepted; to try again safely, repeat the command with "
        f"--idempotency-key {idempotency_key}"
    )


def replay(operation: Operation) -> str:
    """What to know where a key was used before, and its operation is the one of that time."""
    replay = (
        f"replay: this --idempotency-key was used at {utc(operation.created_at)}, and nothing new "
        f"was asked for; its operation is {operation.id}, {operation.state}"
    )
    if operation.finished_at is None:
        return replay
    revived = progress_display.revived(operation)
    return (
        f"{replay} since {utc(operation.finished_at)} (outcome {operation.outcome}{revived}), "
        f"before this request: use another key to have the jobs terminated now "
        f"(a key ends after {KEY_LIFETIME.days} days)"
    )
