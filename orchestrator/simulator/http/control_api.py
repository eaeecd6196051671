"""The control API: tests add jobs, set faults and read the ground truth.

``POST /_control/jobs`` (a list of ``[[jobs]]`` tables) adds jobs. ``GET /_control/truth``,
``/_control/calls?since=N`` and ``/_control/quotas`` return the ground truth, the call log and the
call counts. ``PUT /_control/faults`` (a ``[faults]`` table) replaces the faults, and
``GET /_control/faults`` returns how often each fault happened.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from orchestrator.simulator.errors import ScenarioError
from orchestrator.simulator.traffic.fault_injection import read_faults

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.simulator.simulator import Simulator

PREFIX: Final = "/_control/"


@dataclass(frozen=True, slots=True)
class ControlRequest:
    """A request to the control API; ``since`` is the index of the first call to return."""

    simulator: Simulator
    since: str
    body: bytes

    def document(self) -> object:
        try:
            document: object = json.loads(self.body)
        except ValueError as error:
            raise ScenarioError([f"the body is not JSON: {error}"]) from None
        return document


def control(
    simulator: Simulator, method: str, path: str, *, since: str = "0", body: bytes = b""
) -> tuple[int, dict[str, object]]:
    """Return an HTTP status and a JSON document; each mistake is a text in ``problems``."""
    handler = HANDLERS.get((method, path.removeprefix(PREFIX)))
    if handler is None:
        return 404, {"problems": [f"there is no {method} {path}"]}
    try:
        return 200, handler(ControlRequest(simulator, since, body))
    except ScenarioError as error:
        return 400, {"problems": error.problems}


def _add_jobs(request: ControlRequest) -> dict[str, object]:
    return {"job_ids": request.simulator.add_groups(request.document())}


def _truth(request: ControlRequest) -> dict[str, object]:
    return {"now": request.simulator.now(), "jobs": request.simulator.truth()}


def _calls(request: ControlRequest) -> dict[str, object]:
    if not request.since.isdecimal():
        raise ScenarioError(["since: must be the index of a call, 0 or more"])
    calls = request.simulator.calls
    wanted = calls[int(request.since) :]
    return {"calls": [asdict(call) for call in wanted], "next": len(calls)}


def _quotas(request: ControlRequest) -> dict[str, object]:
    return {"quotas": request.simulator.quota.report()}


def _set_faults(request: ControlRequest) -> dict[str, object]:
    simulator = request.simulator
    simulator.faults.replace(read_faults(request.document()), now=simulator.now())
    return _faults(request)


def _faults(request: ControlRequest) -> dict[str, object]:
    return {"fired": request.simulator.faults.fired()}


HANDLERS: Final[Mapping[tuple[str, str], Callable[[ControlRequest], dict[str, object]]]] = {
    ("POST", "jobs"): _add_jobs,
    ("GET", "truth"): _truth,
    ("GET", "calls"): _calls,
    ("GET", "quotas"): _quotas,
    ("PUT", "faults"): _set_faults,
    ("GET", "faults"): _faults,
}
