"""What a certificate says of each job, and of the operation."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from orchestrator.domain.audit.caveats import REVIVED
from orchestrator.domain.audit.certificate import FORMAT
from orchestrator.domain.audit.hash_chain import canonical
from orchestrator.domain.audit.verification import verify
from orchestrator.domain.errors import CloudErrorKind
from orchestrator.domain.model.batch_job import InstanceCounters, JobState
from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.machine_capture import Capture
from orchestrator.domain.model.observation import CallStarted, JobUnlisted, ReadFailed, Withdrawn
from tests.unit.domain.build import LIVE, NOW, later, machines, read, swept
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

NOT_CAPTURED = "that its machines are gone: its machines were not captured"
UNREAD = ReadFailed(failure(CloudErrorKind.OUTCOME_UNKNOWN, "Client.Timeout"))
NOT_LOOKED_UP = "that its machines are gone: they were not looked up"


def certificate_of(*histories: History) -> Any:
    """What the certificate of these says; it is valid."""
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
    told = certificate_of(*reversed(one_of_each_end()))
    job_ids = [job["job_id"] for job in told["jobs"]]
    assert job_ids == sorted(job_ids) == told["set"]["job_ids"]
    lines = "".join(f"{job_id}\n" for job_id in job_ids)
    assert told["set"]["sha256"] == hashlib.sha256(lines.encode()).hexdigest()


def test_a_job_stands_there_with_all_that_its_state_rests_on() -> None:
    job = job_of(verified())
    assert (job["job_id"], job["termination_id"]) == ("job-verified", "trm_job-verified")
    assert (job["state"], job["evidence"]) == ("verified", 5)
    assert job["evidence_means"] == "all that was still so after the settle window"
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
    types = ["accepted", "call_started", "call_accepted", "seen_stopped", "settled"]
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
            ["that its machines are gone: looking them up was refused (Unauthorized)"],
        ),
        (
            verified(**machines(listed=False)),
            ["that its machines are gone: DescribeInstances never listed one of them"],
        ),
        (
            verified(**machines() | {"capture": Capture(run=1, nodes=3, ended_at=NOW)}),
            [
                (
                    "that its machines are gone: 3 nodes of its compute environment restart and "
                    "stay billed"
                )
            ],
        ),
        (
            history(
                "job-1",
                *STOPPED,
                swept(JobState.FAILED, at=later(7200)),
                last_at=later(7200),
                **machines(gone=3, up=1),
            ),
            [
                "that it is down for good: it was given up at its deadline, 1 machines still up",
                ("that its machines are gone: 3 of 4 were, at 2026-01-01T12:00:00.000000Z"),
            ],
        ),
        (
            history("job-1", *STOPPED).then(JobUnlisted(), 5, 35, 65),
            [
                (
                    "that it stayed down through the settle window: it was deleted before that had "
                    "passed"
                ),
                NOT_CAPTURED,
            ],
        ),
        (
            history("job-1", read(JobState.SUCCEED), instances_submitted=10),
            [
                "that it stayed down: it was found finished before any call, and did not settle",
                NOT_LOOKED_UP,
            ],
        ),
        (
            history("job-1", read(JobState.SUCCEED, InstanceCounters()), instances_submitted=10),
            [
                "that it stayed down: it was found finished before any call, and did not settle",
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
                "that it stayed down: it was found finished before any call, and did not settle",
                NOT_LOOKED_UP,
                "that the cloud had nothing pending: no answer with NextAction was read",
            ],
        ),
        (
            history("job-1").then(JobUnlisted(), 0, 60, 120),
            ["that it is down: the cloud does not know the job"],
        ),
        (
            history("job-1", *CALLED).then(JobUnlisted(), 5, 35, 65),
            [
                (
                    "that it is down: the cloud does not know the job any more, and showed it "
                    "last at 2026-01-01T12:00:00.000000Z: it was deleted since"
                )
            ],
        ),
        (
            history("job-1").then(
                ReadFailed(failure(CloudErrorKind.UNAUTHORIZED, "Unauthorized")), 0, 300, 600
            ),
            ["that it is down: it was refused for good (Unauthorized)"],
        ),
        (
            history("job-1", Withdrawn()),
            ["that it is down: it was taken back before it was called"],
        ),
        (
            history(
                "job-1", *CALLED, read(JobState.RUNNING, LIVE, at=later(7200)), last_at=later(7200)
            ),
            [
                (
                    "that it is down: it was given up at its deadline, 4 of 10 instances live at "
                    "the last count, at 2026-01-01T14:00:00.000000Z"
                )
            ],
        ),
        (
            history("job-1", swept(JobState.SUBMITTED)).then(UNREAD, 7200, 7230, 7260),
            ["that it is down: it was given up at its deadline, its instances never counted"],
        ),
        (
            history("job-1", *STOPPED).then(UNREAD, 7200, 7230, 7260),
            [
                (
                    "that it stayed down: every instance was seen down, but it could not be read "
                    "again after the settle window"
                ),
                NOT_CAPTURED,
            ],
        ),
        (history("job-1", *CALLED), ["that it is down: it has not ended, and is draining"]),
    ],
)
def test_what_is_not_proven_is_said(made: History, expected: list[str]) -> None:
    assert job_of(made)["not_proven"] == expected


def test_an_event_that_was_stored_without_its_facts_makes_it_say_so() -> None:
    made = History(verified().termination)
    for event in verified().events:
        made.record(**event | {"facts": None})
    made.attempts = verified().attempts
    bare = "what 5 of its 5 events rested on: it was not kept then"
    assert job_of(made)["not_proven"] == [bare]


# --- what came after the end ---------------------------------------------------------------------


def came_back(**event: Any) -> History:
    made = verified()
    made.record(at=later(90), **event)
    return made


def test_a_revived_job_makes_it_say_so() -> None:
    made = came_back(type=REVIVED, facts={"job_state": "RUNNING"})
    told = certificate_of(made, history("job-over", read(JobState.SUCCEED), instances_submitted=10))
    assert told["conclusion"] == (
        "1 of 2 jobs proven down; NOT DOWN FOR GOOD: 1 came back after the end"
    )
    job = told["jobs"][1]
    said = "that it stayed down: it was seen running again at 2026-01-01T12:01:30.000000Z"
    assert job["not_proven"] == [said]
    assert job["state"] == "verified"


def test_one_that_ran_again_and_ended_is_not_said_to_run() -> None:
    told = job_of(came_back(type=REVIVED, facts={"job_state": "FAILED"}))
    seen = "it had run again and ended when it was seen at 2026-01-01T12:01:30.000000Z"
    assert told["not_proven"] == [f"that it stayed down: {seen}"]


def test_any_event_after_the_end_is_said() -> None:
    told = job_of(came_back(type="a new one", facts={}))
    said = "that it stayed verified: a new one came after the end, at 2026-01-01T12:01:30.000000Z"
    assert told["not_proven"][0] == said


def test_a_revived_job_that_is_driven_on_has_not_ended() -> None:
    """Should its termination be taken up again."""
    made = came_back(type=REVIVED, from_state="verified", to_state="draining", evidence=1, facts={})
    made.termination = history("job-verified", *CALLED).termination
    (job,) = (json.loads(certified([made]).data))["certificate"]["jobs"]
    assert job["not_proven"] == [
        "that it is down: it has not ended, and is draining",
        "that it stayed down: it was seen running again at 2026-01-01T12:01:30.000000Z",
    ]


def test_a_revived_job_that_was_proven_down_once_more_counts_as_down() -> None:
    made = came_back(type=REVIVED, from_state="verified", to_state="draining", evidence=1, facts={})
    last = made.events[-2]
    again = {name: last[name] for name in ("to_state", "evidence", "facts", "type")}
    made.record(at=later(120), from_state="draining", **again)
    told = certificate_of(made)
    assert told["conclusion"] == "1 of 1 job proven down"
    assert "seen running again" in told["jobs"][0]["not_proven"][0]


# --- the operation -------------------------------------------------------------------------------


def test_an_operation_that_has_not_finished_is_said_to_go_on_before_all_else() -> None:
    made = certified([verified(), history("job-1", *CALLED), history("job-2")])
    begins = b'{"certificate":{"conclusion":"NOT FINISHED: 2 of 3 jobs not ended; '
    assert made.data.startswith(begins)
    told = certificate_of(verified(), history("job-1", *CALLED), history("job-2"))
    assert told["conclusion"].endswith("; 1 of 3 jobs proven down so far")
    assert (told["operation"]["state"], told["operation"]["outcome"]) == ("running", None)


def test_a_finished_operation_tells_its_outcome_and_how_many_are_down() -> None:
    told = certificate_of(*one_of_each_end())
    assert told["conclusion"] == "2 of 6 jobs proven down"
    assert {job["state"] for job in told["jobs"]} == {state for state in State if state.final}
    operation = told["operation"]
    assert (operation["outcome"], operation["state"]) == ("partial", "finished")
    assert [event["type"] for event in told["events"]] == ["accepted", "finished"]


def test_a_call_whose_answer_was_lost_stands_there_unanswered() -> None:
    sending = history("job-1", read(JobState.RUNNING, LIVE), CallStarted())
    (attempt,) = job_of(sending)["attempts"]
    assert (attempt["answered_at"], attempt["request_id"]) == (None, None)


def test_the_same_format_says_the_same_for_ever() -> None:
    """Where this fails, what is said or how is of another format, and FORMAT has to change.

    Else certificates that people keep would not be valid any more.
    """
    made = certified([verified(), history("job-1", *CALLED)])
    assert (FORMAT, made.digest) == (
        "orchestrator-certificate/1",
        "042b0e629f14639833ba044c6de5156d73ecd4e69dfec5f51413870caa0ed901",
    )
