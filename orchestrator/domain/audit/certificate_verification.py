"""Verification of a certificate file: detects changes offline, from the file alone.

:mod:`orchestrator.domain.audit.certificate` defines the format.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Final

from orchestrator.domain.audit import certificate, hash_chain
from orchestrator.domain.audit.caveats import conclusion, ended, verdict
from orchestrator.domain.audit.certificate_schema import (
    CERTIFICATE,
    FILE,
    place_of_job,
    shape_faults,
)
from orchestrator.domain.audit.event_facts import OBSERVATIONS
from orchestrator.domain.audit.hash_chain import canonical, lines_sha256, sha256
from orchestrator.domain.model.attempt import PER_INSTANCE_ACTIONS
from orchestrator.domain.model.lifecycle import Event, State
from orchestrator.domain.model.operation import outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Object = Mapping[str, Any]
    Part = str | int

_MISSING: Final = object()


def verify(data: bytes) -> list[str]:
    """Return every fault of this file; [] if it is a certificate as it was issued.

    Each fault begins with its place in the file. Never raises, whatever the file contains.
    """
    try:
        return list(_faults(data))
    except RecursionError:
        return ["file: it is nested too deeply"]


def _faults(data: bytes) -> Iterator[str]:
    try:
        document = json.loads(data.decode())
    except ValueError as error:
        yield f"file: it is not JSON in UTF-8: {error}"
        return
    shape: defaultdict[Part, list[str]] = defaultdict(list)
    for part, fault in shape_faults(document):
        shape[part].append(fault)
    if FILE in shape:
        yield from shape[FILE]
        return
    certified = document["certificate"]
    if certified.get("format") != certificate.FORMAT:
        yield (
            f"certificate: its format is not {certificate.FORMAT}, the only one that this version "
            "verifies"
        )
        return
    try:
        text = canonical(certified)
        expected = certificate.file(
            [text], document["digest"], document["issued"], document["seal"]
        )
    except ValueError as error:
        yield f"file: it has no canonical form: {error}"
        return
    if data != expected:
        yield f"file: it is not in canonical form, from byte {_first_difference(data, expected)} on"
    if document["digest"] != sha256(text):
        yield "file: digest does not match the certificate: the certificate was changed"
    if document["seal"] != certificate.seal(document["digest"], document["issued"]):
        yield "file: seal does not match digest and issued: one of them was changed"
    yield from _certificate_faults(certified, shape)


def _first_difference(data: bytes, expected: bytes) -> int:
    pairs = enumerate(zip(data, expected, strict=False))
    shorter = min(len(data), len(expected))
    return next((number for number, (one, other) in pairs if one != other), shorter)


def _certificate_faults(certified: Object, shape: Mapping[Part, Sequence[str]]) -> Iterator[str]:
    """Yield the faults of the certificate; ``shape`` has those of the shape of each part."""
    if CERTIFICATE in shape:
        yield from shape[CERTIFICATE]
        return
    yield from _set_faults(certified)
    for index, job in enumerate(certified["jobs"]):
        if index in shape:
            yield from shape[index]
        else:
            where = place_of_job(job, index)
            yield from (f"{where}: {fault}" for fault in _job_faults(job, certified["operation"]))
    if not shape:
        yield from _operation_faults(certified, certified["jobs"])


def _set_faults(certified: Object) -> Iterator[str]:
    job_ids = certified["set"]["job_ids"]
    if job_ids != sorted(set(job_ids)):
        yield "set: job_ids is not sorted, or contains an id twice"
    if certified["set"]["sha256"] != lines_sha256(job_ids):
        yield "set: sha256 does not match job_ids"
    there = [job.get("job_id") for job in certified["jobs"]]
    if there != job_ids:
        named, found = Counter(job_ids), Counter(map(str, there))
        yield from (f"set: job {job_id} is not in jobs" for job_id in named - found)
        yield from (f"jobs: job {job_id} is not in the set" for job_id in found - named)
        if named == found:
            yield "jobs: not in the order of the set"


# --- a job ---------------------------------------------------------------------------------------


def _job_faults(job: Object, operation: Object) -> Iterator[str]:
    events = job["events"]
    yield from hash_chain.chain_errors(job["termination_id"], events)
    if not events:
        yield "it has no event"
        return
    yield from _contradictions(
        events[0],
        {name: operation[name] for name in ("account", "region")} | {"job_id": job["job_id"]},
    )
    yield from _state_faults(job)
    yield from _attempt_faults(job)
    for name, value in certificate.derived(job).items():
        if job[name] != value:
            yield f"{name} does not follow from the other members"


def _state_faults(job: Object) -> Iterator[str]:
    state: str | None = None
    since: list[Object] = []
    for number, event in enumerate(job["events"], start=1):
        if event["from_state"] is not None and event["from_state"] != state:
            yield f"event {number}: from_state is {event['from_state']}, but the state was {state}"
        if event["to_state"] is not None:
            state, since = event["to_state"], []
        since.append(event)
    if job["state"] != state:
        yield f"state is {job['state']}, but its events end at {state}"
    if State(job["state"]).final:
        # Before the end of a termination, not every observation leads to an event.
        yield from _end_faults(job, since)


def _end_faults(job: Object, since: Sequence[Object]) -> Iterator[str]:
    """Yield each value of an ended job that its last events do not confirm.

    ``since`` holds the event of its end and the ones after it.
    """
    if job["evidence"] not in [event["evidence"] for event in since]:
        yield f"evidence {job['evidence']} does not match its last event"
    observed = [
        {name: event["facts"][name] for name in OBSERVATIONS if name in event["facts"]}
        for event in since
        if event["facts"] is not None
    ]
    if observed and job["rests_on"] not in observed:
        yield "rests_on does not match the facts of its last event"


def _attempt_faults(job: Object) -> Iterator[str]:
    attempts = list(enumerate(job["attempts"], start=1))
    yield from (
        f"attempt {place}: its number is {attempt['number']}"
        for place, attempt in attempts
        if attempt["number"] != place
    )
    # No event records requests for single instances: the digest alone protects them.
    requests = [each for each in attempts if each[1]["action"] not in PER_INSTANCE_ACTIONS]
    made = 0
    for number, event in enumerate(job["events"], start=1):
        facts = event["facts"] or {}
        if event["type"] == Event.CALL_STARTED:
            made += 1
            stated = facts.get("attempt", {}) | {"sent_at": event["at"]}
        elif "answer" in facts:
            stated = facts["answer"] | {"answered_at": event["at"]}
        else:
            continue
        place, attempt = requests[made - 1] if 0 < made <= len(requests) else (made, {})
        if any(attempt.get(name, _MISSING) != stated[name] for name in stated):
            yield f"attempt {place}: it differs from event {number}"
    if len(requests) > made:
        yield f"attempt {requests[made][0]}: no event records it"


def _contradictions(accepted: Object, stated: Object) -> Iterator[str]:
    """Yield what differs in a subject's first event, which has no facts in earlier versions."""
    if accepted["facts"] is None:
        return
    for name, value in stated.items():
        if accepted["facts"].get(name) != value:
            yield f"event 1: {name} differs from the certificate"


# --- the operation -------------------------------------------------------------------------------


def _operation_faults(certified: Object, jobs: Sequence[Object]) -> Iterator[str]:
    operation = certified["operation"]
    for fault in _events_faults(certified, jobs):
        yield f"operation {operation['id']}: {fault}"
    if certified["conclusion"] != conclusion([verdict(job) for job in jobs]):
        yield "certificate: conclusion does not follow from the jobs"


def _events_faults(certified: Object, jobs: Sequence[Object]) -> Iterator[str]:
    operation, events = certified["operation"], certified["events"]
    yield from hash_chain.chain_errors(operation["id"], events)
    if not events:
        yield "it has no event"
        return
    accepted = events[0]
    if (operation["created_at"], operation["reason"]) != (accepted["at"], accepted["why"]):
        yield "event 1: its time or its reason differs from the certificate"
    yield from _contradictions(
        accepted,
        {name: operation[name] for name in ("account", "region", "requested_by")}
        | {
            "jobs": len(jobs),
            "jobs_sha256": certified["set"]["sha256"],
            "terminations_sha256": lines_sha256(
                f"{job['job_id']} {job['termination_id']}" for job in jobs
            ),
        },
    )
    yield from _outcome_faults(operation, events, jobs)


def _outcome_faults(
    operation: Object, events: Sequence[Object], jobs: Sequence[Object]
) -> Iterator[str]:
    ends = [event for event in events if event["type"] == "finished"]
    stated = tuple(operation[name] for name in ("state", "finished_at", "outcome"))
    if not ends:
        if stated != ("running", None, None):
            yield "state, finished_at or outcome shows an end, but it has no finished event"
        return
    if stated != ("finished", ends[-1]["at"], ends[-1]["why"]):
        yield "state, finished_at or outcome does not match its finished event"
    states = Counter(ended(job["events"]) for job in jobs)
    by_state = {state: count for state, count in states.items() if state is not None}
    if states[None]:
        yield f"it has finished, but {states[None]} of its jobs have not ended"
    elif outcome(by_state) != operation["outcome"]:
        yield f"the outcome {operation['outcome']} does not follow from the states of its jobs"
    stated = (ends[-1]["facts"] or {}).get("jobs_by_state", by_state)
    if stated != by_state:
        yield "its finished event counts other states of its jobs"
