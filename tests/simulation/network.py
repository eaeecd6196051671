"""The network from a replica to the cloud: requests arrive and are answered, or are lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from orchestrator.cloud import error_codes
from orchestrator.cloud.transport import HttpAnswer
from orchestrator.domain.errors import LeaseLost
from orchestrator.domain.model.error_detail import ClientCode
from orchestrator.simulator.protocol.replies import Delivery
from orchestrator.simulator.protocol.request_parser import Request
from tests.simulation_kernel.loop import REPLICA

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from random import Random

    from orchestrator.simulator.simulator import Call, Simulator
    from tests.simulation_kernel.loop import SimulatedLoop

REGIONS: Final = ("ap-guangzhou", "ap-shanghai")
"""Regions, each with a cloud of its own."""
CALL_TIMEOUT_S: Final = 1.0
WAY_S: Final = (0.002, 0.09)
FASTEST_SHARE: Final = 1 / 3
"""Transit times of messages; all use the shortest route, which the pacing rule relies on."""
SLOW_WAY_S: Final = (0.06, 0.6)
"""Less than the time a lease outlives its trust: a call never arrives in its successor's time."""


@dataclass(slots=True)
class NetworkFaults:
    """Shares of calls that meet a fault of the network now."""

    lost_request: float = 0.0
    lost_answer: float = 0.0
    slow: float = 0.0
    lost_termination: float = 0.0
    """The answer to a TerminateJob is lost."""
    silent: float = 0.0
    """The request arrives and is carried out, and no answer returns."""
    away: bool = False
    """No connection can be made."""


@dataclass(slots=True)
class Network:
    """The network between all replicas and the clouds, by host name."""

    loop: SimulatedLoop
    random: Random
    clouds: Mapping[str, Simulator]
    faults: NetworkFaults = field(default_factory=NetworkFaults)
    fired: Counter[str] = field(default_factory=Counter)
    unreceived: set[str] = field(default_factory=set)
    """RequestIds of calls whose outcome no replica received."""
    arrived: Callable[[str, Call], None] | None = None
    """Called with each call once a cloud has answered it, and the host's name."""


@dataclass(slots=True)
class Wire:
    """Transport of one replica; ``point`` is called where the replica may die."""

    network: Network
    point: Callable[[str], Awaitable[None]]
    sent: Callable[[str, str, bytes], None]

    async def post(
        self, url: str, *, headers: Mapping[str, str], body: bytes, before_send: Callable[[], None]
    ) -> HttpAnswer:
        network, loop = self.network, self.network.loop
        loop.require_alive()
        await self.point("before a call")
        if network.faults.away:
            network.fired["cloud away"] += 1
            raise error_codes.error(ClientCode.CONNECT_FAILED, "connection refused")
        try:
            before_send()
        except LeaseLost:
            network.fired["a call was held back"] += 1
            raise
        host = urlsplit(url).netloc
        self.sent(headers["X-TC-Action"], host, body)
        answered: asyncio.Future[tuple[HttpAnswer | None, Call]] = loop.create_future()
        loop.note(f"{headers['X-TC-Action']} to {host} leaves {REPLICA.get()}")
        request = Request("POST", "/", list(headers.items()), body)
        # A request that has left continues, even if the replica dies.
        loop.spawn(None, self._carry(host, request, answered), name="a call")
        await self.point("a call has left")
        if headers["X-TC-Action"] == "TerminateJob":
            await self.point("a TerminateJob has left")
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                answer, call = await answered
        except TimeoutError as error:
            raise error_codes.error(ClientCode.TIMEOUT, "no reply within the timeout") from error
        await self.point("an answer has come")
        if answer is None:
            raise error_codes.error(ClientCode.DISCONNECTED, "the connection was cut")
        network.unreceived.discard(call.request_id)
        return answer

    async def _carry(
        self,
        host: str,
        request: Request,
        answered: asyncio.Future[tuple[HttpAnswer | None, Call]],
    ) -> None:
        network, faults = self.network, self.network.faults
        cloud, draw = network.clouds[host], network.random.random
        await asyncio.sleep(self._way_s())
        if draw() < faults.lost_request:
            network.fired["lost request"] += 1
            return
        reply = cloud.handle(request)
        network.loop.note(f"{cloud.calls[-1].action} arrives at {host}: {cloud.calls[-1].code}")
        call = cloud.calls[-1]
        network.unreceived.add(call.request_id)
        if network.arrived is not None:
            network.arrived(host, call)
        if draw() < faults.silent:
            network.fired["silent call"] += 1
            return
        lost = draw() < faults.lost_answer
        network.fired["lost answer"] += lost
        if call.action == "TerminateJob" and draw() < faults.lost_termination:
            network.fired["lost answer to TerminateJob"] += 1
            lost = True
        await asyncio.sleep(self._way_s() + reply.delay_s)
        if answered.done():
            return
        whole = reply.delivery is Delivery.WHOLE and not lost
        answer = HttpAnswer(status=reply.status, headers={}, body=reply.body) if whole else None
        answered.set_result((answer, call))

    def _way_s(self) -> float:
        network = self.network
        if network.random.random() < network.faults.slow:
            network.fired["slow way"] += 1
            return network.random.uniform(*SLOW_WAY_S)
        least_s, most_s = WAY_S
        longer = network.random.uniform(-FASTEST_SHARE / (1 - FASTEST_SHARE), 1.0)
        return least_s + max(0.0, longer) * (most_s - least_s)
