"""The `terminate` command: submit a request; repeated sends create one operation only."""

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
RETRIED_STATUSES: Final = frozenset({502, 503, 504})


async def _submit(
    api: Api,
    body: Mapping[str, object],
    *,
    idempotency_key: str,
    print_message: Callable[[str], None],
) -> Submitted:
    """Send until the daemon answers; the idempotency key is the same, so it is accepted once."""
    async with api:
        for delay_s in DELAYS_S:
            try:
                return await api.submit(body, idempotency_key=idempotency_key)
            except (Unreachable, RequestFailed) as error:
                if not _unanswered(error):
                    raise
                print_message(f"no answer yet, trying again in {delay_s:g} s: {error}")
            await asyncio.sleep(delay_s)
        return await api.submit(body, idempotency_key=idempotency_key)


def _unanswered(error: Unreachable | RequestFailed) -> bool:
    return isinstance(error, Unreachable) or error.status in RETRIED_STATUSES


def run(
    url: str,
    token: str | None,
    body: Mapping[str, object],
    *,
    idempotency_key: str,
    print_message: Callable[[str], None],
) -> Submitted:
    """Submit the request.

    If no answer comes, print whether it may have been accepted, and the key to repeat it safely.
    """
    api = Api(url, token)
    try:
        return asyncio.run(
            _submit(api, body, idempotency_key=idempotency_key, print_message=print_message)
        )
    except KeyboardInterrupt:
        advice = _unanswered_advice(api, idempotency_key)
        raise Interrupted(f"stopped before an answer came: {advice}") from None
    except (Unreachable, RequestFailed) as error:
        if _unanswered(error):
            print_message(_unanswered_advice(api, idempotency_key))
        raise


def _unanswered_advice(api: Api, idempotency_key: str) -> str:
    if not api.anything_sent:
        return "nothing was sent"
    return (
        "it may have been accepted; to try again safely, repeat the command with "
        f"--idempotency-key {idempotency_key}"
    )


def replay(operation: Operation) -> str:
    """Return the note for a key that was used before: its operation, and how to start a new one."""
    note = (
        f"replay: this --idempotency-key was used at {utc(operation.created_at)}, so no new "
        f"operation was created; its operation is {operation.id}, {operation.state}"
    )
    if operation.finished_at is None:
        return note
    revived = progress_display.revived(operation)
    return (
        f"{note} at {utc(operation.finished_at)} (outcome {operation.outcome}{revived}), "
        f"before this request: use another key to terminate the jobs now "
        f"(a key expires after {KEY_LIFETIME.days} days)"
    )
