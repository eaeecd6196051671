"""Hash chain of events: the hash of each event covers the hash of the event before it.

Every subject (a termination or an operation) has its own chain, so that no writer waits for the
writer of another subject. Everything is hashed in one form, which other programs can reproduce:

* **Canonical JSON** as in RFC 8785: the members of an object are sorted by name, there is no white
  space, only what must be escaped is escaped, and the encoding is UTF-8. Numbers are integers below
  2^53 and names are ASCII, so ``jq -cS`` writes the same bytes (except U+007F, which it escapes).
* **Times** are strings, RFC 3339 in UTC with six decimals of a second:
  ``2026-01-01T12:00:00.000000Z``.
* **An event** is an object with the members of :data:`CONTENT` (null if there is no value) and
  ``previous``: the hash of the event before it or, for the first event, the id of its subject. Its
  hash is the SHA-256 of the canonical form of that object, in lower-case hexadecimal digits.

The chain reveals a change unless all later hashes were computed again; nothing is signed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

CONTENT: Final = (
    "number",
    "at",
    "type",
    "from_state",
    "to_state",
    "evidence",
    "why",
    "facts",
)
"""Members that the hash of an event covers, besides ``previous``.

``number`` counts the events of a subject from 1.
"""
ACCEPTED: Final = "accepted"
"""The type of the first event of every subject."""


def timestamp(at: datetime) -> str:
    """Return a time in the form in which it is hashed; ``at`` is aware."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def canonical(value: object) -> bytes:
    """Return canonical JSON.

    Raise ValueError for a value without a canonical form, such as a lone surrogate.
    """
    return _ENCODER.encode(value).encode()


def _encode_time(value: object) -> str:
    assert isinstance(value, datetime)
    return timestamp(value)


_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=False,
    allow_nan=False,
    sort_keys=True,
    separators=(",", ":"),
    default=_encode_time,
)


def sha256(*parts: bytes) -> str:
    """Return the SHA-256 of the concatenated parts, in lower-case hexadecimal digits."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part)
    return hashed.hexdigest()


def lines_sha256(lines: Iterable[str]) -> str:
    """Return the SHA-256 of a set: its members sorted by their bytes, each followed by LF.

    ``LC_ALL=C sort | sha256sum`` computes the same.
    """
    return sha256("".join(f"{line}\n" for line in sorted(lines)).encode())


@dataclass(frozen=True, slots=True)
class Head:
    """Number and hash of the last event of a chain."""

    number: int
    hash: str

    @classmethod
    def of_new(cls, subject_id: str) -> Head:
        """Return the head of a subject that has no event yet."""
        return cls(0, subject_id)

    def append(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``event`` as the next event of the chain, with its number and hash.

        Members that are null may be missing from ``event``.
        """
        content = {name: event.get(name) for name in CONTENT} | {"number": self.number + 1}
        return dict(event) | content | {"hash": _hash(content, self.hash)}


def _hash(content: Mapping[str, Any], previous: str) -> str:
    return sha256(canonical({**content, "previous": previous}))


def chain_errors(subject_id: str, events: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield an error for each place where ``events`` is not the subject's complete chain in order.

    An event has the members of CONTENT, ``previous`` and ``hash``, and may have others.
    """
    head = Head.of_new(subject_id)
    for expected, event in enumerate(events, start=1):
        where = f"event {expected}"
        if event["number"] != expected:
            yield f"{where}: its number is {event['number']}"
        if event["previous"] != head.hash:
            before = f"the hash of event {head.number}" if head.number else f"the id {subject_id}"
            yield f"{where}: the chain is broken: previous is not {before}"
        content = {name: event[name] for name in CONTENT}
        if event["hash"] != _hash(content, event["previous"]):
            yield f"{where}: the chain is broken: hash does not match its content"
        head = Head(expected, event["hash"])
