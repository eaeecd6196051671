"""Certificate of an operation: what is proven of its jobs, by which observations, what is not.

The file is canonical JSON (:mod:`.hash_chain`) and a line feed, so every byte counts, including
white space::

    {"certificate": {
       "conclusion": one sentence; it begins with NOT FINISHED while a job has not ended,
       "events":     those of the operation,
       "format":     FORMAT; any change of wording in a sentence needs a new format name,
       "jobs":       sorted by job_id, each {
           "job_id", "termination_id", "state",
           "evidence", "evidence_means",   the level and its meaning
           "rests_on":   the observations (:mod:`.event_facts`) that state and level are based on,
           "not_proven": sentences,
           "attempts":   the requests: {"number", "action", "target", "sent_at", "answered_at",
                         "outcome", "code", "request_id": the cloud's RequestId},
           "events":     those of the termination},
       "operation":  {"id", "account", "region", "reason", "requested_by", "created_at",
                      "finished_at", "state", "outcome"},
       "set":        {"job_ids": sorted, "sha256"}},
     "digest": SHA-256 of the canonical form of "certificate",
     "issued": {"at", "by": the program and its version},
     "seal":   SHA-256 of the canonical form of {"digest", "issued"}}

``certificate.schema.json`` has the same as a JSON Schema.

An event has the members that its hash covers (:data:`.hash_chain.CONTENT`), ``previous`` and
``hash``. ``set.sha256`` is the SHA-256 of the ids sorted by their bytes, each followed by a line
feed::

    jq -r '.certificate.set.job_ids[]' FILE | sha256sum

The first event of each chain ties the other members to it: that of a termination contains its job;
that of the operation contains the set, with the termination of each job. If a request was answered,
the event that followed the reply contains its RequestId. Requests without a reply, requests for
single instances (TerminateTaskInstance, TerminateInstances) and the observations of a job that has
not ended are protected by the digest alone.

Hashes reveal a change of a certificate, or of the database behind it, unless all later hashes were
computed again. A certificate that is issued again has the same digest as long as nothing has
happened to the operation: anyone who kept the digest elsewhere detects even that change. Nothing is
signed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from orchestrator.domain.audit.caveats import JobVerdict, conclusion, not_proven, verdict
from orchestrator.domain.audit.event_facts import observations
from orchestrator.domain.audit.hash_chain import CONTENT, canonical, lines_sha256, sha256, timestamp
from orchestrator.domain.decisions import evidence

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from orchestrator.domain.model.termination import Termination

FORMAT: Final = "orchestrator-certificate/1"
ATTEMPT: Final = (
    "number",
    "action",
    "target",
    "sent_at",
    "answered_at",
    "outcome",
    "code",
    "request_id",
)
OPERATION: Final = (
    "id",
    "account",
    "region",
    "reason",
    "requested_by",
    "created_at",
    "finished_at",
    "state",
    "outcome",
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One job of a certificate, in canonical form."""

    job_id: str
    verdict: JobVerdict
    text: bytes


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate as a file, and its digest."""

    data: bytes
    digest: str


def entry(
    termination: Termination,
    attempts: Sequence[Mapping[str, Any]],
    events: Sequence[Mapping[str, Any]],
) -> Entry:
    """Return the entry of a job.

    Attempts have the members of ATTEMPT, events those of CONTENT and ``hash``; they may have more.
    """
    primary: dict[str, Any] = {
        "job_id": termination.job_id,
        "termination_id": termination.id,
        "state": termination.state,
        "evidence": termination.evidence,
        "rests_on": observations(termination),
        "attempts": [_plain(attempt, ATTEMPT) for attempt in attempts],
        "events": _linked(termination.id, events),
    }
    text = canonical(primary | derived(primary))
    return Entry(termination.job_id, verdict(primary), text)


def derived(job: Mapping[str, Any]) -> dict[str, object]:
    """Return the members of an entry that are sentences; they are derived from the others."""
    return {
        "evidence_means": evidence.MEANINGS[job["evidence"]],
        "not_proven": not_proven(job),
    }


def certificate(
    operation: Mapping[str, Any],
    events: Sequence[Mapping[str, Any]],
    entries: Iterable[Entry],
    *,
    issued_at: datetime,
    issued_by: str,
) -> Certificate:
    """Return the certificate of an operation.

    ``operation`` has the members of OPERATION, ``events`` those that :func:`entry` requires.
    """
    jobs = sorted(entries, key=lambda each: each.job_id)
    job_ids = [each.job_id for each in jobs]
    parts = _object(
        {
            "conclusion": [canonical(conclusion([each.verdict for each in jobs]))],
            "events": [canonical(_linked(operation["id"], events))],
            "format": [canonical(FORMAT)],
            "jobs": _array(each.text for each in jobs),
            "operation": [canonical(_plain(operation, OPERATION))],
            "set": [canonical({"job_ids": job_ids, "sha256": lines_sha256(job_ids)})],
        }
    )
    digest = sha256(*parts)
    issued = {"at": issued_at, "by": issued_by}
    return Certificate(file(parts, digest, issued, seal(digest, issued)), digest)


def seal(digest: str, issued: Mapping[str, object]) -> str:
    return sha256(canonical({"digest": digest, "issued": issued}))


def file(
    certified: Iterable[bytes], digest: str, issued: Mapping[str, object], sealed: str
) -> bytes:
    """Return the whole file; ``certified`` is the canonical form of the certificate, in parts."""
    parts = _object(
        {
            "certificate": certified,
            "digest": [canonical(digest)],
            "issued": [canonical(issued)],
            "seal": [canonical(sealed)],
        }
    )
    return b"".join([*parts, b"\n"])


def _object(members: Mapping[str, Iterable[bytes]]) -> list[bytes]:
    """Return the canonical form of an object, in parts; its members are canonical already."""
    named = [[canonical(name), b":", *text] for name, text in sorted(members.items())]
    return [b"{", *_separated(named), b"}"]


def _array(texts: Iterable[bytes]) -> list[bytes]:
    return [b"[", *_separated([text] for text in texts), b"]"]


def _separated(groups: Iterable[Sequence[bytes]]) -> Iterator[bytes]:
    for number, group in enumerate(groups):
        if number:
            yield b","
        yield from group


def _linked(subject_id: str, events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    before = [subject_id, *(event["hash"] for event in events)]
    return [
        _plain(event, CONTENT) | {"previous": previous, "hash": event["hash"]}
        for previous, event in zip(before, events, strict=False)
    ]


def _plain(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the members with these names; times are in the form in which they are hashed."""
    return {
        name: timestamp(value) if isinstance(value, datetime) else value
        for name, value in ((name, values[name]) for name in names)
    }
