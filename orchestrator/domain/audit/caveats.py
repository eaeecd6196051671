"""Caveats of a certificate: what is not proven of a job, and the conclusion of its operation.

Both are derived from the events of the jobs. A job is an object of the certificate's ``jobs``; see
:mod:`orchestrator.domain.audit.certificate`.
"""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from orchestrator.domain.decisions import evidence
from orchestrator.domain.model.batch_job import InstanceCounters, JobState
from orchestrator.domain.model.error_detail import ClientCode
from orchestrator.domain.model.lifecycle import PROVEN_STATES, State

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Job = Mapping[str, Any]

REVIVED: Final = "revived"
"""Type of the event of a job that was observed as revived after its termination had ended.

The job runs, or its EndTime shows that it ran in between.
"""


class JobVerdict(StrEnum):
    """Class of a job in the conclusion."""

    UNFINISHED = "unfinished"
    STOPPED = "stopped"
    NOT_STOPPED = "not_stopped"
    REVIVED = "revived"
    """An event followed the end of its termination, and nothing has proven it stopped since."""


def verdict(job: Job) -> JobVerdict:
    revived = False
    for before, event in _with_state_before(job["events"]):
        if before is not None and before.final:
            revived = True
        elif event["to_state"] in PROVEN_STATES:
            revived = False
    state = State(job["state"])
    if revived:
        return JobVerdict.REVIVED
    if not state.final:
        return JobVerdict.UNFINISHED
    return JobVerdict.STOPPED if state in PROVEN_STATES else JobVerdict.NOT_STOPPED


def conclusion(verdicts: Sequence[JobVerdict]) -> str:
    """Return one sentence about how the operation ended, or how far it is."""
    count, total = Counter(verdicts), len(verdicts)
    sentence = f"{count[JobVerdict.STOPPED]} of {_jobs(total)} proven stopped"
    if unfinished := count[JobVerdict.UNFINISHED]:
        sentence = f"NOT FINISHED: {unfinished} of {_jobs(total)} not ended; {sentence} so far"
    if revived := count[JobVerdict.REVIVED]:
        sentence += f"; NOT STOPPED FOR GOOD: {revived} revived after the end"
    return sentence


def _jobs(number: int) -> str:
    return f"{number} job{'' if number == 1 else 's'}"


def not_proven(job: Job) -> list[str]:
    """Return a sentence for each thing that the job's evidence does not prove."""
    return [*_state_caveats(job), *_later_event_caveats(job), *_evidence_caveats(job)]


def _state_caveats(job: Job) -> Iterator[str]:
    known = job["rests_on"]
    match State(job["state"]):
        case State.VERIFIED:
            if _verified_by_deletion(job):
                yield (
                    "that it stayed stopped through the settle window: it was deleted before the "
                    "window ended"
                )
        case State.ALREADY_FINISHED:
            yield (
                "that it stayed stopped: it had finished before any TerminateJob request, so there "
                "was no settle window"
            )
            if job["evidence"] < evidence.NO_INSTANCE_LIVE:
                yield "that no instance was live: the cloud counted no instance in any state"
        case State.NOT_FOUND:
            at = known.get("observed_at")
            deleted = f"; it was last observed at {at} and has been deleted since" if at else ""
            yield f"that it is stopped: the cloud does not know the job{deleted}"
        case State.REFUSED:
            code = known.get("error_code", "error code unknown")
            yield f"that it is stopped: the cloud refused the request permanently ({code})"
        case State.WITHDRAWN:
            yield "that it is stopped: it was withdrawn before any TerminateJob request"
        case State.UNVERIFIED:
            yield _unverified_caveat(job)
        case state:
            yield f"that it is stopped: its termination has not ended and is {state}"


def _unverified_caveat(job: Job) -> str:
    known = job["rests_on"]
    up = _machines(job).get("up", 0)
    if known.get("error_code") == ClientCode.ACCOUNT_NOT_CONFIGURED:
        return (
            "that it is stopped: its termination was ended manually, since its account is not "
            "configured on any replica"
        )
    if job["evidence"] >= evidence.NO_INSTANCE_LIVE and up:
        return (
            "that it is stopped for good: the deadline of its termination passed with "
            f"{up} of its machines still up"
        )
    if job["evidence"] >= evidence.NO_INSTANCE_LIVE:
        return (
            "that it stayed stopped: every instance was observed as stopped, but the job could not "
            "be read again after the settle window"
        )
    if "instances" not in known:
        return (
            "that it is stopped: the deadline of its termination passed, and its instances were "
            "never counted"
        )
    counters = InstanceCounters(**known["instances"])
    return (
        "that it is stopped: the deadline of its termination passed with "
        f"{counters.live} of {counters.total} instances live at the last count, at "
        f"{known.get('instances_observed_at')}"
    )


def _later_event_caveats(job: Job) -> Iterator[str]:
    for before, event in _with_state_before(job["events"]):
        if before is None or not before.final:
            continue
        if event["type"] == REVIVED:
            yield f"that it stayed stopped: {_revival(event)} at {event['at']}"
        else:
            yield f"that it stayed {before}: {event['type']} followed the end, at {event['at']}"


def _revival(event: Mapping[str, Any]) -> str:
    facts = event["facts"] or {}
    finished = facts.get("job_state") in (JobState.SUCCEED, JobState.FAILED)
    if finished and not facts.get("instances_live"):
        return "it had run again and ended when it was observed"
    return "it was observed running again"


def _evidence_caveats(job: Job) -> Iterator[str]:
    if job["evidence"] >= evidence.NO_INSTANCE_LIVE:
        if job["evidence"] < evidence.MACHINES_GONE:
            yield f"that its machines are gone: {_why_not_gone(_machines(job))}"
        if "job_next_action" not in job["rests_on"]:
            yield "that the cloud had nothing pending: no reply with NextAction was read"
    without_facts = sum(event["facts"] is None for event in job["events"])
    if without_facts:
        yield (
            f"what {without_facts} of its {len(job['events'])} events are based on: the "
            "observations were not stored"
        )


def _why_not_gone(known: Mapping[str, Any]) -> str:
    if not known:
        return "DescribeInstances was not called for them"
    if known["nodes"]:
        return f"{known['nodes']} nodes of its compute environment restart and remain billed"
    if known["not_captured"] is not None:
        return str(known["not_captured"])
    if known["hidden"] is not None:
        return f"DescribeInstances was refused ({known['hidden']})"
    if not known["listed"]:
        return "DescribeInstances never listed any of them"
    return f"{known['gone']} of {known['total']} were gone at {known['observed_at']}"


def _verified_by_deletion(job: Job) -> bool:
    """Return whether it was verified by its deletion, not by a poll after the settle window."""
    return any(e["to_state"] == State.VERIFIED and e["why"] is not None for e in job["events"])


def _machines(job: Job) -> Mapping[str, Any]:
    """Return the machines of the last event that has any; empty if there is none."""
    facts = [event["facts"] for event in job["events"] if event["facts"] is not None]
    known: Mapping[str, Any] = next((f["machines"] for f in reversed(facts) if "machines" in f), {})
    return known


def _with_state_before(
    events: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[State | None, Mapping[str, Any]]]:
    """Yield each event with the state that the events before it led to."""
    state: State | None = None
    for event in events:
        yield state, event
        if event["to_state"] is not None:
            state = State(event["to_state"])


def ended(events: Sequence[Mapping[str, Any]]) -> State | None:
    """Return the first final state that the events led to: an operation's outcome counts it."""
    states = (State(event["to_state"]) for event in events if event["to_state"] is not None)
    return next((state for state in states if state.final), None)
