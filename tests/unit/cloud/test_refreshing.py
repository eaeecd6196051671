"""Refreshing credential: loaded early, once for all callers, and kept if a load fails."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.cloud import error_codes
from orchestrator.cloud.refreshing import RefreshingProvider
from orchestrator.cloud.signing import Credential
from orchestrator.domain.errors import CloudError, CloudErrorKind
from orchestrator.domain.model.error_detail import ClientCode
from tests.support.clock import ManualClock


class Source:
    """Source of numbered credentials with lifetime ``life_s``; it can block and fail."""

    def __init__(self, clock: ManualClock, *, life_s: float | None = None) -> None:
        self.clock = clock
        self.life_s = life_s
        self.loads = 0
        self.failing = False
        self.open = asyncio.Event()
        self.open.set()

    async def load(self) -> Credential:
        self.loads += 1
        await self.open.wait()
        if self.failing:
            raise error_codes.error(ClientCode.CREDENTIAL_UNAVAILABLE, "the source is unavailable")
        expires_at = None
        if self.life_s is not None:
            expires_at = self.clock.now() + timedelta(seconds=self.life_s)
        return Credential(secret_id=f"id-{self.loads}", secret_key="key", expires_at=expires_at)


def refreshing(
    *, life_s: float | None = None, **settings: Any
) -> tuple[Source, RefreshingProvider]:
    source = Source(ManualClock(), life_s=life_s)
    return source, RefreshingProvider(source.load, clock=source.clock, **settings)


async def settle() -> None:
    """Wait until the background refresh has finished."""
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            await task


async def test_credential_without_end_is_loaded_once() -> None:
    """A credential without expiry is never loaded again."""
    source, provider = refreshing()

    ids = []
    for _ in range(3):
        ids.append((await provider.get()).secret_id)
        source.clock.passed_s += 86400

    assert (ids, source.loads) == (["id-1"] * 3, 1)


async def test_refresh_runs_before_the_expiry_and_delays_no_caller() -> None:
    """Within the margin, callers get the old credential while the new one is loaded."""
    source, provider = refreshing(life_s=7200, margin_s=300)
    first = await provider.get()

    source.clock.passed_s = 7200 - 301
    assert (await provider.get(), source.loads) == (first, 1)

    source.clock.passed_s = 7200 - 300
    source.open.clear()
    assert await provider.get() is first
    source.open.set()
    await settle()

    assert (await provider.get()).secret_id == "id-2"


async def test_margin_never_eats_more_than_half_of_a_life() -> None:
    """A credential with a lifetime below the margin is not loaded repeatedly."""
    source, provider = refreshing(life_s=200, margin_s=300, retry_s=1)
    await provider.get()

    source.clock.passed_s = 99
    await provider.get()
    await settle()
    assert source.loads == 1

    source.clock.passed_s = 100
    await provider.get()
    await settle()
    assert source.loads == 2


async def test_credential_that_lives_shorter_than_the_pause_is_replaced_in_time() -> None:
    """The pause applies only while a credential is valid, and after failures."""
    source, provider = refreshing(life_s=20, retry_s=30)
    await provider.get()

    source.clock.passed_s = 20

    assert (await provider.get()).secret_id == "id-2"


async def test_credential_that_ends_while_it_is_fetched_is_an_error() -> None:
    """The clock was set forward during the load, so the loaded credential has expired."""
    source, provider = refreshing(life_s=20)
    waiting = asyncio.create_task(provider.get())
    await asyncio.sleep(0)
    [load] = asyncio.all_tasks() - {asyncio.current_task(), waiting}
    load.add_done_callback(lambda _: setattr(source.clock, "passed_s", 20))

    with pytest.raises(CloudError, match="expired before it was used"):
        await waiting


async def test_concurrent_callers_share_one_load() -> None:
    """A hundred concurrent requests at the start cause one load."""
    source, provider = refreshing()

    given = await asyncio.gather(*(provider.get() for _ in range(100)))

    assert source.loads == 1
    assert all(credential is given[0] for credential in given)


async def test_caller_that_gives_up_does_not_take_the_load_with_it() -> None:
    """Other callers still get the result of the load."""
    source, provider = refreshing()
    source.open.clear()
    impatient = asyncio.create_task(provider.get())
    patient = asyncio.create_task(provider.get())
    await asyncio.sleep(0)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient

    source.open.set()

    assert ((await patient).secret_id, source.loads) == ("id-1", 1)


async def test_failed_refresh_keeps_the_valid_credential(caplog) -> None:
    """The failure and its end are logged once each; loads repeat after a pause."""
    source, provider = refreshing(life_s=7200, margin_s=300, retry_s=30)
    first = await provider.get()
    source.failing = True
    caplog.set_level(logging.INFO)

    for passed_s in (6900, 6910, 6930, 6950):
        source.clock.passed_s = passed_s
        assert await provider.get() is first
        await settle()
    assert source.loads == 3  # the first one, at 6900 and at 6930

    source.failing = False
    source.clock.passed_s = 6960
    await provider.get()
    await settle()

    assert (await provider.get()).secret_id == "id-4"
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


async def test_expired_credential_is_not_given_out() -> None:
    """Without a valid credential, callers get the error of the load."""
    source, provider = refreshing(life_s=7200)
    await provider.get()
    source.failing = True
    source.clock.passed_s = 7200

    with pytest.raises(CloudError, match="the source is unavailable") as caught:
        await provider.get()

    assert caught.value.kind is CloudErrorKind.CREDENTIAL
    assert caught.value.advice


async def test_failure_is_repeated_without_asking_the_source_again_at_once() -> None:
    """A failing source is not read again for every request."""
    source, provider = refreshing(retry_s=30)
    source.failing = True

    for passed_s in (0, 10, 29.9):
        source.clock.passed_s = passed_s
        with pytest.raises(CloudError, match="the source is unavailable"):
            await provider.get()
    assert source.loads == 1

    source.failing = False
    source.clock.passed_s = 30
    assert (await provider.get()).secret_id == "id-2"


async def test_hanging_source_is_given_up() -> None:
    """A source that never returns becomes an error with advice."""
    source, provider = refreshing(timeout_s=0.02)
    source.open.clear()

    with pytest.raises(CloudError, match=r"the credential was not loaded within 0\.02 s") as caught:
        await provider.get()

    assert caught.value.kind is CloudErrorKind.CREDENTIAL


async def test_source_that_gives_an_expired_credential_has_failed() -> None:
    """The cloud would refuse every request that it signs."""
    _, provider = refreshing(life_s=-1)

    with pytest.raises(CloudError, match="has expired"):
        await provider.get()


async def test_next_caller_waits_for_a_new_credential_after_a_rejection() -> None:
    """A refusal by the cloud causes one refresh."""
    source, provider = refreshing(life_s=7200, retry_s=30)
    first = await provider.get()
    source.clock.passed_s = 60

    provider.invalidate(first)
    second = await provider.get()

    assert (second.secret_id, source.loads) == ("id-2", 2)


async def test_late_rejections_of_the_old_credential_do_not_reach_the_new_one() -> None:
    """Late failures of requests with the old credential cause no further load."""
    source, provider = refreshing(life_s=7200, retry_s=30)
    first = await provider.get()
    source.clock.passed_s = 60
    provider.invalidate(first)
    await provider.get()
    source.clock.passed_s = 120

    for _ in range(10):
        provider.invalidate(first)
        await provider.get()

    assert source.loads == 2


async def test_source_that_keeps_returning_a_rejected_credential_is_read_once_per_pause() -> None:
    """Although every request is refused, the source is read only once per pause."""
    source, provider = refreshing(life_s=7200, retry_s=30)

    for passed_s in range(60):
        source.clock.passed_s = float(passed_s)
        provider.invalidate(await provider.get())

    assert source.loads == 2


async def test_rejected_credential_stays_when_no_other_can_be_had() -> None:
    """The cloud's error is more useful than one about the source."""
    source, provider = refreshing(life_s=7200)
    first = await provider.get()
    source.clock.passed_s = 60
    source.failing = True

    provider.invalidate(first)

    assert await provider.get() is first
    assert source.loads == 2
