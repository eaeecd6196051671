"""Hash chain of a subject's events, and the canonical form that is hashed."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.audit.hash_chain import (
    CONTENT,
    Head,
    canonical,
    chain_errors,
    lines_sha256,
    timestamp,
)
from tests.unit.domain.build import NOW, later

CANONICAL = (
    '{"at":"2026-01-01T12:00:00.000000Z","evidence":3,"facts":{"b":"é\\n","z":0},'
    '"from_state":null,"number":1,"previous":"trm_1","to_state":"queued","type":"accepted",'
    '"why":null}'
)
"""An event in the form that its hash covers."""


def chain(*types: str) -> list[dict[str, Any]]:
    head, events = Head.of_new("trm_1"), list[dict[str, Any]]()
    for seconds, each in enumerate(types):
        event = head.append({"at": timestamp(later(seconds)), "type": each})
        events.append(event | {"previous": head.hash})
        head = Head(event["number"], event["hash"])
    return events


def test_a_hash_is_that_of_the_bytes_that_the_definition_gives() -> None:
    facts = {"z": 0, "b": "é\n"}
    event = Head.of_new("trm_1").append(
        {"at": NOW, "type": "accepted", "to_state": "queued", "evidence": 3, "facts": facts}
    )
    assert event["hash"] == hashlib.sha256(CANONICAL.encode()).hexdigest()
    assert event["hash"] == "01d55ce25d8489cf791d6368e7f4ddd6f84ee763d1468c21047ddff7d92b2188"
    assert event["number"] == 1


def test_the_next_event_follows_its_hash() -> None:
    first, second = chain("a", "b")
    assert second["previous"] == first["hash"]
    covered = {name: second[name] for name in (*CONTENT, "previous")}
    assert hashlib.sha256(canonical(covered)).hexdigest() == second["hash"]
    assert second["number"] == 2


@pytest.mark.parametrize("offset_h", [0, 8, -5])
def test_a_time_is_in_utc_with_microseconds(offset_h: int) -> None:
    zone = timezone(timedelta(hours=offset_h))
    at = datetime(2026, 1, 2, 3, 4, 5, 60, tzinfo=zone) + timedelta(hours=offset_h)
    assert timestamp(at) == "2026-01-02T03:04:05.000060Z"


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
)


@given(VALUES)
def test_the_canonical_form_is_complete_and_unique(value: Any) -> None:
    assert json.loads(canonical(value)) == value
    assert canonical(json.loads(canonical(value))) == canonical(value)


@pytest.mark.parametrize("value", ["\ud800", float("nan"), float("inf"), {"\udfff": 1}])
def test_values_without_a_canonical_form(value: object) -> None:
    with pytest.raises(ValueError, match=r"surrogates|JSON compliant"):
        canonical(value)


def test_a_sets_hash_does_not_know_its_order() -> None:
    assert lines_sha256(["b", "a"]) == hashlib.sha256(b"a\nb\n").hexdigest()
    assert lines_sha256(["é", "z"]) == hashlib.sha256("z\né\n".encode()).hexdigest()


def test_a_whole_chain_has_no_breaks() -> None:
    assert list(chain_errors("trm_1", chain("a", "b", "c"))) == []
    assert list(chain_errors("trm_1", [])) == []


def test_a_chain_is_of_one_subject() -> None:
    assert list(chain_errors("trm_2", chain("a", "b"))) == [
        "event 1: the chain is broken: previous is not the id trm_2"
    ]


@pytest.mark.parametrize("name", CONTENT)
def test_the_content_of_an_event_cannot_be_changed(name: str) -> None:
    events = chain("a", "b", "c")
    events[1][name] = 7
    errors = list(chain_errors("trm_1", events))
    assert "event 2: the chain is broken: hash does not match its content" in errors
    assert all(error.startswith("event 2: ") for error in errors)


def test_an_event_cannot_be_replaced_without_the_ones_after_it() -> None:
    events = chain("a", "b", "c")
    forged = Head(1, events[0]["hash"]).append(events[1] | {"type": "x"})
    events[1] = forged | {"previous": events[0]["hash"]}
    assert list(chain_errors("trm_1", events)) == [
        "event 3: the chain is broken: previous is not the hash of event 2"
    ]


@pytest.mark.parametrize("gone", [0, 1])
def test_an_event_cannot_be_taken_out(gone: int) -> None:
    events = chain("a", "b", "c")
    del events[gone]
    errors = list(chain_errors("trm_1", events))
    assert errors[0] == f"event {gone + 1}: its number is {gone + 2}"
    assert "previous is not" in errors[1]


def test_events_cannot_change_places() -> None:
    first, second, third = chain("a", "b", "c")
    errors = list(chain_errors("trm_1", [first, third, second]))
    assert "event 2: its number is 3" in errors
    assert "event 3: its number is 2" in errors
