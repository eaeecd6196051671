"""The chain of events: each one's hash covers the event before it.

Every subject, a termination or an operation, has a chain of its own, so that no writer waits for
another one's subject.  All that is hashed is hashed in one form, which others can make as well:

* **Canonical JSON** is that of RFC 8785: the members of an object sorted by name, no white space,
  nothing escaped that need not be, UTF-8.  Of its numbers only whole ones below 2^53 occur, and
  names are ASCII, so that ``jq -cS`` writes the same (of all but U+007F, which it escapes).
* **Times** are strings, RFC 3339 in UTC with six digits of a second:
  ``2026-01-01T12:00:00.000000Z``.
* **An event** is an object with the members of :data:`CONTENT` (null where there is nothing) and
  ``previous``: the hash of the event before it, and of the first one the id of its subject.  Its
  hash is the SHA-256 of the canonical form of that object, in lower-case hexadecimal digits.

Hashes show what was changed by somebody who did not compute all later ones anew; nothing is signed.
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
"""What an event's hash covers, beside ``previous``; ``number`` counts a subject's events from 1."""
ACCEPTED: Final = "accepted"
"""The type of the first event of every subject."""


def timestamp(at: datetime) -> str:
    """A time as it is hashed; ``at`` is aware."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def canonical(value: object) -> bytes:
    """Canonical JSON; raises ValueError for what has none, a lone surrogate say."""
    text = json.dumps(
        value,
        ensure_ascii=False,
        allow_nan=False,
        sort_keys=True,
        separators=(",", ":"),
        default=_time,
    )
    return text.encode()


def _time(value: object) -> str:
    assert isinstance(value, datetime)
    return timestamp(value)


def sha256(*parts: bytes) -> str:
    """Of all parts, one after the other; in lower-case hexadecimal digits."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part)
    return hashed.hexdigest()


def lines_sha256(lines: Iterable[str]) -> str:
    """SHA-256 of a set: its members sorted by their bytes, each a line that LF ends.

    As ``LC_ALL=C sort | sha256sum`` has it.
    """
    return sha256("".join(f"{line}\n" for line in sorted(lines)).encode())


@dataclass(frozen=True, slots=True)
class Head:
    """The last event of a chain: its number and its hash."""

    number: int
    hash: str

    @classmethod
    def of_new(cls, subject_id: str) -> Head:
        """Where the chain of a subject begins that has no event yet."""
        return cls(0, subject_id)

    def linked(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """``event``, which may lack what is null, as the next one: with number and hash."""
        content = {name: event.get(name) for name in CONTENT} | {"number": self.number + 1}
        return dict(event) | content | {"hash": _hash(content, self.hash)}


def _hash(content: Mapping[str, Any], previous: str) -> str:
    return sha256(canonical({**content, "previous": previous}))


def breaks(subject_id: str, events: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Each place where this is not the subject's chain, whole and in order.

    An event has the members of CONTENT, ``previous`` and ``hash``, and may have others.
    """
    head = Head.of_new(subject_id)
    for expected, event in enumerate(events, start=1):
        where = f"event {expected}"
        if event["number"] != expected:
            yield f"{where}: it is numbered {event['number']}"
        if event["previous"] != head.hash:
            before = f"event {expected - 1}" if head.number else f"the id {subject_id}"
            yield f"{where}: the chain is broken: it does not follow {before}"
        content = {name: event[name] for name in CONTENT}
        if event["hash"] != _hash(content, event["previous"]):
            yield f"{where}: the chain is broken: its hash is not that of its content"
        head = Head(expected, event["hash"])
