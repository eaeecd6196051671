"""Verification of a certificate: every change is detected, with its place."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator.domain.audit import certificate
from orchestrator.domain.audit.caveats import conclusion, verdict
from orchestrator.domain.audit.certificate_verification import verify
from orchestrator.domain.audit.hash_chain import Head, canonical, lines_sha256, sha256
from orchestrator.domain.errors import CloudErrorKind
from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.observation import CallStarted
from tests.unit.domain.build import LIVE, NOW, call_failed, later, read
from tests.unit.domain.histories import (
    CALLED,
    RUNNING,
    certified,
    failure,
    history,
    one_of_each_end,
    verified,
)

if TYPE_CHECKING:
    from collections.abc import Callable

FINISHED = certified(one_of_each_end()).data
"""A certificate of six jobs; all their requests were answered."""
UNFINISHED = certified([verified(), history("job-1", *CALLED), history("job-2")]).data
BROKEN = "the chain is broken"


def sealed(certified: Any) -> bytes:
    """Return the file that someone with knowledge of the format makes of a changed certificate."""
    text = canonical(certified)
    issued = {"at": "2026-01-01T00:00:00.000000Z", "by": "me"}
    return certificate.file([text], sha256(text), issued, certificate.seal(sha256(text), issued))


def forgery(change: Callable[[Any], object], data: bytes = FINISHED) -> bytes:
    """Return a changed file in which everything outside of the chains is computed again."""
    content = json.loads(data)["certificate"]
    change(content)
    with suppress(AttributeError, KeyError, TypeError, ValueError):  # sentences cannot be derived
        for each in content["jobs"]:
            each.update(certificate.derived(each))
        content["conclusion"] = conclusion([verdict(each) for each in content["jobs"]])
        content["set"]["sha256"] = lines_sha256(content["set"]["job_ids"])
    return sealed(content)


def forged(change: Callable[[Any], object], data: bytes = FINISHED) -> list[str]:
    """Return the faults found in a forgery."""
    return verify(forgery(change, data))


def job(certified: Any, job_id: str) -> Any:
    return next(each for each in certified["jobs"] if each["job_id"] == job_id)


# --- bytes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [FINISHED, UNFINISHED])
def test_an_issued_certificate_is_valid(data: bytes) -> None:
    assert verify(data) == []


@given(st.sampled_from([FINISHED, UNFINISHED]), st.data())
def test_any_flipped_byte_is_found(data: bytes, chance: st.DataObject) -> None:
    at = chance.draw(st.integers(0, len(data) - 1))
    flip = chance.draw(st.integers(1, 255))
    assert verify(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :])


def test_each_bit_of_a_small_one_counts() -> None:
    data = certified([history("job-1")]).data
    for at in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            assert verify(bytes(flipped)), f"bit {bit} of byte {at}"


@given(st.data())
def test_bytes_more_or_fewer_are_found(chance: st.DataObject) -> None:
    begin = chance.draw(st.integers(0, len(FINISHED)))
    end = chance.draw(st.integers(begin, len(FINISHED)))
    put = chance.draw(st.binary(max_size=5) | st.sampled_from([b" ", b"\n", b",", b"0", b"{}"]))
    assume(FINISHED[begin:end] != put)
    assert verify(FINISHED[:begin] + put + FINISHED[end:])


@given(st.binary() | st.text().map(str.encode))
def test_another_document_is_not_valid(data: bytes) -> None:
    assert verify(data)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "file: it is not JSON in UTF-8: Expecting value"),
        (b"\xff", "file: it is not JSON in UTF-8: 'utf-8' codec"),
        (b"[" * 100_000, "file: it is nested too deeply"),
        (b"1" * 5000, "file: it is not JSON in UTF-8: Exceeds the limit"),
        (b"{}", "file: certificate is missing"),
        (b"[]", "file: must be an object"),
        (FINISHED[:-1], f"file: it is not in canonical form, from byte {len(FINISHED) - 1} on"),
        (FINISHED + b"\n", f"file: it is not in canonical form, from byte {len(FINISHED)} on"),
        (b" " + FINISHED, "file: it is not in canonical form, from byte 0 on"),
        (
            FINISHED.replace(b"/1", b"/2"),
            "certificate: its format is not orchestrator-certificate/1",
        ),
    ],
    ids=lambda value: str(value[:12]),
)
def test_a_fault_of_a_file_is_described(data: bytes, expected: str) -> None:
    assert verify(data)[0].startswith(expected)


@pytest.mark.parametrize("nested", [50, 200, 400, 800, 940, 960, 980, 990])
def test_nesting_as_deep_as_can_just_be_read_is_reported(nested: int) -> None:
    """Depths around the recursion limit of the interpreter."""
    deep = "[" * nested + "]" * nested
    marked = json.loads(FINISHED)
    marked["certificate"]["events"][0]["facts"]["jobs"] = "DEEP"
    marked["certificate"]["jobs"][0]["events"][1]["facts"] = {"answer": {"code": "DEEP"}}
    assert verify(json.dumps(marked).replace('"DEEP"', deep).encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


SENSIBLE = st.none() | st.booleans() | st.integers() | st.sampled_from(["", "x", [], {}])


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return each container in ``value`` with each of its keys or indices."""
    found: list[tuple[Any, Any]] = []
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            found += [(value, key), *places(value[key])]
    return found


@given(st.data())
def test_no_value_in_any_place_makes_the_verification_raise(chance: st.DataObject) -> None:
    document = json.loads(FINISHED)
    container, key = chance.draw(st.sampled_from(places(document)))
    put = chance.draw(JSON)
    assume(repr(container[key]) != repr(put))
    container[key] = put
    found = verify(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())
    assert found
    assert all(": " in fault for fault in found)


# --- changes with a new digest -----------------------------------------------------------------


def nothing(_: object) -> None:
    """Change nothing."""


@given(st.sampled_from(["set", "take out", "put in", "twice"]), st.data())
@settings(max_examples=300)
def test_nothing_in_a_finished_one_can_be_changed_under_a_new_digest(
    way: str, chance: st.DataObject
) -> None:
    """All sentences, the conclusion and the set's hash are derived from the changed content."""
    made = chance.draw(SENSIBLE)
    number = chance.draw(st.integers(0, len(places(json.loads(FINISHED)["certificate"])) - 1))

    def change(content: Any) -> None:
        container, key = places(content)[number]
        if way == "twice" and isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        elif way == "take out":
            del container[key]
        elif way == "put in" and isinstance(container, dict):
            container["put in"] = made
        else:
            container[key] = made

    file = forgery(change)
    assume(file != forgery(nothing))
    assert verify(file)


def swap(name: str) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        one, other = job(content, "job-verified"), job(content, "job-refused")
        one[name], other[name] = other[name], one[name]

    return change


@pytest.mark.parametrize("name", ["termination_id", "state", "attempts", "events", "rests_on"])
def test_two_jobs_cannot_swap_what_they_have(name: str) -> None:
    faults = forged(swap(name))
    for job_id in ("job-verified", "job-refused"):
        assert any(fault.startswith(f"job {job_id}: ") for fault in faults)


def test_two_jobs_cannot_swap_their_names() -> None:
    def change(content: Any) -> None:
        swap("job_id")(content)
        content["jobs"].sort(key=lambda each: each["job_id"])

    faults = forged(change)
    assert "job job-verified: event 1: job_id differs from the certificate" in faults
    assert "operation op_1: event 1: terminations_sha256 differs from the certificate" in faults


def test_a_job_cannot_be_left_out() -> None:
    def change(content: Any) -> None:
        content["jobs"].remove(job(content, "job-refused"))
        content["set"]["job_ids"].remove("job-refused")

    assert forged(change) == [
        "operation op_1: event 1: jobs differs from the certificate",
        "operation op_1: event 1: jobs_sha256 differs from the certificate",
        "operation op_1: event 1: terminations_sha256 differs from the certificate",
        "operation op_1: its finished event counts other states of its jobs",
    ]


def test_another_termination_of_the_same_job_cannot_stand_for_it() -> None:
    """A termination of an earlier operation, with a good end."""
    other = history(
        "job-refused", read(JobState.SUCCEED), termination_id="trm_2", instances_submitted=10
    )
    entry = json.loads(other.entry().text)
    faults = forged(lambda content: job(content, "job-refused").update(entry))
    assert faults == [
        "operation op_1: event 1: terminations_sha256 differs from the certificate",
        "operation op_1: its finished event counts other states of its jobs",
    ]


@pytest.mark.parametrize("gone", range(5))
def test_no_event_can_be_taken_out(gone: int) -> None:
    faults = forged(lambda content: job(content, "job-verified")["events"].pop(gone))
    assert faults
    where = f"job job-verified: event {gone + 1}: {BROKEN}"
    assert any(fault.startswith(where) for fault in faults) or gone == 4
    if gone == 4:
        assert "job job-verified: state is verified, but its events end at settling" in faults


def test_all_events_cannot_be_taken_out() -> None:
    faults = forged(lambda content: job(content, "job-verified")["events"].clear())
    assert "job job-verified: it has no event" in faults


def test_an_end_that_is_taken_back_shows_in_the_operation() -> None:
    """State, evidence and sentences are changed to match."""

    def change(content: Any) -> None:
        each = job(content, "job-verified")
        each["events"].pop()
        each |= {"state": "settling", "evidence": 3}

    faults = forged(change)
    assert "operation op_1: it has finished, but 1 of its jobs have not ended" in faults


def test_an_event_with_a_new_hash_is_not_followed_by_the_next() -> None:
    def change(content: Any) -> None:
        event = job(content, "job-verified")["events"][2]
        event["facts"]["answer"]["request_id"] = "another"
        head = Head(event["number"] - 1, event["previous"])
        event["hash"] = head.append(event)["hash"]

    faults = forged(change)
    assert f"job job-verified: event 4: {BROKEN}: previous is not the hash of event 3" in faults
    assert "job job-verified: attempt 1: it differs from event 3" in faults


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("action", "TerminateTaskInstance"),
        ("target", "job-other"),
        ("number", 2),
        ("sent_at", "2026-01-01T11:00:00.000000Z"),
        ("answered_at", None),
        ("outcome", "interrupted"),
        ("code", "InternalError"),
        ("request_id", "another"),
    ],
)
def test_an_answered_attempt_is_as_the_events_tell(name: str, value: object) -> None:
    faults = forged(
        lambda content: job(content, "job-verified")["attempts"][0].update({name: value})
    )
    assert faults
    assert all(fault.startswith("job job-verified: attempt 1: it") for fault in faults)


def test_an_attempt_cannot_be_removed_or_inserted() -> None:
    faults = forged(lambda content: job(content, "job-lost")["attempts"].pop())
    assert "job job-lost: attempt 2: it differs from event 5" in faults

    def change(content: Any) -> None:
        attempts = job(content, "job-verified")["attempts"]
        attempts.append(attempts[0] | {"number": 2})

    assert forged(change) == ["job job-verified: attempt 2: no event records it"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            {"evidence": 3},
            "job job-verified: evidence 3 does not match its last event",
        ),
        (
            {"rests_on": {}},
            "job job-verified: rests_on does not match the facts of its last event",
        ),
        (
            {"state": "already_finished"},
            "job job-verified: state is already_finished, but its events end at verified",
        ),
        (
            {"termination_id": "trm_2"},
            f"job job-verified: event 1: {BROKEN}: previous is not the id trm_2",
        ),
        ({"state": "gone"}, "job job-verified, state: 'gone' is not a valid value"),
        ({"evidence": True}, "job job-verified, evidence: True is not a valid value"),
        ({"events": {}}, "job job-verified, events: must be a list"),
        ({"more": 1}, "job job-verified: unknown member 'more'"),
    ],
)
def test_facts_about_a_job_must_match_its_events(change: dict[str, object], fault: str) -> None:
    assert fault in forged(lambda content: job(content, "job-verified").update(change))


@pytest.mark.parametrize("name", ["not_proven", "evidence_means"])
def test_no_sentence_can_be_left_out_or_changed(name: str) -> None:
    content = json.loads(FINISHED)["certificate"]
    each = job(content, "job-over")
    each[name] = type(each[name])()
    assert verify(sealed(content)) == [
        f"job job-over: {name} does not follow from the other members"
    ]


def test_the_conclusion_follows_from_the_jobs() -> None:
    content = json.loads(FINISHED)["certificate"]
    content["conclusion"] = "6 of 6 jobs proven stopped"
    assert verify(sealed(content)) == ["certificate: conclusion does not follow from the jobs"]


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("id", "op_2", f"event 1: {BROKEN}: previous is not the id op_2"),
        ("account", "other", "event 1: account differs from the certificate"),
        ("region", "other", "event 1: region differs from the certificate"),
        ("requested_by", "you", "event 1: requested_by differs from the certificate"),
        ("reason", "none", "event 1: its time or its reason differs from the certificate"),
        ("created_at", "x", "event 1: its time or its reason differs from the certificate"),
        ("finished_at", "x", "state, finished_at or outcome does not match its finished event"),
        ("state", "running", "state, finished_at or outcome does not match its finished event"),
        ("outcome", "verified", "the outcome verified does not follow from the states of its jobs"),
    ],
)
def test_facts_about_the_operation_must_match_its_events(name: str, value: str, fault: str) -> None:
    faults = forged(lambda content: content["operation"].update({name: value}))
    assert f"operation {value if name == 'id' else 'op_1'}: {fault}" in faults


def test_an_end_cannot_be_made_up_nor_left_out() -> None:
    def end(content: Any) -> None:
        ending = {"state": "finished", "finished_at": "x", "outcome": "verified"}
        content["operation"].update(ending)

    fault = (
        "operation op_1: state, finished_at or outcome shows an end, but it has no finished event"
    )
    assert forged(end, UNFINISHED) == [fault]
    faults = forged(lambda content: content["events"].pop())
    assert fault in faults


def test_the_set_is_that_of_the_jobs() -> None:
    content = json.loads(FINISHED)["certificate"]
    content["set"]["job_ids"] = ["job-lost", "job-none", "job-lost"]
    found = verify(sealed(content))
    assert "set: job_ids is not sorted, or contains an id twice" in found
    assert "set: sha256 does not match job_ids" in found
    assert "set: job job-none is not in jobs" in found
    assert "jobs: job job-refused is not in the set" in found
    content = json.loads(FINISHED)["certificate"]
    content["jobs"].reverse()
    assert verify(sealed(content)) == ["jobs: not in the order of the set"]


def test_the_time_and_the_issuer_are_sealed() -> None:
    changed = FINISHED.replace(b'"by":"orchestrator 1"', b'"by":"orchestrator 2"')
    assert verify(changed) == [
        "file: seal does not match digest and issued: one of them was changed"
    ]


def test_a_fault_in_one_job_hides_none_in_another() -> None:
    def change(content: Any) -> None:
        job(content, "job-over")["state"] = None
        job(content, "job-lost")["evidence"] = 5

    faults = forged(change)
    assert any(fault.startswith("job job-over, state: ") for fault in faults)
    assert "job job-lost: evidence 5 does not match its last event" in faults


def test_an_attempt_whose_answer_was_lost_is_none_the_worse() -> None:
    lost = failure(CloudErrorKind.OUTCOME_UNKNOWN, "Client.Timeout")
    made = history(
        "job-1",
        *(RUNNING, CallStarted(), call_failed(lost)),
        read(JobState.RUNNING, LIVE, next_action="TERMINATING", at=later(1)),
    )
    assert verify(certified([made]).data) == []
    assert made.events[-1]["at"] == NOW


def test_calls_for_single_instances_are_listed_between_those_of_events() -> None:
    data = forgery(
        lambda content: job(content, "job-lost").update(
            attempts=_with_two(job(content, "job-lost"))
        )
    )
    assert verify(data) == []
    faults = forged(lambda content: job(content, "job-lost")["attempts"].pop(), data)
    assert "job job-lost: attempt 2: it differs from event 5" in faults
    faults = forged(lambda content: job(content, "job-lost")["attempts"].pop(1), data)
    assert "job job-lost: attempt 2: its number is 3" in faults


def _with_two(lost: Any) -> list[Any]:
    """Return its two attempts, and two between them: for an instance and for a machine."""
    first, second = lost["attempts"]
    for_one = first | {"action": "TerminateTaskInstance", "target": "task/7"}
    attempts = [first, for_one, for_one | {"action": "TerminateInstances"}, second]
    return [attempt | {"number": place} for place, attempt in enumerate(attempts, start=1)]
