"""Terminations with the attempts and events that observations lead to, as the store has them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator

from orchestrator.domain.audit.certificate import Certificate, Entry, certificate, entry
from orchestrator.domain.audit.certificate_schema import SCHEMA
from orchestrator.domain.audit.event_facts import machines, observations
from orchestrator.domain.audit.hash_chain import Head, lines_sha256
from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.errors import CloudError, CloudErrorKind
from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.observation import (
    CallAcknowledged,
    CallFailed,
    CallStarted,
    JobUnlisted,
    ReadFailed,
    Withdrawn,
)
from orchestrator.domain.model.operation import outcome
from tests.unit.domain.build import LIVE, NOW, POLICY, call_failed, later, read, termination
from tests.unit.domain.build import machines as known_machines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from orchestrator.domain.model.observation import Observation
    from orchestrator.domain.model.termination import Termination

ISSUED_AT = later(1000)
CONFORMING = Draft202012Validator(SCHEMA)


@dataclass
class History:
    """History of one job; ``see`` adds what an observation leads to."""

    termination: Termination
    attempts: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    def record(self, **event: Any) -> None:
        last = self.events[-1] if self.events else None
        head = Head(last["number"], last["hash"]) if last else Head.of_new(self.termination.id)
        self.events.append(head.append(event))

    def see(self, seen: Observation, at: datetime) -> None:
        before = self.termination
        decision = decide(before, seen, at, POLICY)
        self.termination = decision.after
        call: dict[str, object] = {}
        match seen:
            case CallStarted():
                call = {"attempt": {"action": "TerminateJob", "target": before.job_id}}
                self.attempts.append(
                    {"number": len(self.attempts) + 1, "sent_at": at, "answered_at": None}
                    | {"action": "TerminateJob", "target": before.job_id}
                    | dict.fromkeys(("outcome", "code", "request_id"))
                )
            case CallAcknowledged(request_id):
                answer = {"outcome": "accepted", "code": None, "request_id": request_id}
                self.attempts[-1] |= answer | {"answered_at": at}
                call = {"answer": answer}
            case CallFailed(error):
                answer = {"outcome": error.kind, "code": error.code, "request_id": error.request_id}
                self.attempts[-1] |= answer | {"answered_at": at}
                call = {"answer": answer}
        if decision.event is not None:
            self.record(
                at=at,
                type=decision.event,
                from_state=before.state,
                to_state=decision.after.state,
                evidence=decision.after.evidence,
                why=decision.why,
                facts=observations(decision.after) | machines(decision.after) | call,
            )

    def then(self, seen: Observation, *at_s: float) -> History:
        """Return the same history after this observation at each of these times."""
        for each in at_s:
            self.see(seen, later(each))
        return self

    def entry(self) -> Entry:
        return entry(self.termination, self.attempts, self.events)


def history(
    job_id: str,
    *observed: Observation,
    last_at: datetime = NOW,
    termination_id: str | None = None,
    **known: Any,
) -> History:
    """Return the history of a job with these observations, all now but the last.

    ``known``: its fields at the start.
    """
    made = History(termination(id=termination_id or f"trm_{job_id}", job_id=job_id, **known))
    facts = {"account": "main", "region": "ap-guangzhou", "job_id": job_id}
    made.record(at=NOW, type="accepted", to_state="queued", evidence=0, facts=facts)
    for number, seen in enumerate(observed, start=1):
        made.see(seen, last_at if number == len(observed) else NOW)
    return made


RUNNING = read(JobState.RUNNING, LIVE)
CALLED: list[Observation] = [RUNNING, CallStarted(), CallAcknowledged("request-1")]
STOPPED: list[Observation] = [*CALLED, read(JobState.FAILED, at=later(2))]


def failure(kind: CloudErrorKind, code: str) -> CloudError:
    return CloudError(kind, code, f"about {code}", request_id="request-2")


def verified(**known: Any) -> History:
    """Return a verified job whose machines are gone, or as ``known`` has them."""
    still_stopped = read(JobState.FAILED, at=later(60))
    known = known or known_machines()
    return history("job-verified", *STOPPED, still_stopped, last_at=later(60), **known)


def one_of_each_end() -> list[History]:
    """Return a job for each final state, with all its requests answered."""
    refusal = failure(CloudErrorKind.REFUSED, "UnsupportedOperation")
    throttled = failure(CloudErrorKind.THROTTLED, "RequestLimitExceeded")
    unread = failure(CloudErrorKind.OUTCOME_UNKNOWN, "Client.Timeout")
    return [
        verified(),
        history("job-over", read(JobState.SUCCEED), instances_submitted=10),
        history("job-missing").then(JobUnlisted(), 0, 60, 120),
        history("job-refused", RUNNING, CallStarted(), call_failed(refusal)),
        history("job-withdrawn", Withdrawn()),
        history(
            "job-lost",
            *(RUNNING, CallStarted(), call_failed(throttled)),
            *CALLED,
        ).then(ReadFailed(unread), 7200, 7230, 7260),
    ]


def certified(histories: Sequence[History]) -> Certificate:
    """Return the certificate of an operation of these jobs; it has finished if they have.

    Its file conforms to the published schema, as any tool for JSON Schema would find.
    """
    job_ids = [each.termination.job_id for each in histories]
    states = [each.termination.state for each in histories]
    operation_history = History(termination(id="op_1"))
    pairs = [f"{each.termination.job_id} {each.termination.id}" for each in histories]
    facts = {"account": "main", "region": "ap-guangzhou", "requested_by": "me"} | {
        "jobs": len(job_ids),
        "jobs_sha256": lines_sha256(job_ids),
        "terminations_sha256": lines_sha256(pairs),
    }
    operation_history.record(at=NOW, type="accepted", why="budget", facts=facts)
    end = None
    if all(state.final for state in states):
        by_state = {state: states.count(state) for state in State if state in states}
        end = outcome(by_state)
        operation_history.record(
            at=later(60), type="finished", why=end, facts={"jobs_by_state": by_state}
        )
    operation = {
        "id": "op_1",
        "account": "main",
        "region": "ap-guangzhou",
        "reason": "budget",
        "requested_by": "me",
        "created_at": NOW,
        "finished_at": later(60) if end else None,
        "state": "finished" if end else "running",
        "outcome": end,
    }
    made = certificate(
        operation,
        operation_history.events,
        [each.entry() for each in histories],
        issued_at=ISSUED_AT,
        issued_by="orchestrator 1",
    )
    CONFORMING.validate(json.loads(made.data))
    return made
