"""A database that cannot be used: the error says so, and no call waits for ever."""

from __future__ import annotations

import asyncio
import resource
import shutil
import sqlite3
import sys
import threading
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import IntegrityError, OperationalError

from orchestrator.domain.errors import StoreUnavailable
from orchestrator.store.database import database as module
from orchestrator.store.database import sqlite
from orchestrator.store.database.database import GROUP_MAX, Database
from orchestrator.store.database.dialect import READERS
from orchestrator.store.database.migrations import upgrade
from orchestrator.store.records.queries import SqlRecords
from orchestrator.store.schema import partitions
from tests.support import HANG_S
from tests.support.operation_records import operation_record
from tests.support.sqlite_refusals import refusal
from tests.support.stored_operations import submit
from tests.unit.domain.build import NOW

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from orchestrator.store.database.transaction import Transaction

NO_WORK = (
    "until they work again, work on jobs may stop and requests are answered with 503: see the "
    "database's server or disk"
)
NOTED = "SELECT name FROM partitions WHERE holder IS NULL"
"""Longer than anything here takes, unless it hangs."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of ``database_url``; it exists only if a test requests that fixture."""
    return tmp_path / "orchestrator.db"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite alone is tested here."""
    return sqlite_url


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BUSY_TIMEOUT_S", "CLOSE_S", "READ_WAIT_S"):
        monkeypatch.setattr(module, name, 0.1)
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.1)
    monkeypatch.setattr(module, "CALM_S", 0.0)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process has begun to write, and does not end its transaction."""
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
    finally:
        other.close()


@contextmanager
def full(bytes_max: int) -> Iterator[None]:
    """Limit all files to this size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def moved(path: Path, *, another: bool) -> Iterator[None]:
    """Move the file away for a while, with ``another`` in its place."""
    elsewhere = path.rename(path.with_name("moved.db"))
    if another:
        path.touch()
    yield
    elsewhere.rename(path)


def note(name: str) -> Callable[[Transaction], Awaitable[str]]:
    """Make one write."""

    async def work(connection: Transaction) -> str:
        await connection.execute(insert(partitions).values(name=name, epoch=0))
        return name

    return work


async def noted(database: Database) -> set[str]:
    async with database.read() as connection:
        return {
            row.name
            for row in await connection.execute(
                text("SELECT name FROM partitions WHERE holder IS NULL")
            )
        }


async def under_way(database: Database, *names: str) -> list[asyncio.Task[str]]:
    """Start writes that wait for their commit."""
    tasks = [asyncio.create_task(database.write(note(name))) for name in names]
    await asyncio.sleep(0)
    return tasks


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [
        (record.levelname, record.message)
        for record in caplog.records
        if record.name == module.__name__
    ]


# --- upgrading -----------------------------------------------------------------------------------


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    problem = await refusal(tmp_path / "nowhere" / "x.db")
    assert "unable to open database file; give the path of a database of this program" in problem


async def test_a_database_that_another_process_writes(path: Path) -> None:
    with locked(path):
        problem = await refusal(path)
    assert "database is locked; another process holds its write lock" in problem
    await upgrade(f"sqlite+aiosqlite:///{path}")


def scribble(path: Path, page: int) -> bytes:
    with path.open("r+b") as file:
        file.seek(page * 4096)
        file.write(b"\xa5" * 2048)
    return path.read_bytes()


@pytest.mark.parametrize("page", [2, 5, 9])
async def test_a_file_that_is_damaged(path: Path, page: int) -> None:
    """Damage at any place is found, although the file can still be opened."""
    await upgrade(f"sqlite+aiosqlite:///{path}")
    damaged = scribble(path, page)
    problem = await refusal(path)
    assert "restore a backup, or save what can be read" in problem
    assert path.read_bytes() == damaged  # noqa: ASYNC240


async def test_a_disk_that_is_full(path: Path) -> None:
    with full(20_000):
        problem = await refusal(path)
    assert problem.endswith("; see whether its disk is full or failing")
    await upgrade(f"sqlite+aiosqlite:///{path}")


# --- its files ------------------------------------------------------------------------------------


async def test_written_data_is_durable(database: Database) -> None:
    async with database.read() as connection:
        assert await connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert await connection.scalar(text("PRAGMA synchronous")) == 2


# --- whether it can be written -------------------------------------------------------------------


@pytest.fixture
def records(database: Database) -> SqlRecords:
    return SqlRecords(database, lambda: NOW)


async def test_a_ping_finds_out_that_the_disk_is_full(
    records: SqlRecords, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await records.ping()
    await records.ping()
    with full(path.with_name(f"{path.name}-wal").stat().st_size):
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="cannot be written: disk I/O error"):
                await records.ping()
    await records.ping()
    assert [level for level, _ in logged(caplog)] == ["ERROR", "WARNING"]


FRAME_BYTES = 4096 + 24
"""Size of a page in the -wal."""


async def test_where_a_request_of_one_job_finds_no_room_a_ping_finds_none(
    database: Database, records: SqlRecords, path: Path
) -> None:
    """Also if there would be room for one row."""
    await records.ping()
    refused = []
    for number in range(40):
        async with database.dialect.writers.connect() as connection:
            raw: Any = (await connection.get_raw_connection()).driver_connection
            await raw.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
        with full(number * FRAME_BYTES):
            try:
                await submit(records, number, f"job-{number}", reason="x" * 1000)
            except StoreUnavailable:
                refused.append(number)
                with pytest.raises(StoreUnavailable, match="cannot be written"):
                    await records.ping()
    assert refused[-1] > 10
    assert len(refused) < 40


FULL_DISK = """
import asyncio, os, sys
from pathlib import Path
from orchestrator.domain.errors import StoreUnavailable
from orchestrator.store.database.database import Database
from orchestrator.store.database.migrations import upgrade
from orchestrator.store.records.queries import SqlRecords
from tests.support.stored_operations import submit
from tests.unit.domain.build import NOW

folder = Path(sys.argv[1])

async def stores(work):
    try:
        await work
    except StoreUnavailable:
        return False
    return True

async def main():
    url = f"sqlite:///{folder}/orchestrator.db"
    await upgrade(url)
    async with Database(url, lambda: NOW) as database:
        records = SqlRecords(database, lambda: NOW)
        assert await stores(records.ping())
        with open(folder / "everything else", "wb", buffering=0) as other:
            for number in range(1000):
                found = os.statvfs(folder)
                # Two pages less each time, down to nothing.
                left = max(found.f_bavail - 2, 0) if number else 200
                try:
                    while os.statvfs(folder).f_bavail > left:
                        other.write(bytes(4096))
                except OSError:
                    pass
                stored = await stores(submit(records, number, f"job-{number}", reason="x" * 1000))
                print(int(stored), int(await stores(records.ping())), flush=True)
                if not os.statvfs(folder).f_bavail and not stored:
                    break

asyncio.run(main())
"""


async def test_on_a_disk_that_is_full_nothing_is_ready_that_takes_no_request(
    tmp_path: Path,
) -> None:
    """On a real disk, if this user may mount one."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare in PATH")
    script = 'mount -t tmpfs -o size=4m tmpfs "$1" && exec "$2" -c "$3" "$1"'
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"),
        *(str(tmp_path), sys.executable, FULL_DISK),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(module.__file__).parents[3],
    )
    out, err = await process.communicate()
    if b"unshare" in err or b"mount" in err:
        pytest.skip(f"no file system of our own: {err.decode().strip()}")
    assert process.returncode == 0, err.decode()
    found = [tuple(line.split()) for line in out.decode().splitlines()]
    assert ("1", "1") in found
    assert ("0", "0") in found
    assert ("0", "1") not in found


@pytest.mark.parametrize("another", [False, True])
async def test_a_ping_finds_out_that_the_file_is_gone(
    records: SqlRecords, path: Path, another: bool
) -> None:
    await records.ping()
    with (
        moved(path, another=another),
        pytest.raises(StoreUnavailable, match=r"cannot be written: .*db is no longer the file"),
    ):
        await records.ping()
    await records.ping()


async def test_nothing_is_accepted_into_a_file_that_was_replaced(
    database: Database, path: Path
) -> None:
    await database.write(note("before"))
    with moved(path, another=True), pytest.raises(StoreUnavailable):
        await database.write(note("meanwhile"))
    assert await noted(database) == {"before"}


@pytest.mark.parametrize("another", [False, True])
async def test_nothing_is_accepted_into_a_log_that_is_gone(
    database: Database, path: Path, another: bool
) -> None:
    """The content of the deleted log is saved if the daemon ends cleanly."""
    log = path.with_name(f"{path.name}-wal")
    await database.write(note("before"))
    log.unlink()
    if another:
        log.touch()
    with pytest.raises(
        StoreUnavailable, match=r"-wal is no longer the file.* end the daemon with SIG"
    ):
        await database.write(note("meanwhile"))
    await database.__aexit__()
    with closing(sqlite3.connect(path)) as after:
        assert after.execute(NOTED).fetchall() == [("before",)]


async def test_a_log_that_was_moved_back_is_written_again(database: Database, path: Path) -> None:
    await database.write(note("before"))
    with (
        moved(path.with_name(f"{path.name}-wal"), another=False),
        pytest.raises(StoreUnavailable),
    ):
        await database.write(note("meanwhile"))
    await database.write(note("after"))
    assert await noted(database) == {"before", "after"}


async def test_a_log_that_sqlite_empties_or_recreates_is_continued(
    database: Database, path: Path
) -> None:
    """SQLite does so at a checkpoint, and after the only connection was opened again."""
    log = path.with_name(f"{path.name}-wal")
    await database.write(note("a"))
    async with database.dialect.writers.connect() as connection:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        await raw.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
    assert log.stat().st_size == 0
    await database.write(note("b"))
    await database.dialect.writers.dispose()
    assert not log.exists()
    path.with_name("taken").touch()  # otherwise the new file may get the old one's number
    await database.write(note("c"))
    assert await noted(database) == {"a", "b", "c"}


async def test_a_lock_of_another_process_fails_all_that_wait_at_once(
    database: Database, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun = 0

    async def work(_: object) -> None:
        nonlocal begun
        begun += 1

    with locked(path):
        failed = await asyncio.gather(
            *(database.write(work) for _ in range(GROUP_MAX)), return_exceptions=True
        )
        with pytest.raises(StoreUnavailable):
            await database.write(work)
    assert {str(error) for error in failed} == {
        "the database cannot be written: database is locked"
    }
    assert begun == 0
    await database.write(work)
    await database.write(work)
    begins, ends = logged(caplog)
    assert begins == ("ERROR", f"database writes fail: database is locked; {NO_WORK}")
    assert ends[0] == "WARNING"
    assert ends[1].startswith("database writes work again after ")


async def test_a_database_that_is_full_fails_all_that_share_a_transaction(
    database: Database,
) -> None:
    runs = 0

    async def small(connection: Transaction) -> None:
        nonlocal runs
        runs += 1
        await connection.execute(text("SELECT 1"))

    async def large(connection: Transaction) -> None:
        await connection.execute(
            text("INSERT INTO partitions (name, epoch) SELECT hex(zeroblob(1000000)), 0")
        )

    async with database.dialect.writers.connect() as connection:
        await connection.execute(text("PRAGMA max_page_count = 1"))
    failed = await asyncio.gather(
        database.write(small), database.write(large), return_exceptions=True
    )
    assert {str(error) for error in failed} == {
        "the database cannot be written: database or disk is full"
    }
    assert runs == 1


async def test_a_statement_that_is_wrong_is_a_fault_of_its_own(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async def wrong(connection: Transaction) -> None:
        await connection.execute(text("SELECT nonsense"))

    first, error, second = await asyncio.gather(
        database.write(note("a")),
        database.write(wrong),
        database.write(note("b")),
        return_exceptions=True,
    )
    assert (first, second) == ("a", "b")
    assert "no such column: nonsense" in str(error)
    assert not isinstance(error, StoreUnavailable)
    assert logged(caplog) == []


async def test_a_wrong_read_is_no_outage(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(OperationalError, match="no such column: nonsense"):
        async with database.read() as connection:
            await connection.execute(text("SELECT nonsense"))
    assert logged(caplog) == []


async def test_a_write_whose_caller_was_cancelled_is_written(database: Database) -> None:
    (gone,) = await under_way(database, "gone")
    gone.cancel()
    await database.write(note("after"))
    assert gone.cancelled()
    assert await noted(database) == {"gone", "after"}


async def test_a_write_that_fails_after_its_caller_had_gone_is_logged(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    await database.write(note("twice"))
    (gone,) = await under_way(database, "twice")
    gone.cancel()
    await database.write(note("after"))
    assert logged(caplog) == [
        (
            "ERROR",
            "a database write failed after its request had been given up; report this traceback",
        )
    ]


async def test_items_of_one_work_are_written_in_one_run(database: Database) -> None:
    runs: list[list[str]] = []

    async def write(transaction: Transaction, names: Sequence[str]) -> list[str]:
        runs.append([*names])
        await transaction.execute(
            insert(partitions), [{"name": name, "epoch": 0} for name in names]
        )
        return [f"{name} is written" for name in names]

    await database.write(note("twice"))
    results = await asyncio.gather(
        *(database.write_item(write, name) for name in ("one", "twice", "two")),
        return_exceptions=True,
    )
    assert runs == [["one", "twice", "two"], ["one"], ["twice"], ["two"]]
    assert (results[0], results[2]) == ("one is written", "two is written")
    assert isinstance(results[1], IntegrityError)
    assert await noted(database) == {"twice", "one", "two"}


# --- closing -------------------------------------------------------------------------------------


async def opened(path: Path) -> Database:
    url = f"sqlite+aiosqlite:///{path}"
    await upgrade(url)
    return await Database(url, lambda: NOW).__aenter__()


async def test_waiting_writes_are_made_before_the_close(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slow the machine is."""
    monkeypatch.setattr(module, "CLOSE_S", 50.0)
    database = await opened(path)
    names = {f"p{number}" for number in range(3 * GROUP_MAX)}
    tasks = await under_way(database, *names)
    await database.__aexit__()
    assert set(await asyncio.gather(*tasks)) == names


async def test_it_closes_while_another_process_holds_the_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "BUSY_TIMEOUT_S", 1.0)
    database = await opened(path)
    with locked(path):
        tasks = await under_way(database, *(f"p{number}" for number in range(2 * GROUP_MAX)))
        async with asyncio.timeout(HANG_S):
            await database.__aexit__()
        failed = await asyncio.gather(*tasks, return_exceptions=True)
    assert {repr(error) for error in failed} == {"StoreUnavailable('the database is closed')"}
    unmade = f"{2 * GROUP_MAX} database writes may not have been made, since the daemon stops"
    assert logged(caplog) == [("ERROR", f"{unmade}; the next start continues their work")]
    with pytest.raises(StoreUnavailable, match="closed"):
        await database.write(note("late"))


async def test_it_closes_while_its_disk_hangs(path: Path) -> None:
    database = await opened(path)
    hangs, goes_on = threading.Event(), threading.Event()

    def hang() -> None:
        hangs.set()
        goes_on.wait()

    async def work(transaction: Transaction) -> None:
        raw: Any = (await transaction.connection.get_raw_connection()).driver_connection
        await raw.create_function("hang", 0, hang)
        await transaction.execute(text("SELECT hang()"))

    waiting = asyncio.create_task(database.write(work))
    await asyncio.to_thread(hangs.wait)
    try:
        async with asyncio.timeout(HANG_S):
            await database.__aexit__()
        with pytest.raises(StoreUnavailable, match="closed"):
            await waiting
    finally:
        goes_on.set()
    for thread in threading.enumerate():
        if "_connection_worker_thread" in thread.name:
            await asyncio.to_thread(thread.join)


# --- reading -------------------------------------------------------------------------------------


async def test_too_many_readers_get_an_error_that_asks_for_a_retry(database: Database) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(READERS):
            await stack.enter_async_context(database.read())
        with pytest.raises(StoreUnavailable, match="too many"):
            await stack.enter_async_context(database.read())
    assert await noted(database) == set()


async def test_requests_leave_a_connection_to_the_loops(
    database: Database, records: SqlRecords
) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(READERS - 1):
            await stack.enter_async_context(database.read(for_request=True))
        with pytest.raises(StoreUnavailable, match="too many"):
            await operation_record(records, "op_1")
        assert await noted(database) == set()


async def test_failing_reads_are_logged_when_they_begin_and_when_they_end(
    database: Database, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with moved(path, another=True):
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="no such table"):
                await noted(database)
    for _ in range(2):
        assert await noted(database) == set()
    begins, ends = logged(caplog)
    assert begins == ("ERROR", f"database reads fail: no such table: partitions; {NO_WORK}")
    assert ends[0] == "WARNING"
    assert ends[1].startswith("database reads work again after ")


async def test_too_many_readers_are_logged_once(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(READERS):
            await stack.enter_async_context(database.read())
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await noted(database)
    assert [level for level, _ in logged(caplog)] == ["ERROR", "WARNING"]
    crowded = "database reads fail: the database is read by too many at once"
    assert logged(caplog)[0][1] == f"{crowded}; {NO_WORK}"


async def test_an_intermittent_outage_is_logged_once(
    database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example if some connections work and others do not."""
    monkeypatch.setattr(module, "CALM_S", HANG_S)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            async with database.read() as connection:
                await connection.execute(text("SELECT 1 FROM nonsense"))
        await noted(database)
    assert [level for level, _ in logged(caplog)] == ["ERROR"]


async def test_a_reader_cancelled_as_its_turn_comes_hands_it_on(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_WAIT_S", HANG_S)
    async with AsyncExitStack() as stack:
        for _ in range(READERS - 1):
            await stack.enter_async_context(database.read())
        async with database.read():
            first, second = (asyncio.create_task(noted(database)) for _ in range(2))
            await asyncio.sleep(0)
        first.cancel()
        assert await second == set()
        await asyncio.wait([first])
        assert first.cancelled()


async def test_no_read_waits_in_the_pool(database: Database) -> None:
    """The pool may lose a cancellation."""
    database._read_slots = asyncio.Semaphore(READERS + 1)
    async with asyncio.timeout(HANG_S), AsyncExitStack() as stack:
        for _ in range(READERS + 1):
            await stack.enter_async_context(database.read())
