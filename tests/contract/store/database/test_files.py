"""The files of an SQLite database: place, permissions, and the locks of its process."""

from __future__ import annotations

import os
import stat
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from orchestrator.domain.errors import ConfigurationError, StoreUnavailable
from orchestrator.store.database.database import Database
from orchestrator.store.database.migrations import upgrade
from orchestrator.store.database.process_lock import only_process
from orchestrator.store.database.url import dialect_of
from orchestrator.store.records.queries import SqlRecords
from tests.support.sqlite_refusals import refusal
from tests.unit.domain.build import NOW

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _generous() -> Iterator[None]:
    """A service manager whose umask lets all users read new files."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of a database that does not exist yet."""
    return tmp_path / "real" / "orchestrator.db"


@pytest.fixture(params=["itself", "a link to it", "a link to its folder"])
def named(request: pytest.FixtureRequest, path: Path) -> Path:
    """The path in a configuration, in several forms."""
    path.parent.mkdir()
    if request.param == "itself":
        return path
    link = path.parent.with_name("link")
    if request.param == "a link to it":
        link.symlink_to(path)
        return link
    link.symlink_to(path.parent)
    return link / path.name


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def modes(folder: Path) -> dict[str, int]:
    return {each.name: stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()}


SUFFIXES = ("", "-wal", "-shm", ".lock")


async def test_other_users_cannot_read_them(path: Path, named: Path) -> None:
    url = url_of(named)
    with only_process(url):
        await upgrade(url)
        async with Database(url, lambda: NOW) as database:
            await SqlRecords(database, lambda: NOW).ping()
            assert modes(path.parent) == {f"{path.name}{suffix}": 0o600 for suffix in SUFFIXES}


async def test_those_that_others_could_read_become_private_and_that_is_logged(
    path: Path, named: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = url_of(named)
    path.with_name(f"{path.name}.lock").touch()
    await upgrade(url)
    database = await Database(url, lambda: NOW).__aenter__()
    await SqlRecords(database, lambda: NOW).ping()
    for suffix in SUFFIXES:
        path.with_name(f"{path.name}{suffix}").chmod(0o644)
    # As after a kill, which leaves the -wal.
    dialect_of(url).prepare()
    with only_process(url):
        assert modes(path.parent) == {f"{path.name}{suffix}": 0o600 for suffix in SUFFIXES}
    await database.__aexit__()
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [
        f"{path}{suffix} was readable by other users: its mode is now 0600"
        for suffix in ("", "-wal", "-shm")
    ]


async def test_it_is_locked_where_it_is_however_it_is_named(path: Path, named: Path) -> None:
    refused = pytest.raises(ConfigurationError, match="another daemon runs on this database")
    with only_process(url_of(path)), refused, only_process(url_of(named)):
        pytest.fail("two hold it")
    with only_process(url_of(named)):
        pass


async def test_it_is_locked_under_another_name_of_the_file_itself(path: Path) -> None:
    """A hard link, or a bind mount of the file alone; each name has a -wal of its own."""
    path.parent.mkdir()
    await upgrade(url_of(path))
    other = path.with_name("other.db")
    other.hardlink_to(path)
    refused = pytest.raises(ConfigurationError, match=f"another daemon .* holds {other}:")
    async with AsyncExitStack() as stack:
        stack.enter_context(only_process(url_of(path)))
        database = await stack.enter_async_context(Database(url_of(path), lambda: NOW))
        await SqlRecords(database, lambda: NOW).ping()
        with refused, only_process(url_of(other)):
            pytest.fail("two hold it")
    with only_process(url_of(other)):
        pass


@pytest.mark.parametrize("kind", ["text", "short text", "pipe", "folder"])
def test_a_file_that_is_no_database_is_refused_and_unchanged(path: Path, kind: str) -> None:
    path.parent.mkdir()
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case _:
            path.write_text("to do" if kind == "short text" else "to do: " * 1000)
    before, changed_at = modes(path.parent), path.stat().st_mtime_ns
    why = "not an SQLite database" if "text" in kind else "not a regular file"
    refused = f"{path} cannot be used: it is {why}; give the path of a database"
    with pytest.raises(ConfigurationError, match=refused):
        dialect_of(url_of(path)).prepare()
    with pytest.raises(ConfigurationError, match=refused), only_process(url_of(path)):
        pytest.fail("it is held")
    assert (modes(path.parent), path.stat().st_mtime_ns) == (before, changed_at)


async def test_its_log_is_missed_however_it_is_named(path: Path, named: Path) -> None:
    await upgrade(url_of(named))
    async with Database(url_of(named), lambda: NOW) as database:
        records = SqlRecords(database, lambda: NOW)
        await records.ping()
        log = path.with_name(f"{path.name}-wal")
        log.rename(log.with_name("moved"))
        with pytest.raises(StoreUnavailable, match="-wal is no longer the file"):
            await records.ping()
        log.with_name("moved").rename(log)


async def test_a_link_that_leads_elsewhere_now_is_noticed(path: Path) -> None:
    path.parent.mkdir()
    link = path.parent.with_name("link")
    link.symlink_to(path)
    await upgrade(url_of(link))
    async with Database(url_of(link), lambda: NOW) as database:
        records = SqlRecords(database, lambda: NOW)
        await records.ping()
        link.unlink()
        link.touch()
        with pytest.raises(StoreUnavailable, match="link is no longer the file"):
            await records.ping()


async def test_the_upgrade_reports_whether_the_database_is_new(path: Path, named: Path) -> None:
    first, second = await upgrade(url_of(named)), await upgrade(url_of(named))
    assert str(first) == f"{named}: created, at schema revision {first.revision}"
    assert str(second) == f"{named}: at schema revision {first.revision}"


async def test_where_its_folder_is_missing_nothing_is_made(path: Path) -> None:
    assert "unable to open database file" in await refusal(path)
    assert not path.parent.exists()
