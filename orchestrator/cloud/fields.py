"""Fields of a reply: each is valid or absent, or the reply is refused as Client.BadAnswer."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from orchestrator.cloud import error_codes
from orchestrator.domain.bounds import COUNT_MAX, INDEX_MAX, NAME_MAX, storable
from orchestrator.domain.model.batch_job import InstanceCounters, JobState
from orchestrator.domain.model.error_detail import ClientCode
from orchestrator.domain.model.machine import MachineState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator.domain.errors import CloudError

STATE_MAX: Final = 64
NO_STATE: Final = "(none)"
"""JobState of a reply that has none."""

_LEGACY_STATES: Final = {"SUCCEEDED": JobState.SUCCEED}
"""Spelling in the examples of API 2.0: cloud.tencent.com/document/api/599/12684."""

_COUNTER_KEYS: Final = {
    field.name: "".join(word.capitalize() for word in field.name.split("_")) + "Count"
    for field in dataclasses.fields(InstanceCounters)
}


def counters(value: object) -> InstanceCounters | None:
    """Return all eight counters, or None if one is invalid: a missing counter is not a zero."""
    if not isinstance(value, dict):
        return None
    counts = {name: count(value.get(key)) for name, key in _COUNTER_KEYS.items()}
    known = {name: count for name, count in counts.items() if count is not None}
    return InstanceCounters(**known) if len(known) == len(counts) else None


def count(value: object) -> int | None:
    """Return ``value`` if it is a count from 0 to COUNT_MAX, otherwise None."""
    return value if type(value) is int and 0 <= value <= COUNT_MAX else None


def optional_count(response: Mapping[str, object], key: str) -> int | None:
    """Return a count, or None for null or a missing field."""
    value = response.get(key)
    found = count(value)
    if value is not None and found is None:
        raise bad_answer(f"{key} is not a count")
    return found


def index(response: Mapping[str, object], key: str) -> int:
    """Return an index from 0 to INDEX_MAX."""
    found = count(response.get(key))
    if found is None or found > INDEX_MAX:
        raise bad_answer(f"{key} is not an index")
    return found


def state(value: object) -> JobState | None:
    """Return the state, also an undocumented one; None for null, "" and other types."""
    spelling = clean(value)
    if spelling is None:
        return None
    return _LEGACY_STATES.get(spelling) or JobState(spelling[:STATE_MAX])


def job_state(value: object) -> JobState:
    """Return the state; NO_STATE, which counts as undocumented, if there is none."""
    return state(value) or JobState(NO_STATE)


def machine_state(value: object) -> MachineState | None:
    """Return the state; None for a state that this version does not know."""
    return MachineState.__members__.get(value) if isinstance(value, str) else None


def rows(response: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    """Return the objects of a list; null is an empty list, a missing field is an error."""
    value = response.get(key, False)
    found = [] if value is None else value
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise bad_answer(f"{key} is not a list of objects")
    return found


def text(response: Mapping[str, object], key: str) -> str:
    """Return a text that must not be empty."""
    value = optional_text(response, key)
    if value is None:
        raise bad_answer(f"{key} is missing")
    return value


def name(response: Mapping[str, object], key: str) -> str:
    """Return a text of at most NAME_MAX characters, which may be part of a database key."""
    value = optional_name(response, key)
    if value is None:
        raise bad_answer(f"{key} is missing")
    return value


def optional_name(response: Mapping[str, object], key: str) -> str | None:
    """Return a text of at most NAME_MAX characters, or None."""
    value = optional_text(response, key)
    if value is not None and len(value) > NAME_MAX:
        raise bad_answer(f"{key} is too long")
    return value


def require_distinct(values: Iterable[object], key: str) -> None:
    """Refuse a list with a duplicate: the two contradict each other, or one replaces a third."""
    listed = list(values)
    if len(set(listed)) < len(listed):
        raise bad_answer(f"a {key} appears twice")


def optional_text(response: Mapping[str, object], key: str) -> str | None:
    return clean(response.get(key))


def clean(value: object) -> str | None:
    """Return a text; None for null, the empty string and other types.

    Characters that JSON can hold and a database cannot (lone surrogates and NUL) are replaced.
    """
    if not isinstance(value, str) or not value:
        return None
    return storable(value)


def require_same(response: Mapping[str, object], key: str, requested: str) -> None:
    """Refuse a reply about another object than the one that was requested."""
    if text(response, key) != requested:
        raise bad_answer(f"the reply has another {key} than the request")


def bad_answer(reason: str) -> CloudError:
    """Return the CloudError of a reply that cannot be read."""
    return error_codes.error(ClientCode.BAD_ANSWER, reason)
