"""Writes of decisions: guarded by the values they were made on, with events, in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, bindparam, func, select, update

from orchestrator.domain.audit.event_facts import machines, observations
from orchestrator.domain.clock_steps import elapsed_s
from orchestrator.domain.decisions import invariants
from orchestrator.domain.model.lifecycle import PROVEN_STATES, State
from orchestrator.domain.model.operation import outcome
from orchestrator.store.mapping.termination_rows import SET_BY_COUNT, SET_BY_ENGINE, to_row
from orchestrator.store.schema import operation_terminations, operations, terminations
from orchestrator.store.terminations import milestones, turns
from orchestrator.store.terminations.set_aside import CLEARED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Row

    from orchestrator.domain.decisions.decision import Decision
    from orchestrator.domain.model.termination import Termination
    from orchestrator.store.database.transaction import Transaction

_REQUEST_COLUMNS = ("settle_s", "give_up_after_s", "on_submitted", "revival_watch_s")

_WATCH_TIMES = ("revival_watch_from", "revival_checked_at")
"""Set when a termination ends; each revival check sets the second one again."""

_UNCHANGED = and_(
    terminations.c.id == bindparam("guard_id"),
    terminations.c.partition == bindparam("guard_partition"),
    terminations.c.state == bindparam("guard_state"),
    terminations.c.revision == bindparam("guard_revision"),
)
"""The row is still the one that the decision was made on."""

_UPDATE_IF_UNCHANGED = (
    update(terminations)
    .where(_UNCHANGED)
    .values({name: bindparam(f"set_{name}") for name in (*SET_BY_ENGINE, *_WATCH_TIMES)} | CLEARED)
)


_UPDATE_IF_REQUEST_UNCHANGED = _UPDATE_IF_UNCHANGED.where(
    *(terminations.c[name] == bindparam(f"guard_{name}") for name in _REQUEST_COLUMNS)
)
"""Does not finish a termination if another request has extended its windows since the poll.

Whether a window has ended was decided on the old ones. The job stays due and is polled again.
"""

_UPDATE_IF_NOT_POLLED_SINCE = _UPDATE_IF_UNCHANGED.where(
    terminations.c.observed_at.is_not_distinct_from(
        bindparam("guard_observed_at", type_=terminations.c.observed_at.type)
    )
)
"""Does not overwrite the observation of another poll by a decision that changes no state."""

_KEEP_COUNT = (
    update(terminations)
    .where(
        _UNCHANGED,
        terminations.c.run == bindparam("guard_run"),
        terminations.c.instances_observed_at.is_not_distinct_from(
            bindparam("guard_counted_at", type_=terminations.c.instances_observed_at.type)
        ),
    )
    .values({name: bindparam(f"set_{name}") for name in SET_BY_COUNT})
)
"""Keeps a count whose decision was not written, since a batch poll was written before it.

A batch poll shows no counters. Where both are made at the same time again and again, none of the
counts would be stored otherwise, and stragglers would be escalated late.
"""


def _parameters(before: Termination, after: Termination) -> dict[str, Any]:
    row = to_row(after)
    return {
        "guard_id": before.id,
        "guard_partition": before.partition,
        "guard_state": before.state,
        "guard_revision": before.revision,
        "guard_observed_at": before.job.observed_at,
        "guard_counted_at": before.drain.counted_at,
        "guard_run": before.calls.run,
        **{f"guard_{name}": getattr(before.request, name) for name in _REQUEST_COLUMNS},
        **{f"set_{name}": row[name] for name in SET_BY_ENGINE},
        **{f"set_{name}": _revival_watch_from(after) for name in _WATCH_TIMES},
    }


def _revival_watch_from(after: Termination) -> datetime | None:
    """Return when the revival watch of its job begins; None if it is not finished or not watched.

    A job that was found finished is watched as well: it may have failed, and RetryJobs revives it.
    """
    watched = after.state in PROVEN_STATES and after.request.revival_watch_s > 0
    return after.finished_at if watched else None


async def write_decisions(
    transaction: Transaction,
    changes: Sequence[tuple[Termination, Decision]],
    at: datetime,
) -> int:
    """Write each decision whose termination is unchanged; return how many had an event.

    A decision without an event changes no state. If another observation was stored meanwhile, only
    its instance counters are kept, and nothing if the state has changed. Raises InvariantViolated.
    """
    for before, decision in changes:
        invariants.check(before, decision, at)
    staying = [(before, d.after) for before, d in changes if d.event is None]
    if staying:
        await transaction.execute(
            _UPDATE_IF_NOT_POLLED_SINCE, [_parameters(before, after) for before, after in staying]
        )
    counted = [
        _parameters(before, after)
        for before, after in staying
        if after.drain.counted_at != before.drain.counted_at
    ]
    if counted:
        await transaction.execute(_KEEP_COUNT, counted)
    moved = 0
    for before, decision in changes:
        if decision.event is not None and await _write_transition(
            transaction, before, decision, at
        ):
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
    """Write one decision with its event; return False if the termination has changed meanwhile.

    ``call`` has the facts about an API call that the event carries, beside those about the job.

    Raises InvariantViolated.
    """
    invariants.check(before, decision, at)
    return await _write_transition(transaction, before, decision, at, call)


async def _write_transition(
    transaction: Transaction,
    before: Termination,
    decision: Decision,
    at: datetime,
    call: Mapping[str, object] | None = None,
) -> bool:
    after = decision.after
    # A termination without a planned poll is in a TerminateJob call, whose result is known once
    # only: it must be written.
    polled = before.schedule.next_poll_at is not None
    statement = (
        _UPDATE_IF_REQUEST_UNCHANGED if after.state.final and polled else _UPDATE_IF_UNCHANGED
    )
    result = await transaction.execute(statement, _parameters(before, after))
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
        await _count_finished_job(transaction, after, at)
    return True


async def _count_finished_job(transaction: Transaction, after: Termination, at: datetime) -> None:
    """Count one unfinished job less in each operation of the job; the last one finishes it."""
    found = await transaction.execute(
        select(operations)
        .join(operation_terminations, operation_terminations.c.operation_id == operations.c.id)
        .where(operation_terminations.c.termination_id == after.id)
        .order_by(operations.c.seq)
        .with_for_update(of=operations)
    )
    for operation in found.all():
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
