"""What is not proven of a job, in words, and how its operation came out: read off its events.

A job is the object that a certificate has of it; see :mod:`orchestrator.domain.audit.certificate`.
"""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from orchestrator.domain.decisions import evidence
from orchestrator.domain.decisions.manual_end import NOT_CONFIGURED
from orchestrator.domain.model.batch_job import InstanceCounters, JobState
from orchestrator.domain.model.lifecycle import PROVEN_STATES, State

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Job = Mapping[str, Any]

REVIVED: Final = "revived"
"""The type of the event of a job that was seen to have come back after its termination had ended.

It runs, or its EndTime shows that it did in between.
"""


class JobVerdict(StrEnum):
    """How a job counts in the conclusion."""

    UNENDED = "unended"
    STOPPED = "stopped"
    NOT_STOPPED = "not_stopped"
    BACK = "back"
    """Something became of it after its end, and nothing proved it down since."""


def standing(job: Job) -> JobVerdict:
    back = False
    for before, event in _with_state_before(job["events"]):
        if before is not None and before.final:
            back = True
        elif event["to_state"] in PROVEN_STATES:
            back = False
    state = State(job["state"])
    if back:
        return JobVerdict.BACK
    if not state.final:
        return JobVerdict.UNENDED
    return JobVerdict.STOPPED if state in PROVEN_STATES else JobVerdict.NOT_STOPPED


def conclusion(standings: Sequence[JobVerdict]) -> str:
    """How the operation stands, in one sentence."""
    count, total = Counter(standings), len(standings)
    stopped = f"{count[JobVerdict.STOPPED]} of {_jobs(total)} proven down"
    if unended := count[JobVerdict.UNENDED]:
        stopped = f"NOT FINISHED: {unended} of {_jobs(total)} not ended; {stopped} so far"
    if back := count[JobVerdict.BACK]:
        stopped += f"; NOT DOWN FOR GOOD: {back} came back after the end"
    return stopped


def _jobs(number: int) -> str:
    return f"{number} job{'' if number == 1 else 's'}"


def not_proven(job: Job) -> list[str]:
    """A sentence for each thing that the job's evidence does not show."""
    return [*_of_state(job), *_of_what_came_after(job), *_of_evidence(job)]


def _of_state(job: Job) -> Iterator[str]:
    known = job["rests_on"]
    match State(job["state"]):
        case State.VERIFIED:
            if _deleted(job):
                yield (
                    "that it stayed down through the settle window: it was deleted before that had "
                    "passed"
                )
        case State.ALREADY_FINISHED:
            yield "that it stayed down: it was found finished before any call, and did not settle"
            if job["evidence"] < evidence.NO_INSTANCE_LIVE:
                yield "that no instance was live: the cloud counted no instance in any state"
        case State.NOT_FOUND:
            at = known.get("observed_at")
            deleted = f" any more, and showed it last at {at}: it was deleted since" if at else ""
            yield f"that it is down: the cloud does not know the job{deleted}"
        case State.REFUSED:
            code = known.get("error_code", "no code is known")
            yield f"that it is down: it was refused for good ({code})"
        case State.WITHDRAWN:
            yield "that it is down: it was taken back before it was called"
        case State.UNVERIFIED:
            yield _given_up(job)
        case state:
            yield f"that it is down: it has not ended, and is {state}"


def _given_up(job: Job) -> str:
    known = job["rests_on"]
    up = _machines(job).get("up", 0)
    if known.get("error_code") == NOT_CONFIGURED:
        return "that it is down: it was ended by hand, for its account is configured nowhere"
    if job["evidence"] >= evidence.NO_INSTANCE_LIVE and up:
        return f"that it is down for good: it was given up at its deadline, {up} machines still up"
    if job["evidence"] >= evidence.NO_INSTANCE_LIVE:
        return (
            "that it stayed down: every instance was seen down, but it could not be read again "
            "after the settle window"
        )
    if "instances" not in known:
        return "that it is down: it was given up at its deadline, its instances never counted"
    counters = InstanceCounters(**known["instances"])
    return (
        f"that it is down: it was given up at its deadline, {counters.live} of {counters.total} "
        f"instances live at the last count, at {known.get('instances_observed_at')}"
    )


def _of_what_came_after(job: Job) -> Iterator[str]:
    for before, event in _with_state_before(job["events"]):
        if before is None or not before.final:
            continue
        if event["type"] == REVIVED:
            yield f"that it stayed down: {_revived(event)} at {event['at']}"
        else:
            yield f"that it stayed {before}: {event['type']} came after the end, at {event['at']}"


def _revived(event: Mapping[str, Any]) -> str:
    facts = event["facts"] or {}
    finished = facts.get("job_state") in (JobState.SUCCEED, JobState.FAILED)
    if finished and not facts.get("instances_live"):
        return "it had run again and ended when it was seen"
    return "it was seen running again"


def _of_evidence(job: Job) -> Iterator[str]:
    if job["evidence"] >= evidence.NO_INSTANCE_LIVE:
        if job["evidence"] < evidence.MACHINES_GONE:
            yield _of_machines(_machines(job))
        if "job_next_action" not in job["rests_on"]:
            yield "that the cloud had nothing pending: no answer with NextAction was read"
    bare = sum(event["facts"] is None for event in job["events"])
    if bare:
        yield f"what {bare} of its {len(job['events'])} events rested on: it was not kept then"


def _of_machines(known: Mapping[str, Any]) -> str:
    return f"that its machines are gone: {_why_not_gone(known)}"


def _why_not_gone(known: Mapping[str, Any]) -> str:
    if not known:
        return "they were not looked up"
    if known["nodes"]:
        return f"{known['nodes']} nodes of its compute environment restart and stay billed"
    if known["not_captured"] is not None:
        return str(known["not_captured"])
    if known["hidden"] is not None:
        return f"looking them up was refused ({known['hidden']})"
    if not known["listed"]:
        return "DescribeInstances never listed one of them"
    return f"{known['gone']} of {known['total']} were, at {known['observed_at']}"


def _deleted(job: Job) -> bool:
    """Whether it was verified on its deletion, not on a look after the settle window."""
    return any(e["to_state"] == State.VERIFIED and e["why"] is not None for e in job["events"])


def _machines(job: Job) -> Mapping[str, Any]:
    """What its last event tells of its machines; nothing where none does."""
    facts = [event["facts"] for event in job["events"] if event["facts"] is not None]
    known: Mapping[str, Any] = next((f["machines"] for f in reversed(facts) if "machines" in f), {})
    return known


def _with_state_before(
    events: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[State | None, Mapping[str, Any]]]:
    """Each event with the state that the ones before it had led to."""
    state: State | None = None
    for event in events:
        yield state, event
        if event["to_state"] is not None:
            state = State(event["to_state"])


def ended(events: Sequence[Mapping[str, Any]]) -> State | None:
    """The first final state that these events led to, which an operation's outcome counts."""
    states = (State(event["to_state"]) for event in events if event["to_state"] is not None)
    return next((state for state in states if state.final), None)
