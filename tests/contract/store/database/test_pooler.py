"""Behind PgBouncer in transaction mode: each transaction may get another connection."""

from __future__ import annotations

import asyncio
import os
import pwd
import random
import shutil
import socket
import subprocess
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import make_url

from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.errors import LeaseLost
from orchestrator.domain.leasing.leases import FencingToken
from orchestrator.domain.model.attempt import AttemptResult, NewAttempt
from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.observation import CallAcknowledged, CallStarted, Withdrawn
from orchestrator.store.database import postgresql
from orchestrator.store.database.database import Database
from orchestrator.store.database.migrations import alembic_config, upgrade
from orchestrator.store.database.url import dialect_of
from orchestrator.store.partition.lease_store import SqlLeaseStore
from orchestrator.store.partition.partition_store import PartitionStore
from orchestrator.store.records.queries import SqlRecords
from tests.support.leases import HOUR_S
from tests.support.operation_records import operation_record, operation_records
from tests.support.stored_operations import PARTITION, due_for_batch_poll, submit
from tests.unit.domain.build import LIVE, NOW, POLICY, later, read

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.support.postgres import Server

PACKAGED = "/usr/sbin/pgbouncer"
START_TIMEOUT_S = 10.0
HEAD = ScriptDirectory.from_config(alembic_config()).get_current_head()
ON_THE_SERVER = 2
"""Connections that all clients share."""


def _binary() -> str:
    found = shutil.which("pgbouncer") or shutil.which(PACKAGED)
    if found is None:
        pytest.skip(f"no pgbouncer in PATH nor at {PACKAGED}: apt-get install pgbouncer")
    return found


def _somebody() -> dict[str, Any]:
    """Return a user to run PgBouncer as: it refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _settings(server: Server, port: int, folder: Path) -> str:
    url = make_url(server.url)
    login = f"user={url.username}" + (f" password={url.password}" if url.password else "")
    lines = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "any",
        "pool_mode": "transaction",
        "default_pool_size": ON_THE_SERVER,
        "max_client_conn": 200,
        "logfile": folder / "log",
    }
    options = "".join(f"{name} = {value}\n" for name, value in lines.items())
    return (
        f"[databases]\n* = host={url.host} port={url.port or 5432} {login}\n[pgbouncer]\n{options}"
    )


def _is_ready(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def pooler(postgres: Server) -> Iterator[int]:
    """The port of a PgBouncer in front of the server."""
    binary = _binary()
    # Below those that the kernel gives to clients.
    port = random.randrange(20_000, 32_000)
    while _is_ready(port):
        port = random.randrange(20_000, 32_000)
    with TemporaryDirectory(prefix="orchestrator-pgbouncer-") as name:
        folder = Path(name)
        (folder / "settings").write_text(_settings(postgres, port, folder))
        if user := _somebody():
            os.chown(folder, user["user"], user["group"])
        with subprocess.Popen(
            [binary, "-q", folder / "settings"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **_somebody(),
        ) as process:
            try:
                deadline = time.monotonic() + START_TIMEOUT_S
                while not _is_ready(port):
                    if process.poll() is not None or time.monotonic() > deadline:
                        pytest.fail(f"pgbouncer did not start:\n{(folder / 'log').read_text()}")
                    time.sleep(0.01)
                yield port
            finally:
                process.terminate()


@pytest.fixture
async def empty(postgres: Server, pooler: int) -> AsyncIterator[tuple[str, str]]:
    """An empty database: its URL through the pooler, and its direct URL."""
    async with postgres.database() as url:
        behind = make_url(url).set(host="127.0.0.1", port=pooler)
        yield behind.render_as_string(hide_password=False), url


@pytest.fixture
async def urls(empty: tuple[str, str]) -> tuple[str, str]:
    await upgrade(empty[1])
    return empty


@pytest.fixture
async def replicas(urls: tuple[str, str]) -> AsyncIterator[list[Database]]:
    """Replicas with many more connections than the pooler has."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(Database(urls[0], lambda: datetime.now(UTC)))
            for _ in range(3)
        ]


def records(database: Database) -> SqlRecords:
    return SqlRecords(database, lambda: NOW)


async def left_behind(server: Server, url: str) -> set[Any]:
    """Return prepared statements, channels, locks and settings of the pooler's own connections."""
    name = make_url(url).database
    async with asyncio.timeout(START_TIMEOUT_S):
        while True:
            states = await server.fetch(
                "SELECT state FROM pg_stat_activity WHERE datname = $1 AND state <> 'idle'", name
            )
            if not states:
                break
            await asyncio.sleep(0.01)
    # Every connection has its own state, and the pooler hands out the one used last.
    asked = (
        "SELECT (SELECT count(*) FROM pg_prepared_statements WHERE name <> ''),"
        " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'),"
        " current_setting('statement_timeout'), current_setting('lock_timeout'),"
        " current_setting('idle_in_transaction_session_timeout'),"
        " current_setting('transaction_isolation'), current_setting('transaction_read_only')"
    )
    engines = [dialect_of(url).upgrader() for _ in range(ON_THE_SERVER)]
    found = set()
    async with AsyncExitStack() as stack:
        for engine in engines:
            stack.push_async_callback(engine.dispose)
            # Open at the same time, so that the two get two connections.
            connection = await stack.enter_async_context(engine.connect())
            found.add(tuple((await connection.exec_driver_sql(asked)).one()))
    return found


CLEAN = {(0, 0, "0", "0", "0", "read committed", "off")}


async def test_many_upgrade_at_once(postgres: Server, empty: tuple[str, str]) -> None:
    found = await asyncio.gather(*(upgrade(empty[0]) for _ in range(4)))
    assert [each.revision for each in found] == [HEAD] * 4
    assert (await upgrade(empty[1])).revision == HEAD
    assert await left_behind(postgres, empty[0]) == CLEAN


async def test_a_job_is_terminated(
    postgres: Server, urls: tuple[str, str], replicas: list[Database]
) -> None:
    database, other, _ = replicas
    leases = SqlLeaseStore(database)
    await leases.join("a", [PARTITION], HOUR_S)
    (fence,) = await leases.take("a", {PARTITION: 0})
    await submit(records(other), 1, "job-1", "job-2")
    store = PartitionStore(database, fence)
    queued = {each.job_id: each for each in await due_for_batch_poll(store, 10)}
    await store.postpone([queued["job-2"].id], later(99))
    seen = read(JobState.RUNNING, LIVE, at=later(1))
    polled = decide(queued["job-1"], seen, later(1), POLICY)
    await store.apply([(queued["job-1"], polled)], later(1))
    (ready, _) = await due_for_batch_poll(store, 10)
    started = decide(ready, CallStarted(), later(2), POLICY)
    attempt = NewAttempt(action="TerminateJob", target="job-1", sent_at=later(2))
    assert await store.start_attempt(ready, started, attempt) == 1
    (sending,) = await store.with_open_attempts()
    accepted = decide(sending, CallAcknowledged("r"), later(3), POLICY)
    await store.finish_attempt(sending, accepted, AttemptResult(at=later(3), outcome="accepted"))
    found = await records(other).terminations(after=0, limit=10, operation_id="op_1")
    assert [len(each.attempts) for each in found] == [1, 0]
    assert await store.with_open_attempts() == []
    recorded = await records(other).events(
        after=0, limit=99, operation_id="op_1", termination_id=None
    )
    assert [each.id for each in recorded] == sorted(each.id for each in recorded)
    await records(other).ping()
    assert await left_behind(postgres, urls[0]) == CLEAN


async def test_leases_pass_to_another_replica(replicas: list[Database]) -> None:
    one, other = (SqlLeaseStore(each) for each in replicas[:2])
    await asyncio.gather(one.join("a", [PARTITION], HOUR_S), other.join("b", [PARTITION], HOUR_S))
    taken = await asyncio.gather(one.take("a", {PARTITION: 0}), other.take("b", {PARTITION: 0}))
    assert sorted(len(each) for each in taken) == [0, 1]
    await one.leave("a")
    await other.leave("b")
    await one.join("c", [PARTITION], HOUR_S)
    standing = await one.renew("c", HOUR_S)
    assert standing is not None
    assert standing.holders == {PARTITION: None}
    (fence,) = await one.take("c", standing.epochs)
    assert fence == FencingToken(PARTITION, 2)
    with pytest.raises(LeaseLost):
        await PartitionStore(replicas[0], FencingToken(PARTITION, 1)).set_health(None, None)


async def test_many_at_once(
    postgres: Server, urls: tuple[str, str], replicas: list[Database]
) -> None:
    leases = SqlLeaseStore(replicas[0])
    await leases.join("a", [PARTITION], HOUR_S)
    (fence,) = await leases.take("a", {PARTITION: 0})

    async def ask(database: Database, first: int) -> None:
        for number in range(first, first + 10):
            await submit(records(database), number, "shared", f"job-{number}")
            assert await operation_record(records(database), f"op_{number}") is not None

    await asyncio.gather(
        *(ask(each, 1000 * n + 100 * m) for n, each in enumerate(replicas) for m in range(3))
    )
    store = PartitionStore(replicas[0], fence)
    while rows := await due_for_batch_poll(store, 50):
        await store.apply([(row, decide(row, Withdrawn(), NOW, POLICY)) for row in rows], NOW)
    every = await operation_records(records(replicas[1]))
    assert len(every) == 90
    assert {each.outcome for each in every} == {"withdrawn"}
    assert await left_behind(postgres, urls[0]) == CLEAN


async def test_listening_causes_no_errors(
    replicas: list[Database], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Behind a pooler all notifications may be lost."""
    monkeypatch.setattr(postgresql, "STALLED_CHECK_S", 0.02)
    async with AsyncExitStack() as stack:
        for each in replicas:
            await stack.enter_async_context(each.listening(lambda _: None))
        for number in range(60):
            each = replicas[number % 3]
            await submit(records(each), number, f"job-{number}")
            await asyncio.gather(
                *(operation_record(records(each), f"op_{number}") for _ in range(4))
            )
    assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == []
