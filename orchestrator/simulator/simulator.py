"""The simulator: it answers one request at a time, without a socket, and logs every call."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

from orchestrator.simulator.api import batch_actions, cvm_actions
from orchestrator.simulator.api.parameters import check, named_jobs
from orchestrator.simulator.cloud.ground_truth import truth_of
from orchestrator.simulator.cloud.job import Job
from orchestrator.simulator.cloud.machines import Fleet
from orchestrator.simulator.cloud.region import FILTER_NAMES, Region
from orchestrator.simulator.errors import ApiError
from orchestrator.simulator.protocol import replies
from orchestrator.simulator.protocol.request_parser import ApiRequest, Request, parse
from orchestrator.simulator.protocol.signature_check import verify
from orchestrator.simulator.scenario.job_groups import read_jobs
from orchestrator.simulator.traffic.fault_injection import FaultInjector
from orchestrator.simulator.traffic.quota import QuotaCounter

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from orchestrator.simulator.api.batch_actions import Action
    from orchestrator.simulator.cloud.job_spec import JobSpec
    from orchestrator.simulator.protocol.replies import Reply
    from orchestrator.simulator.scenario.scenario import Scenario
    from orchestrator.simulator.traffic.fault_injection import Rule

VERSION: Final = "2017-03-12"
"""API version of both services."""
SERVICES: Final[Mapping[str, Mapping[str, Action]]] = {
    "batch": batch_actions.ACTIONS,
    "cvm": cvm_actions.ACTIONS,
}
SERVICE_OF: Final = {action: service for service, its in SERVICES.items() for action in its}


@dataclass(slots=True)
class Call:
    """An entry of the call log; unknown fields stay empty."""

    at: float
    request_id: str
    action: str = ""
    region: str = ""
    secret_id: str = ""
    job_ids: tuple[str, ...] = ()
    code: str = ""
    """``OK`` or the error code; empty if a fault ended the call before it took effect."""
    acted: bool = False
    """True if the back end executed the call, even if the response was lost."""
    fault: str = ""


class Simulator:
    """A simulated cloud; ``handle`` answers the requests to it.

    ``secret_keys`` maps secret ids to keys, ``limits_per_s`` maps actions to calls per second.
    ``filter_name`` is a key of ``region.FILTER_NAMES``: the name of DescribeTask's filter.
    ``forbidden_actions`` are refused, as for a sub-account without the permission.
    ``now`` returns seconds since the epoch and must not go back; it is read once per call.
    """

    def __init__(
        self,
        *,
        secret_keys: Mapping[str, str],
        limits_per_s: Mapping[str, int] | None = None,
        faults: Mapping[str, list[Rule]] | None = None,
        regions: Sequence[str] = ("ap-guangzhou",),
        seed: int = 0,
        filter_name: str = "either",
        forbidden_actions: Collection[str] = (),
        now: Callable[[], float] = time.time,
    ) -> None:
        self.quota = QuotaCounter(limits_per_s or {})
        self.faults = FaultInjector(faults or {}, seed=seed, now=now())
        self.calls: list[Call] = []
        self._secret_keys = dict(secret_keys)
        self._regions = tuple(regions)
        self._instance_filters = FILTER_NAMES[filter_name]
        self.forbidden_actions = frozenset(forbidden_actions)
        self._now = now
        self._jobs: dict[str, Job] = {}
        self._fleet = Fleet()
        self._ids = Random(f"request ids {seed}")  # noqa: S311 - repeatable on purpose
        self._more = Random(f"more jobs {seed}")  # noqa: S311 - repeatable on purpose

    @classmethod
    def from_scenario(
        cls, scenario: Scenario, *, now: Callable[[], float] = time.time
    ) -> Simulator:
        """Return a simulator with the jobs of the scenario, added now."""
        simulator = cls(
            secret_keys=scenario.secret_keys,
            limits_per_s=scenario.limits_per_s,
            faults=scenario.faults,
            regions=scenario.regions,
            seed=scenario.seed,
            filter_name=scenario.filter_name,
            forbidden_actions=scenario.forbidden_actions,
            now=now,
        )
        simulator.add_jobs(scenario.jobs)
        return simulator

    def now(self) -> float:
        return self._now()

    def add_jobs(self, specs: Iterable[JobSpec]) -> None:
        now = self._now()
        for spec in specs:
            job = Job(spec, added_at=now, first_machine=self._fleet.next_number)
            self._jobs[spec.job_id] = job
            self._fleet.add(job)

    def add_groups(self, tables: object) -> list[str]:
        """Add the jobs of ``[[jobs]]`` tables as in a scenario, and return their ids."""
        specs = read_jobs(tables, regions=self._regions, random=self._more, taken=set(self._jobs))
        self.add_jobs(specs)
        return [spec.job_id for spec in specs]

    def handle(self, request: Request) -> Reply:
        """Answer one request; no request of a client makes it raise."""
        now = self._now()
        request_id = str(uuid.UUID(int=self._ids.getrandbits(128), version=4))
        call = Call(now, request_id)
        self.calls.append(call)
        try:
            api_request = self._admit(request, call)
        except ApiError as error:
            call.code = error.code
            return replies.failure(error, request_id)
        rule = self.faults.draw(api_request.action, now=now)
        call.fault = "" if rule is None else rule.fault.value
        if rule is None:
            return self._execute(api_request, call)
        if rule.acts:
            return replies.corrupted_reply(self._execute(api_request, call), rule.fault)
        limit_per_s = self.quota.limit_per_s(api_request.action)
        return replies.reply_without_effect(
            rule, api_request.action, limit_per_s=limit_per_s, request_id=request_id
        )

    def truth(self) -> list[dict[str, object]]:
        """Return the ground truth of every job, in the order in which they were added."""
        now = self._now()
        return [truth_of(job, now) for job in self._jobs.values()]

    def _admit(self, request: Request, call: Call) -> ApiRequest:
        """Parse, authenticate and count a call; raise ApiError before it has any effect."""
        api_request = parse(request)
        call.action = api_request.action
        call.region = api_request.region
        call.job_ids = named_jobs(api_request.params)
        if api_request.version != VERSION:
            raise ApiError("NoSuchVersion", f"The version `{api_request.version}` does not exist.")
        if api_request.action not in SERVICE_OF:
            raise ApiError("InvalidAction", f"The action `{api_request.action}` does not exist.")
        verify(
            request,
            api_request,
            foreign_services=SERVICES.keys() - {SERVICE_OF[api_request.action]},
            secret_keys=self._secret_keys,
            now=call.at,
        )
        call.secret_id = api_request.claim.secret_id
        self.quota.count(api_request.action, call.secret_id, now=call.at)
        return api_request

    def _execute(self, api_request: ApiRequest, call: Call) -> Reply:
        region = Region(
            api_request.region,
            jobs=self._jobs,
            fleet=self._fleet,
            instance_filters=self._instance_filters,
            now=call.at,
        )
        service = SERVICE_OF[api_request.action]
        try:
            if api_request.action in self.forbidden_actions:
                raise _forbidden(f"{service}:{api_request.action}")
            arguments = check(api_request.action, api_request.params, textual=api_request.textual)
            document = SERVICES[service][api_request.action](region, arguments)
        except ApiError as error:
            call.code = error.code
            return replies.failure(error, call.request_id)
        call.code = "OK"
        call.acted = True
        return replies.success(document, call.request_id)


def _forbidden(action: str) -> ApiError:
    """Return the error of CVM without permission (cloud.tencent.com/developer/ask/2213302)."""
    return ApiError("UnauthorizedOperation", f"No permission to perform the operation ({action}).")
