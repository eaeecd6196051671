"""Storing of operations: one per idempotency key, with one live termination per job."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import fields
from datetime import UTC, datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Row, bindparam, select, update

from orchestrator.domain.audit.hash_chain import ACCEPTED, lines_sha256
from orchestrator.domain.errors import IdempotencyKeyReused
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.operation import KEY_LIFETIME
from orchestrator.domain.model.termination import OnSubmitted, Termination, TerminationRequest
from orchestrator.services.ports import SubmissionResult
from orchestrator.store.chunks import chunks
from orchestrator.store.mapping.termination_rows import to_row
from orchestrator.store.records.operation_records import record_of_new
from orchestrator.store.records.partition_states import read_partitions
from orchestrator.store.schema import operation_terminations, operations, terminations
from orchestrator.store.sql import greatest
from orchestrator.store.terminations import milestones, turns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestrator.domain.model.operation import NewOperation
    from orchestrator.services.ports import OperationRecord
    from orchestrator.store.database.transaction import Transaction


Requested = tuple["NewOperation", "Sequence[str]"]
"""An operation to be stored, and a new id for the termination of each of its jobs."""
_REQUEST: Final = tuple(field.name for field in fields(TerminationRequest))
_EXAMPLE: Final = Termination(
    id="",
    account="",
    region="",
    partition="",
    job_id="",
    request=TerminationRequest(
        created_at=datetime.min.replace(tzinfo=UTC), settle_s=0.0, give_up_after_s=0.0
    ),
)
_NEW: Final = {
    name: value
    for name, value in to_row(_EXAMPLE).items()
    if not terminations.c[name].nullable and terminations.c[name].server_default is None
}
"""The columns of a new termination that have no default in the table."""


async def create(
    transaction: Transaction, requested: Sequence[Requested]
) -> list[SubmissionResult]:
    """Store operations; raises IdempotencyKeyReused if a key belongs to another request.

    Live terminations are locked, and new ones stored, in the order of the job ids. Of two replicas
    with the same jobs, one then waits for the other. Requests of a group that share jobs may
    deadlock with those of another replica; one group is then stored again.
    """
    results: list[SubmissionResult] = []
    for independent in _independent(requested):
        results += await _create(transaction, independent)
    return results


def _independent(requested: Sequence[Requested]) -> Iterator[list[Requested]]:
    """Divide requests, in their order, into groups without a common job or idempotency key."""
    group: list[Requested] = []
    claimed: set[tuple[str, ...]] = set()
    for each in requested:
        new, _ = each
        claims: set[tuple[str, ...]] = {(new.account, new.region, job_id) for job_id in new.job_ids}
        if new.idempotency_key is not None:
            claims.add((new.requested_by, new.idempotency_key))
        if not claimed.isdisjoint(claims):
            yield group
            group, claimed = [], set()
        group.append(each)
        claimed |= claims
    yield group


async def _create(
    transaction: Transaction, requested: Sequence[Requested]
) -> list[SubmissionResult]:
    """Store operations that have no job and no idempotency key in common."""
    earlier = await _find_by_key(transaction, [new for new, _ in requested])
    stored = [each for each in requested if each[0].id not in earlier]
    records = await _store(transaction, stored) if stored else {}
    return [
        SubmissionResult(
            operation_id=earlier.get(new.id, new.id),
            replayed=new.id in earlier,
            record=records.get(new.id),
        )
        for new, _ in requested
    ]


async def _store(
    transaction: Transaction, requested: Sequence[Requested]
) -> dict[str, OperationRecord]:
    """Store these operations; return the records of those that share no termination, by id."""
    live = await _lock_live(transaction, [new for new, _ in requested])
    partitions = {new.partition: new for new, _ in requested}
    begins = {
        name: await turns.for_first_polls(transaction, new) for name, new in partitions.items()
    }
    await transaction.insert(operations, [_operation_row(new) for new, _ in requested])
    fresh: list[dict[str, Any]] = []
    links: list[dict[str, str]] = []
    for new, termination_ids in requested:
        begin = begins[new.partition]
        first_polls = {job_id: begin + position for position, job_id in enumerate(new.job_ids)}
        joined = {row.job_id: row.id for row in live[new.id]}
        made = {
            job_id: id_
            for job_id, id_ in zip(new.job_ids, termination_ids, strict=True)
            if job_id not in joined
        }
        common = _termination_row(new)
        fresh += [
            common | {"id": id_, "job_id": job_id, "turn": first_polls[job_id]}
            for job_id, id_ in made.items()
        ]
        links += [
            {"operation_id": new.id, "termination_id": id_} for id_ in (joined | made).values()
        ]
        _record(transaction, new, made, joined)
        if joined:
            await _join(transaction, new, list(joined.values()))
            await turns.join(transaction, new, live[new.id], first_polls)
    fresh.sort(key=itemgetter("account", "region", "job_id"))
    await transaction.insert(terminations, fresh)
    await transaction.insert(operation_terminations, links)
    for name in partitions:
        await transaction.notify(name)
    states = await read_partitions(transaction.connection, partitions)
    return {
        new.id: record_of_new(new, states.get(new.partition))
        for new, _ in requested
        if not live[new.id]
    }


def _record(
    transaction: Transaction, new: NewOperation, made: Mapping[str, str], joined: Mapping[str, str]
) -> None:
    """Record and log that the operation and its new terminations are accepted.

    ``made`` and ``joined``: its new and its live terminations, by job.
    """
    at, place = new.request.created_at, {"account": new.account, "region": new.region}
    for job_id, id_ in made.items():
        transaction.record(
            at=at,
            termination_id=id_,
            type=ACCEPTED,
            to_state=State.QUEUED,
            evidence=0,
            facts=place | {"job_id": job_id},
        )
    terminations_of = (f"{job_id} {id_}" for job_id, id_ in {**joined, **made}.items())
    transaction.record(
        at=at,
        operation_id=new.id,
        type=ACCEPTED,
        why=new.reason,
        facts=place
        | {
            "requested_by": new.requested_by,
            "jobs": len(new.job_ids),
            "jobs_sha256": lines_sha256(new.job_ids),
            "terminations_sha256": lines_sha256(terminations_of),
        },
    )
    milestones.accepted(transaction, new)


async def _find_by_key(
    transaction: Transaction, requested: Sequence[NewOperation]
) -> dict[str, str]:
    """Return the earlier operation for each that repeats its key; remove keys that have expired."""
    with_key = {(new.requested_by, new.idempotency_key): new for new in requested}
    keys = [key for _, key in with_key if key is not None]
    earlier: dict[str, str] = {}
    expired: list[str] = []
    callers = sorted({caller for caller, _ in with_key})
    found = await transaction.execute(_BY_KEY, {"callers": callers, "keys": keys}) if keys else ()
    for row in found:
        new = with_key.get((row.requested_by, row.idempotency_key))
        if new is None:
            continue
        if row.created_at <= new.request.created_at - KEY_LIFETIME:
            expired.append(row.id)
        elif row.request_hash != new.request_hash:
            raise IdempotencyKeyReused(
                f"Idempotency-Key {new.idempotency_key!r} was used for another request "
                f"({row.id}): send the same body, or use a new key"
            )
        else:
            earlier[new.id] = row.id
    if expired:
        await transaction.execute(
            update(operations).where(operations.c.id.in_(expired)).values(idempotency_key=None)
        )
    return earlier


_BY_KEY: Final = select(
    operations.c.id,
    operations.c.requested_by,
    operations.c.idempotency_key,
    operations.c.request_hash,
    operations.c.created_at,
).where(
    operations.c.requested_by.in_(bindparam("callers", expanding=True)),
    operations.c.idempotency_key.in_(bindparam("keys", expanding=True)),
)
_LIVE: Final = (
    select(*turns.COLUMNS_FOR_JOIN)
    .where(
        terminations.c.account == bindparam("of_account"),
        terminations.c.region == bindparam("in_region"),
        terminations.c.job_id.in_(bindparam("job_ids", expanding=True)),
        terminations.c.finished_at.is_(None),
    )
    .order_by(terminations.c.job_id)
    .with_for_update(key_share=True)
)


async def _lock_live(
    transaction: Transaction, requested: Sequence[NewOperation]
) -> defaultdict[str, list[Row[Any]]]:
    """Lock the live terminations of these operations, so that none ends; return them by operation.

    No two of the operations have a job in common.
    """
    places: defaultdict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for new in requested:
        places[new.account, new.region].update(dict.fromkeys(new.job_ids, new.id))
    live: defaultdict[str, list[Row[Any]]] = defaultdict(list)
    for (account, region), operation_of in sorted(places.items()):
        for batch in chunks(sorted(operation_of)):
            found = await transaction.execute(
                _LIVE, {"of_account": account, "in_region": region, "job_ids": batch}
            )
            for row in found:
                live[operation_of[row.job_id]].append(row)
    return live


async def _join(transaction: Transaction, new: NewOperation, ids: Sequence[str]) -> None:
    """Extend live terminations to this operation: longer windows, earlier start, hold, escalate.

    No decision writes these columns, except for the start; so a decision that is being made does
    not undo this.
    """
    values: dict[str, Any] = {
        "settle_s": greatest(terminations.c.settle_s, new.request.settle_s),
        "give_up_after_s": greatest(terminations.c.give_up_after_s, new.request.give_up_after_s),
        "revival_watch_s": greatest(terminations.c.revival_watch_s, new.request.revival_watch_s),
    }
    if new.request.on_submitted is OnSubmitted.HOLD:
        values["on_submitted"] = OnSubmitted.HOLD
    if new.request.escalate:
        values["escalate"] = True
    start = _start(new)
    for batch in chunks(ids):
        joined = terminations.c.id.in_(batch)
        await transaction.execute(update(terminations).where(joined).values(values))
        await transaction.execute(
            update(terminations)
            .where(joined, terminations.c.state == State.QUEUED, terminations.c.not_before > start)
            .values(not_before=new.request.not_before, next_poll_at=start)
        )


def _operation_row(new: NewOperation) -> dict[str, Any]:
    return {
        "id": new.id,
        "account": new.account,
        "region": new.region,
        "partition": new.partition,
        "reason": new.reason,
        "requested_by": new.requested_by,
        "idempotency_key": new.idempotency_key,
        "request_hash": new.request_hash,
        "duplicates_merged": new.duplicates_merged,
        "jobs_total": len(new.job_ids),
        "jobs_unfinished": len(new.job_ids),
        "created_at": new.request.created_at,
        "reterminate_for_s": new.reterminate_for_s,
        "reterminates_for": new.reterminates_for,
        "reterminate_round": new.reterminate_round,
    }


def _termination_row(new: NewOperation) -> dict[str, Any]:
    """Return what the rows of all its new terminations have in common."""
    return (
        _NEW
        | {name: getattr(new.request, name) for name in _REQUEST}
        | {
            "account": new.account,
            "region": new.region,
            "partition": new.partition,
            "next_poll_at": _start(new),
        }
    )


def _start(new: NewOperation) -> datetime:
    return max(new.request.created_at, new.request.not_before or new.request.created_at)
