"""A client that submits jobs to any replica, and repeats each request until it is accepted."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from orchestrator.domain.errors import StoreUnavailable
from orchestrator.domain.model.termination import OnSubmitted
from orchestrator.services.submission import Request
from tests.simulation.network import REGIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.simulation.world import SimulatedWorld

OPERATIONS: Final = 2
CLIENT_WAITS_S: Final = 0.5


@dataclass(slots=True)
class Acknowledged:
    """What the client got as an answer."""

    operation_id: str
    jobs: tuple[str, ...]
    region: str


class Client:
    """A client with a log of its own, which does not rely on the service."""

    def __init__(self, world: SimulatedWorld) -> None:
        self._world = world
        self._loop, self._random, self._fired = world.loop, world.random, world.fired
        self.acknowledged: list[Acknowledged] = []

    def _jobs(self, region: str, number: int) -> tuple[str, ...]:
        """Return some jobs of the seed's choice, after adding them to the cloud."""
        kinds: list[dict[str, Any]] = [
            {"instances": 4, "drain_s": [0.2, 3]},
            {"instances": 3, "tasks": 3, "drain_s": 2, "failed_early_s": 1},
            {"instances": 2, "state": "SUBMITTED", "submitted_s": [0.5, 3], "drain_s": 1},
            {"instances": 3, "state": "SUBMITTED", "submitted_s": [2, 5], "mix": {"PENDING": 0.5}},
            {"instances": 2, "state": "SUCCEED"},
            {"instances": 4, "state": "FAILED", "mix": {"RUNNING": 0.5}, "drain_s": 1},
            {"instances": 2, "env_id": "env-example1", "refuse_env": True},
            {"instances": 2, "forbidden": True},
            {"instances": 3, "drain_s": 0.5, "revive_after_s": [0.05, 2]},
            {"instances": 2, "drain_s": 0.5, "revive_after_s": [0.3, 0.9]},
            {"instances": 2, "drain_s": 0.5, "vanish_after_s": [0.1, 2]},
            {"instances": 2, "succeeds_after_s": [0.5, 5], "drain_s": [0.5, 3]},
            {
                "instances": 2,
                "fails_after_s": [0.5, 4],
                "revive_after_s": [0.1, 1],
                "drain_s": [0.5, 2],
            },
            {"instances": 3, "again": "ok", "drain_s": [0.5, 3]},
            {"instances": 3, "drain_s": [0.5, 2], "machine_linger_s": [0.5, 4]},
            {
                "instances": 4,
                "mix": {"STARTING": 0.5},
                "drain_s": 1,
                "starting_without_machine": True,
            },
            {"instances": 4, "mix": {"STARTING": 0.5, "PENDING": 0.25}, "drain_s": [0.5, 2]},
            {"instances": 3, "stuck": 1, "drain_s": 0.5, "instance_drain_s": 0.5},
            {"instances": 4, "next_action_hidden": True, "drain_s": [4, 5]},
            {"instances": 2, "next_action_hidden": True, "drain_s": [3, 7]},
            {"instances": 2, "env_id": "env-example2", "node_restart_s": 1, "drain_s": 0.5},
        ]
        groups = [
            self._random.choice(kinds) | {"prefix": f"x{number}{place}", "region": region}
            for place in range(self._random.choice((1, 1, 2)))
        ]
        ids = self._world.clouds[f"{region}.cloud"].add_groups(groups)
        unknown = [f"job-none{number:04}"] if self._random.random() < 0.3 else []
        return (*ids, *unknown)

    async def ask(self, first: int = 0) -> None:
        """Submit operations to whichever replica answers, until each is acknowledged.

        They are numbered from ``first`` on.
        """
        for number in range(first, first + OPERATIONS):
            await asyncio.sleep(self._random.uniform(0.0, 1.5))
            region = self._random.choice(REGIONS)
            jobs = self._jobs(region, number)
            again = [each for each in self.acknowledged if each.region == region]
            if again and self._random.random() < 0.4:
                self._fired["asked again for the same jobs"] += 1
                jobs = (*jobs, *self._random.choice(again).jobs[:2])
            key = f"key {number}" if self._random.random() < 0.9 else None
            await self.submit(jobs, region, key=key)

    async def submit(
        self,
        jobs: Sequence[str],
        region: str,
        *,
        key: str | None = None,
        give_up_after_s: float | None = None,
        reterminate_for_s: float | None = None,
    ) -> None:
        """Repeat the request until it is acknowledged."""
        request = Request(
            jobs=tuple(jobs),
            account=None,
            region=region,
            reason="a simulation",
            on_submitted=OnSubmitted.HOLD,
            not_before=None,
            give_up_after_s=give_up_after_s,
            settle_s=None,
            reterminate_for_s=reterminate_for_s,
        )
        while True:
            found = self._world.some_life()
            if found and found[1].made is not None:
                name, submission = found[1].name, found[1].made.context.submission
                posted = self._loop.spawn(
                    name, submission.submit(request, requested_by="me", idempotency_key=key)
                )
                posted.add_done_callback(lambda task: task.cancelled() or task.exception())
                await asyncio.wait([posted], timeout=CLIENT_WAITS_S)
                if not posted.done():
                    self._fired["client was not answered"] += 1
                else:
                    try:
                        created = posted.result()
                    except StoreUnavailable:
                        self._fired["client got 503"] += 1
                    else:
                        self._fired["client was answered again"] += created.replayed
                        self.acknowledged.append(
                            Acknowledged(
                                created.operation_id,
                                tuple(dict.fromkeys(jobs)),
                                region,
                            )
                        )
                        return
            await asyncio.sleep(self._random.uniform(0.1, 0.6))
