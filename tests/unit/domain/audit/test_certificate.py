"""Content of a certificate: its jobs and its operation."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from orchestrator.domain.audit.caveats import REVIVED
from orchestrator.domain.audit.certificate import FORMAT
from orchestrator.domain.audit.certificate_verification import verify
from orchestrator.domain.audit.hash_chain import canonical
from orchestrator.domain.errors import CloudErrorKind
from orchestrator.domain.model.batch_job import InstanceCounters, JobState
from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.domain.model.instance_scan import InstanceScan
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.observation import CallStarted, JobUnlisted, ReadFailed, Withdrawn
from tests.unit.domain.build import LIVE, NOW, batch_read, later, machines, read
from tests.unit.domain.histories import (
    CALLED,
    STOPPED,
    History,
    certified,
    failure,
    history,
    one_of_each_end,
    verified,
)

GONE = "that its machines are gone"
IS_STOPPED = "that it is stopped"
STAYED = "that it stayed stopped"
LATE = "the deadline of its termination passed"
NOT_CAPTURED = f"{GONE}: its machines were not captured"
UNREAD = ReadFailed(failure(CloudErrorKind.OUTCOME_UNKNOWN, "Client.Timeout"))
ALREADY_FINISHED = (
    f"{STAYED}: it had finished before any TerminateJob request, so there was no settle window"
)
NOT_READ = f"{GONE}: DescribeInstances was not called for them"


def certificate_of(*histories: History) -> Any:
    """Return the content of the certificate of these jobs; it is valid."""
    made = certified(histories)
    assert verify(made.data) == []
    return json.loads(made.data)["certificate"]


def job_of(history: History) -> Any:
    (job,) = certificate_of(history)["jobs"]
    return job


def test_a_certificate_is_in_canonical_form_with_its_digest() -> None:
    made = certified(one_of_each_end())
    document = json.loads(made.data)
    assert made.data == canonical(document) + b"\n"
    text = canonical(document["certificate"])
    assert made.digest == document["digest"] == hashlib.sha256(text).hexdigest()
    assert document["issued"] == {"at": "2026-01-01T12:16:40.000000Z", "by": "orchestrator 1"}
    sealed = canonical({"digest": made.digest, "issued": document["issued"]})
    assert document["seal"] == hashlib.sha256(sealed).hexdigest()


def test_the_set_is_the_jobs_sorted() -> None:
    content = certificate_of(*reversed(one_of_each_end()))
    job_ids = [job["job_id"] for job in content["jobs"]]
    assert job_ids == sorted(job_ids) == content["set"]["job_ids"]
    lines = "".join(f"{job_id}\n" for job_id in job_ids)
    assert content["set"]["sha256"] == hashlib.sha256(lines.encode()).hexdigest()


def test_a_job_is_listed_with_all_that_its_state_rests_on() -> None:
    job = job_of(verified())
    assert (job["job_id"], job["termination_id"]) == ("job-verified", "trm_job-verified")
    assert (job["state"], job["evidence"]) == ("verified", 5)
    assert job["evidence_means"] == "all of this was read again after the settle window"
    counters = dict.fromkeys(InstanceCounters.__slots__, 0) | {"failed": 10}
    assert job["rests_on"] == {
        "job_state": "FAILED",
        "job_next_action": "",
        "observed_at": "2026-01-01T12:01:00.000000Z",
        "instances": counters,
        "instances_observed_at": "2026-01-01T12:01:00.000000Z",
        "acknowledged_at": "2026-01-01T12:00:00.000000Z",
    }
    assert job["attempts"] == [
        {
            "number": 1,
            "action": "TerminateJob",
            "target": "job-verified",
            "sent_at": "2026-01-01T12:00:00.000000Z",
            "answered_at": "2026-01-01T12:00:00.000000Z",
            "outcome": "accepted",
            "code": None,
            "request_id": "request-1",
        }
    ]
    types = ["accepted", "call_started", "call_acknowledged", "seen_stopped", "settled"]
    assert [event["type"] for event in job["events"]] == types
    assert job["events"][2]["facts"]["answer"]["request_id"] == "request-1"
    facts = job["events"][-1]["facts"]
    assert {name: facts[name] for name in job["rests_on"]} == job["rests_on"]
    assert facts["machines"] == {
        "total": 4,
        "up": 0,
        "gone": 4,
        "nodes": 0,
        "listed": True,
        "not_captured": None,
        "hidden": None,
        "observed_at": "2026-01-01T12:00:00.000000Z",
    }


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (verified(), []),
        (verified(run=1), [NOT_CAPTURED]),
        (
            verified(**machines(gone=3, problem=ErrorDetail(code="Unauthorized", message="no"))),
            [f"{GONE}: DescribeInstances was refused (Unauthorized)"],
        ),
        (
            verified(**machines(listed=False)),
            [f"{GONE}: DescribeInstances never listed any of them"],
        ),
        (
            verified(**machines() | {"capture": InstanceScan(run=1, nodes=3, ended_at=NOW)}),
            [f"{GONE}: 3 nodes of its compute environment restart and remain billed"],
        ),
        (
            history(
                "job-1",
                *STOPPED,
                batch_read(JobState.FAILED, at=later(7200)),
                last_at=later(7200),
                **machines(gone=3, up=1),
            ),
            [
                f"{IS_STOPPED} for good: {LATE} with 1 of its machines still up",
                f"{GONE}: 3 of 4 were gone at 2026-01-01T12:00:00.000000Z",
            ],
        ),
        (
            history("job-1", *STOPPED).then(JobUnlisted(), 5, 35, 65),
            [
                f"{STAYED} through the settle window: it was deleted before the window ended",
                NOT_CAPTURED,
            ],
        ),
        (
            history("job-1", read(JobState.SUCCEED), instances_submitted=10),
            [ALREADY_FINISHED, NOT_READ],
        ),
        (
            history("job-1", read(JobState.SUCCEED, InstanceCounters()), instances_submitted=10),
            [
                ALREADY_FINISHED,
                "that no instance was live: the cloud counted no instance in any state",
            ],
        ),
        (
            history(
                "job-1",
                read(JobState.SUCCEED, next_action=None),  # type: ignore[arg-type]
                instances_submitted=10,
            ),
            [
                ALREADY_FINISHED,
                NOT_READ,
                "that the cloud had nothing pending: no reply with NextAction was read",
            ],
        ),
        (
            history("job-1").then(JobUnlisted(), 0, 60, 120),
            [f"{IS_STOPPED}: the cloud does not know the job"],
        ),
        (
            history("job-1", *CALLED).then(JobUnlisted(), 5, 35, 65),
            [
                (
                    f"{IS_STOPPED}: the cloud does not know the job; it was last observed at "
                    "2026-01-01T12:00:00.000000Z and has been deleted since"
                )
            ],
        ),
        (
            history("job-1").then(
                ReadFailed(failure(CloudErrorKind.UNAUTHORIZED, "Unauthorized")), 0, 300, 600
            ),
            [f"{IS_STOPPED}: the cloud refused the request permanently (Unauthorized)"],
        ),
        (
            history("job-1", Withdrawn()),
            [f"{IS_STOPPED}: it was withdrawn before any TerminateJob request"],
        ),
        (
            history(
                "job-1", *CALLED, read(JobState.RUNNING, LIVE, at=later(7200)), last_at=later(7200)
            ),
            [
                (
                    f"{IS_STOPPED}: {LATE} with 4 of 10 instances live at the last count, at "
                    "2026-01-01T14:00:00.000000Z"
                )
            ],
        ),
        (
            history("job-1", batch_read(JobState.SUBMITTED)).then(UNREAD, 7200, 7230, 7260),
            [f"{IS_STOPPED}: {LATE}, and its instances were never counted"],
        ),
        (
            history("job-1", *STOPPED).then(UNREAD, 7200, 7230, 7260),
            [
                (
                    f"{STAYED}: every instance was observed as stopped, but the job could not be "
                    "read again after the settle window"
                ),
                NOT_CAPTURED,
            ],
        ),
        (
            history("job-1", *CALLED),
            [f"{IS_STOPPED}: its termination has not ended and is draining"],
        ),
    ],
)
def test_unproven_facts_are_listed(made: History, expected: list[str]) -> None:
    assert job_of(made)["not_proven"] == expected


def test_an_event_that_was_stored_without_its_facts_makes_it_say_so() -> None:
    made = History(verified().termination)
    for event in verified().events:
        made.record(**event | {"facts": None})
    made.attempts = verified().attempts
    missing = "what 5 of its 5 events are based on: the observations were not stored"
    assert job_of(made)["not_proven"] == [missing]


# --- what came after the end ---------------------------------------------------------------------


def revived(**event: Any) -> History:
    made = verified()
    made.record(at=later(90), **event)
    return made


def test_a_revived_job_makes_it_say_so() -> None:
    made = revived(type=REVIVED, facts={"job_state": "RUNNING"})
    content = certificate_of(
        made, history("job-over", read(JobState.SUCCEED), instances_submitted=10)
    )
    assert content["conclusion"] == (
        "1 of 2 jobs proven stopped; NOT STOPPED FOR GOOD: 1 revived after the end"
    )
    job = content["jobs"][1]
    revival = "that it stayed stopped: it was observed running again at 2026-01-01T12:01:30.000000Z"
    assert job["not_proven"] == [revival]
    assert job["state"] == "verified"


def test_a_revived_job_that_ended_is_not_listed_as_running() -> None:
    job = job_of(revived(type=REVIVED, facts={"job_state": "FAILED"}))
    revival = "it had run again and ended when it was observed at 2026-01-01T12:01:30.000000Z"
    assert job["not_proven"] == [f"that it stayed stopped: {revival}"]


def test_any_event_after_the_end_is_listed() -> None:
    job = job_of(revived(type="a new one", facts={}))
    caveat = "that it stayed verified: a new one followed the end, at 2026-01-01T12:01:30.000000Z"
    assert job["not_proven"][0] == caveat


def test_a_revived_job_that_is_driven_on_has_not_ended() -> None:
    """A final state that is left again, should a later version allow that."""
    made = revived(type=REVIVED, from_state="verified", to_state="draining", evidence=1, facts={})
    made.termination = history("job-verified", *CALLED).termination
    (job,) = (json.loads(certified([made]).data))["certificate"]["jobs"]
    assert job["not_proven"] == [
        "that it is stopped: its termination has not ended and is draining",
        "that it stayed stopped: it was observed running again at 2026-01-01T12:01:30.000000Z",
    ]


def test_a_revived_job_that_was_proven_stopped_again_counts_as_stopped() -> None:
    made = revived(type=REVIVED, from_state="verified", to_state="draining", evidence=1, facts={})
    last = made.events[-2]
    again = {name: last[name] for name in ("to_state", "evidence", "facts", "type")}
    made.record(at=later(120), from_state="draining", **again)
    content = certificate_of(made)
    assert content["conclusion"] == "1 of 1 job proven stopped"
    assert "observed running again" in content["jobs"][0]["not_proven"][0]


# --- the operation -------------------------------------------------------------------------------


def test_an_unfinished_operation_is_stated_first() -> None:
    made = certified([verified(), history("job-1", *CALLED), history("job-2")])
    begins = b'{"certificate":{"conclusion":"NOT FINISHED: 2 of 3 jobs not ended; '
    assert made.data.startswith(begins)
    content = certificate_of(verified(), history("job-1", *CALLED), history("job-2"))
    assert content["conclusion"].endswith("; 1 of 3 jobs proven stopped so far")
    assert (content["operation"]["state"], content["operation"]["outcome"]) == ("running", None)


def test_a_finished_operation_has_its_outcome_and_the_number_of_stopped_jobs() -> None:
    content = certificate_of(*one_of_each_end())
    assert content["conclusion"] == "2 of 6 jobs proven stopped"
    assert {job["state"] for job in content["jobs"]} == {state for state in State if state.final}
    operation = content["operation"]
    assert (operation["outcome"], operation["state"]) == ("partial", "finished")
    assert [event["type"] for event in content["events"]] == ["accepted", "finished"]


def test_a_call_whose_answer_was_lost_is_listed_as_unanswered() -> None:
    sending = history("job-1", read(JobState.RUNNING, LIVE), CallStarted())
    (attempt,) = job_of(sending)["attempts"]
    assert (attempt["answered_at"], attempt["request_id"]) == (None, None)


def test_the_same_format_says_the_same_for_ever() -> None:
    """If this fails, the wording or the structure has changed, and FORMAT has to change.

    Otherwise certificates that people keep would no longer be valid.
    """
    made = certified([verified(), history("job-1", *CALLED)])
    assert (FORMAT, made.digest) == (
        "orchestrator-certificate/1",
        "300a9c559b426db4c66e6f56367f91384cde25276a28864d12ad4be8e14cd3a8",
    )
