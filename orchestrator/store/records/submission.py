"""Storing of operations: one per idempotency key, with one live termination per job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, insert, select, update

from orchestrator.domain.audit.hash_chain import ACCEPTED, lines_sha256
from orchestrator.domain.errors import IdempotencyKeyReused
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.operation import KEY_LIFETIME
from orchestrator.domain.model.termination import OnSubmitted, Schedule, Termination
from orchestrator.services.ports import SubmissionResult
from orchestrator.store.chunks import chunks
from orchestrator.store.mapping.termination_rows import to_row
from orchestrator.store.schema import operation_terminations, operations, terminations
from orchestrator.store.sql import greatest
from orchestrator.store.terminations import milestones, turns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from orchestrator.domain.model.operation import NewOperation
    from orchestrator.store.database.transaction import Transaction


async def create(
    transaction: Transaction, new: NewOperation, termination_ids: Sequence[str]
) -> SubmissionResult:
    """Store ``new``; raises IdempotencyKeyReused if its idempotency key belongs to another request.

    Live terminations are locked, and new ones stored, in the order of the job ids. Of two replicas
    with the same jobs, one then waits for the other, and they never deadlock.
    """
    earlier = await _find_by_key(transaction, new)
    if earlier is not None:
        return SubmissionResult(operation_id=earlier, replayed=True)
    wanted = sorted(zip(new.job_ids, termination_ids, strict=True))
    found = await _lock_live(transaction, new, [job_id for job_id, _ in wanted])
    live = {row.job_id: row.id for row in found}
    first_polls = await turns.for_first_polls(transaction, new)
    fresh = [
        _termination(new, job_id, termination_id)
        for job_id, termination_id in wanted
        if job_id not in live
    ]
    await transaction.execute(insert(operations).values(_operation_row(new)))
    if fresh:
        await transaction.execute(
            insert(terminations), [to_row(t) | {"turn": first_polls[t.job_id]} for t in fresh]
        )
        for termination in fresh:
            transaction.record(
                at=new.request.created_at,
                termination_id=termination.id,
                type=ACCEPTED,
                to_state=termination.state,
                evidence=termination.evidence,
                facts={
                    "account": termination.account,
                    "region": termination.region,
                    "job_id": termination.job_id,
                },
            )
    if live:
        await _join(transaction, new, list(live.values()))
        await turns.join(transaction, new, found, first_polls)
    by_job = live | {termination.job_id: termination.id for termination in fresh}
    await transaction.execute(
        insert(operation_terminations),
        [{"operation_id": new.id, "termination_id": each} for each in by_job.values()],
    )
    transaction.record(
        at=new.request.created_at,
        operation_id=new.id,
        type=ACCEPTED,
        why=new.reason,
        facts={
            "account": new.account,
            "region": new.region,
            "requested_by": new.requested_by,
            "jobs": len(new.job_ids),
            "jobs_sha256": lines_sha256(new.job_ids),
            "terminations_sha256": lines_sha256(f"{job} {each}" for job, each in by_job.items()),
        },
    )
    milestones.accepted(transaction, new)
    await transaction.notify(new.partition)
    return SubmissionResult(operation_id=new.id, replayed=False)


async def _find_by_key(transaction: Transaction, new: NewOperation) -> str | None:
    """Return the operation with the same key; first remove the key if it has expired."""
    if new.idempotency_key is None:
        return None
    same_key = (
        operations.c.requested_by == new.requested_by,
        operations.c.idempotency_key == new.idempotency_key,
    )
    await transaction.execute(
        update(operations)
        .where(*same_key, operations.c.created_at <= new.request.created_at - KEY_LIFETIME)
        .values(idempotency_key=None)
    )
    found = await transaction.execute(
        select(operations.c.id, operations.c.request_hash).where(*same_key)
    )
    row = found.one_or_none()
    if row is None:
        return None
    if row.request_hash != new.request_hash:
        raise IdempotencyKeyReused(
            f"Idempotency-Key {new.idempotency_key!r} was used for another request "
            f"({row.id}): send the same body, or use a new key"
        )
    return str(row.id)


async def _lock_live(
    transaction: Transaction, new: NewOperation, job_ids: Sequence[str]
) -> list[Row[Any]]:
    """Lock the live terminations of these jobs, so that none ends; return their turns."""
    live = list[Row[Any]]()
    for batch in chunks(job_ids):
        found = await transaction.execute(
            select(*turns.COLUMNS_FOR_JOIN)
            .where(
                terminations.c.account == new.account,
                terminations.c.region == new.region,
                terminations.c.job_id.in_(batch),
                terminations.c.finished_at.is_(None),
            )
            .order_by(terminations.c.job_id)
            .with_for_update(key_share=True)
        )
        live += found.all()
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


def _termination(new: NewOperation, job_id: str, termination_id: str) -> Termination:
    return Termination(
        id=termination_id,
        account=new.account,
        region=new.region,
        partition=new.partition,
        job_id=job_id,
        request=new.request,
        schedule=Schedule(next_poll_at=_start(new)),
    )


def _start(new: NewOperation) -> datetime:
    return max(new.request.created_at, new.request.not_before or new.request.created_at)
