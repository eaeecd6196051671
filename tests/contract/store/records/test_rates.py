"""The rate of TerminateJob calls of a partition, counted from its attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert

from orchestrator.domain.model.attempt import TERMINATE_JOB, TERMINATE_TASK_INSTANCE
from orchestrator.store.records.queries import SqlRecords
from orchestrator.store.schema import attempts
from tests.support.operation_records import operation_record
from tests.support.stored_operations import PARTITION, submit
from tests.unit.domain.build import NOW, later

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.store.database.database import Database
    from orchestrator.store.database.transaction import Transaction

BEGAN_S = 100.0


async def called(
    database: Database, action: str, sent_s: Sequence[float], partition: str = PARTITION
) -> None:
    """Store attempts sent these seconds after NOW."""

    async def work(transaction: Transaction) -> None:
        await transaction.execute(
            insert(attempts),
            [
                {
                    "termination_id": "trm_1_job-1",
                    "number": round(at_s * 10) + 10_000 * len(action) + len(partition),
                    "partition": partition,
                    "action": action,
                    "target": f"{partition}/{action}/{at_s}",
                    "sent_at": later(at_s),
                }
                for at_s in sent_s
            ],
        )

    await database.write(work)


def two_a_second(first_s: float, last_s: float) -> list[float]:
    return [first_s + n / 2 for n in range(round((last_s - first_s) * 2) + 1)]


async def used_per_s(database: Database, at_s: float) -> float:
    found = await operation_record(SqlRecords(database, lambda: later(at_s)), "op_2")
    assert found is not None
    return found.calls_per_s


@pytest.mark.parametrize(
    ("sent_s", "asked_s", "used"),
    [
        ([], 5, 0.0),
        (two_a_second(101, 106), 101.5, 2.0),  # of the whole seconds since it was created
        (two_a_second(100.5, 110), 104, 2.0),
        (two_a_second(100.5, 130), 110, 2.0),
        (two_a_second(100.5, 130), 125, 2.0),  # of the last 10 s
        (two_a_second(100.5, 110), 115, 1.0),
        (two_a_second(100.5, 110), 120, 0.0),
        (two_a_second(80, 99.5), 105, 0.0),  # before the operation
        ([100.2], 100.25, 1.0),  # one call is no rate of twenty a second
        ([85.0], 90, 0.1),  # the clock was put back since it was created
    ],
)
async def test_calls_are_counted_since_the_operation_began_or_for_ten_seconds(
    database: Database, sent_s: Sequence[float], asked_s: float, used: float
) -> None:
    """Attempts later than now were made before the clock was put back."""
    records = SqlRecords(database, lambda: NOW)
    await submit(records, 1, "job-1")
    await submit(records, 2, "job-2", created_at=later(BEGAN_S))
    if sent_s:
        await called(database, TERMINATE_JOB, sent_s)
    assert await used_per_s(database, asked_s) == pytest.approx(used)


async def test_only_calls_of_this_action_and_partition_count(database: Database) -> None:
    records = SqlRecords(database, lambda: NOW)
    await submit(records, 1, "job-1")
    await submit(records, 2, "job-2", created_at=later(BEGAN_S))
    await called(database, TERMINATE_JOB, [105.0])
    await called(database, TERMINATE_TASK_INSTANCE, two_a_second(101, 109))
    await called(database, TERMINATE_JOB, two_a_second(101, 109), partition="other@host")
    assert await used_per_s(database, 110) == pytest.approx(0.1)
