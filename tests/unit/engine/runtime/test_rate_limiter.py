"""Rate limiter of one action: when calls are sent, and when their permits are returned."""

from __future__ import annotations

import asyncio
import math
from contextlib import nullcontext

import pytest

from orchestrator.domain.errors import CloudError, CloudErrorKind, LeaseLost
from orchestrator.domain.leasing.leases import FencingToken
from orchestrator.domain.pacing.quota import SECONDS_NEEDED, Quota
from orchestrator.engine.lease_guard import Lease, before_send
from orchestrator.engine.runtime.rate_limiter import RateLimiter
from tests.support.clock import ManualClock

UNANSWERED = [CloudErrorKind.NOT_SENT, CloudErrorKind.OUTCOME_UNKNOWN]
ANSWERED = [kind for kind in CloudErrorKind if kind not in UNANSWERED]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def limiter(
    clock: ManualClock, rate_per_s: int = 1, *, spread: bool = False, lease_ends_s: float = math.inf
) -> RateLimiter:
    quota = Quota(rate_per_s, now=clock.monotonic(), spread=spread)
    lease = Lease(FencingToken("main", 1), until=lease_ends_s)
    return RateLimiter("TerminateJob of main", quota, clock, lease)


def error(kind: CloudErrorKind, *, quota_ceiling: int | None = None) -> CloudError:
    return CloudError(kind, "Some.Code", "what happened", quota_ceiling=quota_ceiling)


class TimedCall:
    """A call that takes some time of the clock, then returns or raises."""

    def __init__(
        self,
        clock: ManualClock,
        *,
        connects_s: float = 0.0,
        takes_s: float = 0.0,
        fails: BaseException | None = None,
    ) -> None:
        self.left_at: float | None = None
        self._clock = clock
        self._connects_s = connects_s
        self._takes_s = takes_s
        self._fails = fails

    async def __call__(self) -> str:
        if self._connects_s:
            self._clock.advance(self._connects_s)
        before_send()
        self.left_at = self._clock.monotonic()
        self._clock.advance(self._takes_s)
        if self._fails is not None:
            raise self._fails
        return "the answer"


async def accustomed(
    clock: ManualClock, round_trip_s: float, *, connects_s: float = 0.0
) -> RateLimiter:
    """Return a rate limiter that has measured enough round trips to use them."""
    paced = limiter(clock)
    for _ in range(SECONDS_NEEDED):
        clock.advance(5)
        call = TimedCall(clock, connects_s=connects_s, takes_s=round_trip_s)
        await paced.send(paced.take(), call)
    clock.advance(5)
    return paced


@pytest.mark.parametrize(
    ("fails", "counted"),
    [
        (None, ["accepted"]),
        *((error(kind), [kind.value]) for kind in CloudErrorKind),
        (LeaseLost("it left no more"), []),
        (asyncio.CancelledError(), []),
    ],
)
async def test_each_call_is_counted_with_how_it_ended(
    clock: ManualClock, fails: BaseException | None, counted: list[str]
) -> None:
    """Each call counts once; a call that was never sent, or was cancelled, does not count."""
    outcomes: list[str] = []
    quota = Quota(1, now=clock.monotonic(), spread=False)
    paced = RateLimiter(
        "an action", quota, clock, Lease(FencingToken("main", 1), until=math.inf), outcomes.append
    )
    clock.advance(1)
    with nullcontext() if fails is None else pytest.raises(type(fails)):
        await paced.send(paced.take(), TimedCall(clock, fails=fails))
    assert outcomes == counted


async def test_no_call_may_leave_in_the_first_second(clock: ManualClock) -> None:
    paced = limiter(clock)
    assert paced.wait_s() == 1.0
    clock.advance(0.75)
    assert paced.wait_s() == 0.25
    clock.advance(0.25)
    assert paced.wait_s() == 0.0
    clock.advance(60)
    assert paced.wait_s() == 0.0, "a wait is never negative"


async def test_while_every_permit_is_in_use_the_wait_is_unknown(clock: ManualClock) -> None:
    paced = limiter(clock, 2)
    clock.advance(1)
    paced.take()
    assert paced.wait_s() == 0.0
    paced.take()
    assert math.isinf(paced.wait_s())


async def test_a_call_leaves_when_its_permit_says_and_no_sooner(clock: ManualClock) -> None:
    paced, call = limiter(clock), TimedCall(clock)
    clock.advance(0.25)
    sending = asyncio.ensure_future(paced.send(paced.take(), call))
    assert await clock.waits.get() == 0.75
    clock.advance(0.5)
    assert call.left_at is None
    clock.advance(0.25)
    assert await sending == "the answer"
    assert call.left_at == 1.0


async def test_a_call_whose_time_has_passed_leaves_at_once(clock: ManualClock) -> None:
    paced, call = limiter(clock), TimedCall(clock)
    permit = paced.take()
    clock.advance(7)
    await paced.send(permit, call)
    assert call.left_at == 7.0


async def test_a_permit_is_returned_a_second_after_the_answer_less_the_round_trip(
    clock: ManualClock,
) -> None:
    paced = await accustomed(clock, 0.4)
    await paced.send(paced.take(), TimedCall(clock, takes_s=0.4))
    assert paced.wait_s() == pytest.approx(1.0 - 0.95 * 0.4)


async def test_the_round_trip_does_not_count_the_wait_for_the_permit(clock: ManualClock) -> None:
    paced = await accustomed(clock, 0.4)
    await paced.send(paced.take(), TimedCall(clock, takes_s=0.4))
    while not clock.waits.empty():
        clock.waits.get_nowait()
    sending = asyncio.ensure_future(paced.send(paced.take(), TimedCall(clock, takes_s=0.4)))
    clock.advance(await clock.waits.get())
    await sending
    assert paced.wait_s() == pytest.approx(1.0 - 0.95 * 0.4)


async def test_the_round_trip_does_not_count_the_making_of_a_connection(clock: ManualClock) -> None:
    """The next call may use a connection that is kept open, and so arrive that much sooner."""
    paced = await accustomed(clock, 0.4, connects_s=0.2)
    await paced.send(paced.take(), TimedCall(clock, connects_s=0.2, takes_s=0.4))
    assert paced.wait_s() == pytest.approx(1.0 - 0.95 * 0.4)


@pytest.mark.parametrize("kind", ANSWERED)
async def test_a_refusal_is_an_answer(clock: ManualClock, kind: CloudErrorKind) -> None:
    paced, refusal = await accustomed(clock, 0.4), error(kind)
    with pytest.raises(CloudError) as caught:
        await paced.send(paced.take(), TimedCall(clock, takes_s=0.4, fails=refusal))
    assert caught.value is refusal
    assert paced.wait_s() == pytest.approx(1.0 - 0.95 * 0.4)


@pytest.mark.parametrize(
    "failure", [*map(error, UNANSWERED), LookupError("a bug"), asyncio.CancelledError()], ids=repr
)
async def test_a_call_that_failed_without_an_answer_gives_its_permit_back_after_a_full_second(
    clock: ManualClock, failure: BaseException
) -> None:
    paced = limiter(clock)
    clock.advance(60)
    with pytest.raises(type(failure)) as caught:
        await paced.send(paced.take(), TimedCall(clock, takes_s=0.4, fails=failure))
    assert caught.value is failure
    assert paced.wait_s() == 1.0
    clock.advance(1)
    assert await paced.send(paced.take(), TimedCall(clock)) == "the answer"


async def test_a_call_that_was_cut_off_gives_its_permit_back(clock: ManualClock) -> None:
    paced, never = limiter(clock), asyncio.Event()
    clock.advance(1)
    sending = asyncio.ensure_future(paced.send(paced.take(), never.wait))
    await clock.waits.get()
    assert math.isinf(paced.wait_s())
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert paced.wait_s() == 1.0


@pytest.mark.parametrize(("ceiling", "gap_s"), [(None, 0.0), (4, 0.95 / 4)])
async def test_the_ceiling_of_a_refusal_spaces_the_calls_and_one_refusal_alone_does_not(
    clock: ManualClock, ceiling: int | None, gap_s: float
) -> None:
    paced = limiter(clock, 20)
    clock.advance(1)
    throttled = error(CloudErrorKind.THROTTLED, quota_ceiling=ceiling)
    with pytest.raises(CloudError):
        await paced.send(paced.take(), TimedCall(clock, fails=throttled))
    paced.take()
    assert paced.wait_s() == pytest.approx(gap_s, abs=1e-3)


@pytest.mark.parametrize("kind", CloudErrorKind)
async def test_refusals_teach_a_rate_and_no_other_failure_does(
    clock: ManualClock, kind: CloudErrorKind
) -> None:
    paced = limiter(clock, 10)
    clock.advance(1)
    for number in range(20):
        clock.advance(0.1)
        call = TimedCall(clock, fails=error(kind) if number % 2 else None)
        await asyncio.gather(paced.send(paced.take(), call), return_exceptions=True)
    learnt = 5.0 if kind is CloudErrorKind.THROTTLED else 10.0
    assert paced.quota.allowed_per_s(clock.monotonic()) == pytest.approx(learnt)


@pytest.mark.parametrize("kind", [k for k in CloudErrorKind if k != CloudErrorKind.THROTTLED])
async def test_another_failure_takes_no_permit_away(
    clock: ManualClock, kind: CloudErrorKind
) -> None:
    paced = limiter(clock, 3)
    clock.advance(1)
    with pytest.raises(CloudError):
        await paced.send(paced.take(), TimedCall(clock, fails=error(kind, quota_ceiling=1)))
    clock.advance(1)
    for _ in range(3):
        assert paced.wait_s() == 0.0
        paced.take()


@pytest.mark.parametrize("fails", [None, *map(error, CloudErrorKind), LookupError("a bug")])
async def test_a_permit_is_returned_at_the_end_of_a_call_and_not_at_its_start(
    clock: ManualClock, fails: Exception | None
) -> None:
    paced, answered = limiter(clock), asyncio.Event()
    clock.advance(60)

    async def call() -> None:
        await answered.wait()
        if fails is not None:
            raise fails

    sending = asyncio.ensure_future(paced.send(paced.take(), call))
    await clock.waits.get()
    assert math.isinf(paced.wait_s())
    answered.set()
    await asyncio.gather(sending, return_exceptions=True)
    assert not math.isinf(paced.wait_s())


async def test_throttling_is_logged_once_in_ten_minutes(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    paced = limiter(clock, 20)
    clock.advance(60)
    for _ in range(5):
        call = TimedCall(clock, fails=error(CloudErrorKind.THROTTLED, quota_ceiling=7))
        with pytest.raises(CloudError):
            await paced.send(paced.take(), call)
        clock.advance(130)
    with pytest.raises(CloudError):
        await paced.send(paced.take(), TimedCall(clock, fails=error(CloudErrorKind.NOT_SENT)))
    logged = [r.getMessage() for r in caplog.records]
    assert len(logged) == 1
    assert (
        "TerminateJob of main: the cloud refuses calls (Some.Code: what happened); "
        "the rate is now 7.0 of 20 calls a second"
    ) in logged[0]
    with pytest.raises(CloudError):
        await paced.send(paced.take(), call)
    assert len(caplog.records) == 2


async def test_no_call_leaves_once_the_lease_has_ended(clock: ManualClock) -> None:
    paced = limiter(clock, lease_ends_s=9.0)
    clock.advance(8.5)
    assert paced.wait_s() == 0
    permit = paced.take()
    clock.advance(0.5)
    call = TimedCall(clock)
    with pytest.raises(LeaseLost, match="not renewed in time"):
        await paced.send(permit, call)
    assert call.left_at is None
    assert paced.wait_s() == math.inf
    assert paced.quota.ready_at() < math.inf, "its permit is back"


async def test_no_call_leaves_where_the_lease_ends_while_it_waits_for_its_time(
    clock: ManualClock,
) -> None:
    paced = limiter(clock, 2, spread=True, lease_ends_s=1.25)
    clock.advance(1.0)
    first, second = paced.take(), paced.take()
    await paced.send(first, TimedCall(clock))
    late = TimedCall(clock)
    sending = asyncio.ensure_future(paced.send(second, late))
    await asyncio.sleep(0)
    clock.advance(0.5)
    with pytest.raises(LeaseLost):
        await sending
    assert late.left_at is None


async def test_no_call_leaves_where_the_lease_ends_while_a_connection_is_made(
    clock: ManualClock,
) -> None:
    paced, call = limiter(clock, lease_ends_s=1.5), TimedCall(clock, connects_s=0.6)
    clock.advance(1)
    with pytest.raises(LeaseLost):
        await paced.send(paced.take(), call)
    assert call.left_at is None
