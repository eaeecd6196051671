"""The daemon under load while its PostgreSQL is stopped, or full, or cannot be reached."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import asyncpg
import pytest
from sqlalchemy import make_url

from orchestrator.api.problems import CONTENT_TYPE
from orchestrator.domain.model.attempt import TERMINATE_JOB
from orchestrator.store.database import database as module
from tests.support.call_checks import called_unread
from tests.support.postgres import own_server
from tests.support.service import service
from tests.support.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from orchestrator.simulator.simulator import Simulator
    from tests.support.postgres import OwnServer
    from tests.support.service import Service

OPERATIONS: Final = "/v1/operations"
READYZ: Final = "/readyz"
LIVEZ: Final = "/livez"
WHY: Final = re.compile(
    "(.+ fails: |the leases cannot be renewed: )?"
    "the database (cannot be (read|written): .+|is read by too many at once); "
)
"""Errors of /readyz during an outage and shortly after: each loop tries within five seconds."""
RENEWAL_DEADLINE_S: Final = 2.0
ENGINE: Final = {
    "settle_s": 0.2,
    "call_timeout_s": 2.0,
    "poll": {
        "batch_min_interval_s": 0.05,
        "batch_max_interval_s": 0.1,
        "held_interval_s": 0.1,
        "settling_interval_s": 0.1,
    },
    "lease": {"duration_s": 3.0, "renewal_deadline_s": RENEWAL_DEADLINE_S, "retry_s": 0.5},
}
MANY: Final = [f"job-many{n:04}" for n in range(60)]
MORE: Final = [f"job-more{n:04}" for n in range(200)]
CALLED_BEFORE: Final = 8
"""Number of MANY that are called before the outage begins; the others are not."""

ASK_EVERY_S: Final = 0.4
REPEAT_AFTER_S: Final = 1.0
"""Time after which a client repeats a request that got 503: less than Retry-After."""
ANSWER_MAX_S: Final = 12.0
READYZ_MAX_S: Final = 10.0
AGAIN_MAX_S: Final = 15.0
ON_ITS_WAY_S: Final = 0.5
"""Limit of the time until the cloud logs a call that has left, in one busy process."""
END_MAX_S: Final = 30.0
KILLED_FOR_S: Final = 4.0
KILLED_EVERY_S: Final = 0.05
BLACK_HOLE_S: Final = 20.0
CONNECTIONS: Final = 12
"""Connections of the server; the daemon needs six."""


@dataclass(frozen=True, slots=True)
class TimedAnswer:
    """An answer of the daemon, with its times by this machine's clock."""

    path: str
    asked_at: float
    at: float
    status: int
    retry_after: str | None
    content_type: str
    body: dict[str, Any]

    @property
    def took_s(self) -> float:
        return self.at - self.asked_at


@dataclass(slots=True)
class Clients:
    """Clients that send requests a few times a second, with the answers that they got."""

    session: aiohttp.ClientSession
    operation_id: str
    answers: list[TimedAnswer] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    acknowledged: dict[str, str] = field(default_factory=dict)
    """Ids by Idempotency-Key."""
    refused: set[str] = field(default_factory=set)
    """Keys whose requests got 503 before that."""
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self) -> None:
        """Send no new request; those that got 503 are repeated until they are acknowledged."""
        self._stop.set()

    async def run(self) -> None:
        reads = (
            f"{OPERATIONS}/{self.operation_id}",
            f"{OPERATIONS}/{self.operation_id}/terminations",
            f"{OPERATIONS}?limit=5",
        )
        async with asyncio.TaskGroup() as requests:
            for number in count():
                if self._stop.is_set() or number == len(MORE):
                    return
                requests.create_task(self._post(MORE[number]))
                requests.create_task(self.ask("GET", READYZ))
                requests.create_task(self.ask("GET", reads[number % len(reads)]))
                requests.create_task(self.ask("GET", LIVEZ))
                await asyncio.sleep(ASK_EVERY_S)

    async def ask(self, method: str, path: str, **more: Any) -> TimedAnswer | None:
        """Send one request; return None if no answer came, which ``wrong`` then names."""
        asked_at = time.time()
        try:
            async with self.session.request(method, path, **more) as answer:
                body = await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            self.wrong.append(f"{method} {path} after {time.time() - asked_at:.1f} s: {error!r}")
            return None
        made = TimedAnswer(
            path,
            asked_at,
            time.time(),
            answer.status,
            answer.headers.get("Retry-After"),
            answer.content_type,
            body,
        )
        self.answers.append(made)
        return made

    async def _post(self, job_id: str) -> None:
        """Submit it under one key until it is acknowledged."""
        body = {"jobs": [job_id], "reason": "a test"}
        while True:
            made = await self.ask(
                "POST", OPERATIONS, json=body, headers={"Idempotency-Key": job_id}
            )
            if made is not None and made.status == 202:
                self.acknowledged[job_id] = made.body["id"]
                return
            self.refused.add(job_id)
            await asyncio.sleep(REPEAT_AFTER_S)

    async def ready_again(self) -> None:
        """Wait until /readyz answers 200 to a request sent from now on."""
        now = time.time()
        async with asyncio.timeout(AGAIN_MAX_S):
            while not any(  # noqa: ASYNC110 - of another process
                answer.path == READYZ and answer.status == 200 and answer.asked_at > now
                for answer in self.answers
            ):
                await asyncio.sleep(0.02)


@dataclass(slots=True)
class Outage:
    """Begin and end of the time in which the database was unreachable, by this machine's clock."""

    began_at: float = 0.0
    ended_at: float = 0.0
    lasts: bool = True
    """False if the database was reachable again at once, time after time."""

    def begins(self) -> None:
        self.began_at = time.time()

    def ends(self) -> None:
        self.ended_at = time.time()


@dataclass(frozen=True, slots=True)
class DatabaseServer:
    """The server, the proxy in front of it, and the daemon's database on it."""

    server: OwnServer
    proxy: TcpProxy
    database: str


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with own_server(
        {"max_connections": str(CONNECTIONS), "superuser_reserved_connections": "0"}
    ) as own:
        yield own


@pytest.fixture(autouse=True)
def _listening(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="orchestrator")


# --- the outages ---------------------------------------------------------------------------------


async def restarted(place: DatabaseServer, outage: Outage) -> None:
    await asyncio.to_thread(place.server.stop)
    outage.begins()
    await asyncio.sleep(3)
    outage.ends()
    await asyncio.to_thread(place.server.start)


async def full(place: DatabaseServer, outage: Outage) -> None:
    """End the daemon's connections, while others take every free one and keep it for a while."""
    async with AsyncExitStack() as stack:
        administrator = await _administrator(place.server, stack)
        while await _kill(administrator, place.database):
            takers = (_administrator(place.server, stack) for _ in range(CONNECTIONS))
            taken = await asyncio.gather(*takers, return_exceptions=True)
            assert {type(each) for each in taken} <= {
                asyncpg.Connection,
                asyncpg.TooManyConnectionsError,
            }
        outage.begins()
        await asyncio.sleep(3)
        outage.ends()


async def killed(place: DatabaseServer, outage: Outage) -> None:
    """End the daemon's connections again and again, at any point of their work."""
    async with AsyncExitStack() as stack:
        administrator = await _administrator(place.server, stack)
        until_s, ended = time.monotonic() + KILLED_FOR_S, 0
        while time.monotonic() < until_s:
            ended += await _kill(administrator, place.database)
            await asyncio.sleep(KILLED_EVERY_S)
        assert ended > CONNECTIONS  # more than it ever has at once: it reconnected
        outage.lasts = False
        outage.begins()
        outage.ends()


async def held(place: DatabaseServer, outage: Outage) -> None:
    """Let nothing pass; afterwards all that was sent meanwhile arrives, late."""
    await _black_hole(place, outage)
    place.proxy.blackhole(False)


async def lost(place: DatabaseServer, outage: Outage) -> None:
    """Let nothing pass; afterwards connections are reset, and what was sent meanwhile is lost."""
    await _black_hole(place, outage)
    place.proxy.cut()
    place.proxy.blackhole(False)


async def _black_hole(place: DatabaseServer, outage: Outage) -> None:
    place.proxy.blackhole(True)
    outage.begins()
    await asyncio.sleep(BLACK_HOLE_S)
    outage.ends()


async def _kill(administrator: Any, database: str) -> int:
    """End all connections to a database, and return their number."""
    count: int = await administrator.fetchval(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1",
        database,
    )
    return count


async def _administrator(server: OwnServer, stack: AsyncExitStack) -> Any:
    url = make_url(server.url).set(drivername="postgresql").render_as_string()
    connection = await asyncpg.connect(url)
    stack.push_async_callback(connection.close)
    return connection


# --- the checks ----------------------------------------------------------------------------------


def check_answers(clients: Clients, outage: Outage) -> None:
    assert clients.wrong == []
    for answer in clients.answers:
        assert answer.took_s < (READYZ_MAX_S if answer.path == READYZ else ANSWER_MAX_S), answer
        assert answer.status in ((200,) if answer.path == LIVEZ else (200, 202, 503)), answer
        if answer.status == 503:
            assert int(answer.retry_after or "") > 0, answer
            assert answer.content_type == CONTENT_TYPE, answer
            assert answer.body["status"] == 503, answer
            assert WHY.match(answer.body["detail"]), answer
    ready = [answer for answer in clients.answers if answer.path == READYZ]
    meanwhile = [
        answer
        for answer in ready
        if outage.began_at <= answer.asked_at and answer.at <= outage.ended_at
    ]
    assert {answer.status for answer in meanwhile} == ({503} if outage.lasts else set())
    assert ready[0].status == 200


def check_calls(cloud: Simulator, outage: Outage) -> None:
    assert called_unread(cloud.calls) == []
    may_leave_until = outage.began_at + RENEWAL_DEADLINE_S + ON_ITS_WAY_S
    assert [call for call in cloud.calls if may_leave_until < call.at < outage.ended_at] == []
    resumed_at = min(call.at for call in cloud.calls if call.at > outage.ended_at)
    assert resumed_at - outage.ended_at < AGAIN_MAX_S
    assert {job["live"] for job in cloud.truth() if job["terminations_acted"]} == {0}


async def check_operations(running: Service, clients: Clients) -> None:
    """Check that every key is one operation, and that each has ended once."""
    stored = await listed(running)
    assert {made["id"] for made in stored} == {clients.operation_id, *clients.acknowledged.values()}
    assert len(set(clients.acknowledged.values())) == len(clients.acknowledged)
    assert {made["outcome"] for made in stored} == {"verified"}
    for made in stored:
        found = (await running.get(f"{OPERATIONS}/{made['id']}/events?limit=1000"))["events"]
        own = [event["type"] for event in found if event["termination_id"] is None]
        assert own == ["accepted", "finished"], made
    stopped = Counter(
        termination["job_id"]
        for termination in (await running.terminations(clients.operation_id)).values()
        if termination["state"] == "verified"
    )
    assert stopped == Counter(MANY)


def check_log(caplog: pytest.LogCaptureFixture, outage: Outage) -> None:
    gc.collect()  # which is when asyncio logs an error that was never retrieved
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []
    others = [record for record in caplog.records if record.name != module.__name__]
    assert [record.getMessage() for record in others if record.levelno >= logging.ERROR] == []
    begins, ends = logged_outages(caplog)
    assert begins == ends
    if outage.lasts:
        assert begins["database writes"] == 1
        assert set(begins.values()) == {1}


def logged_outages(caplog: pytest.LogCaptureFixture) -> tuple[Counter[str], Counter[str]]:
    """Return how often each failure was logged, and how often its end."""
    texts = [record.getMessage() for record in caplog.records if record.name == module.__name__]
    begins = (re.match("(.+) fail: .", text) for text in texts)
    ends = (re.match("(.+) work again after ", text) for text in texts)
    return Counter(each[1] for each in begins if each), Counter(each[1] for each in ends if each)


async def listed(running: Service) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    path = f"{OPERATIONS}?limit=100"
    while True:
        page = await running.get(path)
        found += page["operations"]
        if page["next_page_token"] is None:
            return found
        path = f"{OPERATIONS}?limit=100&page_token={page['next_page_token']}"


# --- the tests -----------------------------------------------------------------------------------


@asynccontextmanager
async def under_load(running: Service) -> AsyncIterator[Clients]:
    """Run the clients until the block is left, and all their requests are answered."""
    unlimited = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=2 * ANSWER_MAX_S)
    async with aiohttp.ClientSession(
        running.client._base_url, connector=unlimited, timeout=timeout
    ) as session:
        clients = Clients(session, await running.submit(*MANY))
        async with asyncio.TaskGroup() as group:
            group.create_task(clients.run())
            try:
                yield clients
            finally:
                clients.stop()


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(END_MAX_S):
        while not happened():  # noqa: ASYNC110 - of the cloud, or a log
            await asyncio.sleep(0.01)


def called(cloud: Simulator, *, after: float = 0.0) -> int:
    """Return how many of MANY were called."""
    calls = [call for call in cloud.calls if call.action == TERMINATE_JOB and call.at > after]
    return len({job_id for call in calls for job_id in call.job_ids} & set(MANY))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "breaks",
    [
        restarted,
        full,
        killed,
        pytest.param(held, marks=pytest.mark.timeout(120)),
        pytest.param(lost, marks=pytest.mark.timeout(120)),
    ],
)
async def test_an_outage_is_reported_and_loses_nothing(
    breaks: Callable[[DatabaseServer, Outage], Awaitable[None]],
    server: OwnServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before, outage = asyncio.all_tasks(), Outage()
    groups = [
        {"ids": MANY, "instances": 5, "drain_s": 0.5},
        {"ids": MORE, "instances": 2, "drain_s": 0.1},
    ]
    async with server.database() as url, TcpProxy(server.port) as proxy:
        place = DatabaseServer(server, proxy, str(make_url(url).database))
        proxied = make_url(url).set(port=proxy.port).render_as_string(hide_password=False)
        async with service(proxied, *groups, engine=ENGINE) as running:
            cloud = running.simulator
            async with under_load(running) as clients:
                await until(lambda: called(cloud) >= CALLED_BEFORE)
                broken_at = time.time()
                await breaks(place, outage)
                await clients.ready_again()
            for operation_id in (clients.operation_id, *clients.acknowledged.values()):
                await running.finished(operation_id)
            await until(
                lambda: len({sum(counts.values()) for counts in logged_outages(caplog)}) == 1
            )
            assert called(cloud, after=broken_at) > len(MANY) / 4
            check_answers(clients, outage)
            check_calls(cloud, outage)
            await check_operations(running, clients)
    check_log(caplog, outage)
    await asyncio.sleep(0)
    assert {str(task.get_coro()) for task in asyncio.all_tasks() - before} == set()
