"""Writes decisions: guarded by what they were made on, with their events, in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, func, select, update

from orchestrator.domain.audit.event_facts import machines, observations
from orchestrator.domain.clock_steps import elapsed_s
from orchestrator.domain.decisions import invariants
from orchestrator.domain.model.lifecycle import PROVEN_STATES, State
from orchestrator.domain.model.operation import outcome
from orchestrator.store.mapping.termination_rows import SET_BY_ENGINE, to_row
from orchestrator.store.schema import operation_terminations, operations, terminations
from orchestrator.store.terminations import milestones, turns
from orchestrator.store.terminations.set_aside import CLEARED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Row

    from orchestrator.domain.decisions.transitions import Decision
    from orchestrator.domain.model.termination import Termination
    from orchestrator.store.database.transaction import Transaction

_REQUESTED = ("settle_s", "give_up_after_s", "on_submitted", "revival_watch_s")

_WATCHED_AT = "revival_checked_at"
"""Set as a termination ends, and by its watch from then on."""

_GUARDED = (
    update(terminations)
    .where(
        terminations.c.id == bindparam("guard_id"),
        terminations.c.partition == bindparam("guard_partition"),
        terminations.c.state == bindparam("guard_state"),
        terminations.c.revision == bindparam("guard_revision"),
    )
    .values({name: bindparam(f"set_{name}") for name in (*SET_BY_ENGINE, _WATCHED_AT)} | CLEARED)
)


_GUARDED_BY_REQUEST = _GUARDED.where(
    *(terminations.c[name] == bindparam(f"guard_{name}") for name in _REQUESTED)
)
"""A look that ends a termination must not deny what another request has asked for meanwhile.

Whether time is up is decided on the windows.  The job stays due and is looked at again.
"""

_GUARDED_BY_LOOK = _GUARDED.where(
    terminations.c.observed_at.is_not_distinct_from(
        bindparam("guard_observed_at", type_=terminations.c.observed_at.type)
    )
)
"""A decision that changes no state must not undo what another look has found meanwhile."""


def _parameters(before: Termination, after: Termination) -> dict[str, Any]:
    row = to_row(after)
    return {
        "guard_id": before.id,
        "guard_partition": before.partition,
        "guard_state": before.state,
        "guard_revision": before.revision,
        "guard_observed_at": before.observed_at,
        **{f"guard_{name}": getattr(before, name) for name in _REQUESTED},
        **{f"set_{name}": row[name] for name in SET_BY_ENGINE},
        f"set_{_WATCHED_AT}": _watched_from(after),
    }


def _watched_from(after: Termination) -> datetime | None:
    """When the come-back watch of its job begins; None: it has not ended, or is not watched.

    One that was found finished is watched as well: it may have failed, and RetryJobs revives it.
    """
    watched = after.state in PROVEN_STATES and after.revival_watch_s > 0
    return after.finished_at if watched else None


async def write_decisions(
    transaction: Transaction,
    changes: Sequence[tuple[Termination, Decision]],
    at: datetime,
) -> int:
    """Write each decision whose termination is still as it was; returns how many moved.

    A decision without an event changes no state: where its guard fails, newer knowledge stands
    already and nothing is lost.  Raises InvariantViolated.
    """
    for before, decision in changes:
        invariants.check(before, decision, at)
    staying = [_parameters(before, d.after) for before, d in changes if d.event is None]
    if staying:
        await transaction.execute(_GUARDED_BY_LOOK, staying)
    moved = 0
    for before, decision in changes:
        if decision.event is not None and await _write_move(transaction, before, decision, at):
            moved += 1
    await turns.enter(transaction, changes)
    return moved


async def write_decision(
    transaction: Transaction,
    before: Termination,
    decision: Decision,
    at: datetime,
    call: Mapping[str, object] | None = None,
) -> bool:
    """Write one decision, with the event of its move; False when it was made on what is no more.

    ``call`` is what the event tells of a call, beside what is known of the job.

    Raises InvariantViolated.
    """
    invariants.check(before, decision, at)
    return await _write_move(transaction, before, decision, at, call)


async def _write_move(
    transaction: Transaction,
    before: Termination,
    decision: Decision,
    at: datetime,
    call: Mapping[str, object] | None = None,
) -> bool:
    after = decision.after
    # What has no look planned is being called: the answer is known once and must be written.
    looked = before.next_poll_at is not None
    guarded = _GUARDED_BY_REQUEST if after.state.final and looked else _GUARDED
    result = await transaction.execute(guarded, _parameters(before, after))
    if result.rowcount == 0:
        return False
    if decision.event is not None:
        transaction.record(
            at=at,
            termination_id=after.id,
            type=decision.event,
            from_state=before.state,
            to_state=after.state,
            evidence=after.evidence,
            why=decision.why,
            facts={**observations(after), **machines(after), **(call or {})},
        )
        milestones.moved(transaction, decision)
    if after.state.final:
        transaction.count_end(after.state)
        await _count_down(transaction, after, at)
    return True


async def _count_down(transaction: Transaction, after: Termination, at: datetime) -> None:
    """One job fewer to go in every operation that asked for it; the last one finishes it."""
    asked = await transaction.execute(
        select(operations)
        .join(operation_terminations, operation_terminations.c.operation_id == operations.c.id)
        .where(operation_terminations.c.termination_id == after.id)
        .order_by(operations.c.seq)
        .with_for_update(of=operations)
    )
    for operation in asked.all():
        if operation.jobs_unfinished == 1:
            await _finish(transaction, operation, at)
        else:
            await transaction.execute(
                update(operations)
                .where(operations.c.id == operation.id)
                .values(jobs_unfinished=operations.c.jobs_unfinished - 1)
            )


async def _finish(transaction: Transaction, operation: Row[Any], at: datetime) -> None:
    counted = await transaction.execute(
        select(terminations.c.state, func.count())
        .join(
            operation_terminations,
            operation_terminations.c.termination_id == terminations.c.id,
        )
        .where(operation_terminations.c.operation_id == operation.id)
        .group_by(terminations.c.state)
    )
    by_state = {State(state): count for state, count in counted.all()}
    result = outcome(by_state)
    await transaction.execute(
        update(operations)
        .where(operations.c.id == operation.id)
        .values(jobs_unfinished=0, finished_at=at, outcome=result)
    )
    transaction.record(
        at=at,
        operation_id=operation.id,
        type="finished",
        why=result,
        facts={"jobs_by_state": by_state},
    )
    took_s = elapsed_s(operation.created_at, at)
    milestones.finished(transaction, operation, result, by_state, took_s=took_s)
