"""The storage check runs at most once per second, for all callers."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any, cast

import pytest

from orchestrator.domain.errors import StoreUnavailable
from orchestrator.services.storage_check import StorageCheck
from tests.support.clock import ManualClock

if TYPE_CHECKING:
    from orchestrator.services.ports import Records


class Database:
    """Database that blocks on demand and counts writes."""

    def __init__(self) -> None:
        self.writes = 0
        self.full = False
        self.answers = asyncio.Event()
        self.answers.set()

    async def ping(self) -> None:
        self.writes += 1
        await self.answers.wait()
        if self.full:
            raise StoreUnavailable("full")


def check(database: Database, clock: ManualClock) -> StorageCheck:
    return StorageCheck(cast("Records", database), clock.monotonic)


async def test_a_check_within_a_second_returns_the_earlier_result() -> None:
    database, clock = Database(), ManualClock()
    could_store = check(database, clock)
    for seconds, writes in ((0.0, 1), (0.5, 1), (0.4, 1), (0.2, 2), (10.0, 3)):
        clock.passed_s += seconds
        await could_store()
        assert database.writes == writes


async def test_a_failed_check_is_returned_for_as_long() -> None:
    database, clock = Database(), ManualClock()
    could_store = check(database, clock)
    database.full = True
    for seconds in (0.0, 0.5):
        clock.passed_s += seconds
        with pytest.raises(StoreUnavailable):
            await could_store()
    database.full = False
    with pytest.raises(StoreUnavailable):
        await could_store()
    clock.passed_s += 0.5
    await could_store()
    assert database.writes == 2


async def test_concurrent_checks_wait_for_the_one_that_runs() -> None:
    database, clock = Database(), ManualClock()
    could_store = check(database, clock)
    database.answers.clear()
    asking = [asyncio.create_task(could_store()) for _ in range(5)]
    await asyncio.sleep(0)
    clock.passed_s += 5.0
    asking += [asyncio.create_task(could_store()) for _ in range(5)]
    await asyncio.sleep(0)
    asking[0].cancel()
    await asyncio.sleep(0)
    database.answers.set()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError, *[type(None)] * 9]
    assert database.writes == 1


async def test_an_error_without_a_waiting_caller_is_not_logged() -> None:
    database, clock = Database(), ManualClock()
    could_store = check(database, clock)
    database.full = True
    database.answers.clear()
    contexts: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: contexts.append(context))
    asking = asyncio.create_task(could_store())
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    database.answers.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del could_store, asking
    gc.collect()
    assert contexts == []
