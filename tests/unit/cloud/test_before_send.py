"""``before_send`` runs once the connection is open, immediately before the request is sent."""

from __future__ import annotations

import pytest

from orchestrator.cloud.transport import AiohttpTransport
from orchestrator.domain.errors import LeaseLost
from orchestrator.simulator.http.app import serve
from orchestrator.simulator.simulator import Simulator


def stay() -> None:
    raise LeaseLost("not now")


async def test_nothing_leaves_on_a_new_connection_or_a_kept_one_where_it_may_not() -> None:
    simulator = Simulator(secret_keys={})
    transport = AiohttpTransport()
    try:
        async with serve(simulator, "127.0.0.1", 0) as url:
            for arrived in range(3):
                with pytest.raises(LeaseLost):
                    await transport.post(url, headers={}, body=b"{}", before_send=stay)
                assert len(simulator.calls) == arrived
                await transport.post(url, headers={}, body=b"{}", before_send=lambda: None)
    finally:
        await transport.close()
