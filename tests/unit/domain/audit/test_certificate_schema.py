"""The published JSON Schema of a certificate, and the faults that the check by it names."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast

import pytest
from jsonschema import Draft202012Validator

from orchestrator.domain.audit import certificate
from orchestrator.domain.audit.certificate_schema import ECHO_MAX, SCHEMA, shape_faults
from orchestrator.domain.audit.event_facts import OBSERVATIONS, machines
from orchestrator.domain.audit.hash_chain import CONTENT
from orchestrator.domain.decisions import evidence
from orchestrator.domain.model.batch_job import InstanceCounters
from orchestrator.domain.model.lifecycle import State
from tests.unit.domain.histories import certified, history, one_of_each_end, verified

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MADE = certified(one_of_each_end())
DEFS = SCHEMA["$defs"]
JOB = DEFS["job"]["properties"]
EVENT = DEFS["event"]["properties"]


def changed(change: Callable[[Any], object]) -> Any:
    document = json.loads(MADE.data)
    change(document)
    return document


def faults(change: Callable[[Any], object]) -> list[str]:
    return [fault for _, fault in shape_faults(changed(change))]


# --- the schema ----------------------------------------------------------------------------------


def test_the_schema_is_one_of_its_draft() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_it_refers_to_nothing_outside_of_it() -> None:
    def references(schema: object) -> Iterator[str]:
        for name, value in schema.items() if isinstance(schema, dict) else ():
            if name == "$ref":
                yield value
            yield from references(value)

    assert re.fullmatch(r"urn:[a-z:]+:1", SCHEMA["$id"])
    assert {each.removeprefix("#/$defs/") for each in references(SCHEMA)} == set(DEFS)


def test_it_has_the_members_that_certificates_have() -> None:
    entry = json.loads(history("job-1").entry().text)
    counters = JOB["rests_on"]["properties"]["instances"]
    assert sorted(JOB) == sorted(entry)
    assert list(JOB["attempts"]["items"]["properties"]) == list(certificate.ATTEMPT)
    assert sorted(JOB["rests_on"]["properties"]) == sorted(OBSERVATIONS)
    assert list(counters["properties"]) == [field.name for field in fields(InstanceCounters)]
    assert list(EVENT) == [*CONTENT, "previous", "hash"]
    known = cast("dict[str, object]", machines(verified().termination)["machines"])
    assert list(EVENT["facts"]["properties"]["machines"]["properties"]) == list(known)
    assert list(DEFS["operation"]["properties"]) == list(certificate.OPERATION)


def test_it_names_the_states_levels_and_format_that_there_are() -> None:
    assert JOB["state"]["enum"] == list(State)
    assert EVENT["from_state"]["enum"] == EVENT["to_state"]["enum"] == [*State, None]
    levels = range(JOB["evidence"]["minimum"], JOB["evidence"]["maximum"] + 1)
    assert list(levels) == list(evidence.MEANINGS)
    assert DEFS["certificate"]["properties"]["format"]["const"] == certificate.FORMAT


def test_it_asks_for_every_member_but_those_of_observations_and_facts() -> None:
    def objects(schema: object) -> Iterator[Any]:
        for value in schema.values() if isinstance(schema, dict) else ():
            yield from objects(value)
        if isinstance(schema, dict) and isinstance(schema.get("properties"), dict):
            yield schema

    partial = [each for each in objects(SCHEMA) if list(each["properties"]) != each.get("required")]
    assert partial == [JOB["rests_on"], EVENT["facts"]]


# --- the faults ----------------------------------------------------------------------------------


def test_every_fault_is_named_with_its_place_and_always_in_this_order() -> None:
    def change(document: Any) -> None:
        one, other = document["certificate"]["jobs"][:2]
        one["attempts"] = [{**one["attempts"][0], "number": "1"}]
        del one["attempts"][0]["action"], one["attempts"][0]["code"]
        one["events"][1]["to_state"] = "gone"
        known = one["events"][2]["facts"]["machines"]
        known |= {"total": 1.0, "more": 1, "again": 2}
        del known["up"]
        one["rests_on"]["instances"]["running"] = True
        one["not_proven"] = [None]
        del other["job_id"], other["state"]
        document["certificate"]["jobs"][2] = []
        document["certificate"]["set"] |= {"job_ids": {}, "sha256": "x\x9b"}
        document["digest"] = "0" * 65
        document["issued"] = None

    found = faults(change)
    assert found == faults(change)
    assert found == [
        "job job-lost, rests_on, instances, running: True is not a valid value",
        "job job-lost, not_proven 1: None is not a valid value",
        "job job-lost, attempts 1, number: '1' is not a valid value",
        "job job-lost, attempts 1: action is missing",
        "job job-lost, attempts 1: code is missing",
        "job job-lost, events 2, to_state: 'gone' is not a valid value",
        "job job-lost, events 3, facts, machines, total: 1.0 is not a valid value",
        "job job-lost, events 3, facts, machines: up is missing",
        "job job-lost, events 3, facts, machines: unknown member 'again'",
        "job job-lost, events 3, facts, machines: unknown member 'more'",
        "job 2: job_id is missing",
        "job 2: state is missing",
        "certificate, jobs 3: must be an object",
        "certificate, set, job_ids: must be a list",
        "certificate, set, sha256: 'x\\x9b' is not a valid value",
        f"file, digest: '{'0' * (ECHO_MAX - 1)}... is not a valid value",
        "file, issued: must be an object",
    ]


def test_each_fault_says_which_part_it_spoils() -> None:
    """A value of the wrong type spoils the part around it, and no other."""

    def change(document: Any) -> None:
        document["certificate"]["jobs"][0]["state"] = 1
        document["certificate"]["jobs"][1] = 1
        document["seal"] = 1

    assert [part for part, _ in shape_faults(changed(change))] == [0, "certificate", "file"]
    assert [part for part, _ in shape_faults([])] == ["file"]
    assert [part for part, _ in shape_faults({**json.loads(MADE.data), "certificate": 1})] == [
        "file"
    ]


@pytest.mark.parametrize("place", ["evidence", "number"])
def test_a_number_with_a_fraction_is_no_integer_whatever_json_schema_says(place: str) -> None:
    """Its canonical form would be another."""

    def change(document: Any) -> None:
        job = document["certificate"]["jobs"][0]
        (job if place == "evidence" else job["attempts"][0])[place] = 1.0

    assert Draft202012Validator(SCHEMA).is_valid(changed(change))
    (fault,) = faults(change)
    assert fault.endswith(f"{place}: 1.0 is not a valid value")
