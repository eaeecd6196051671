"""PostgreSQL: the effect of the parts of its URL, and of the files it names, on a connection."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url, text

from orchestrator.domain.errors import ConfigurationError, StoreUnavailable
from orchestrator.store.database.migrations import upgrade
from orchestrator.store.database.url import database_url
from tests.support.postgres import _give_away, own_server
from tests.support.postgresql_replicas import replicas, wait_until_available
from tests.support.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.support.postgres import OwnServer

PASSWORD = r"a:b\c@d/e"


def signed_by_itself(path: Path, *flags: str) -> Path:
    """Create a self-signed certificate, with its key beside it."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl in PATH")
    made = ["-keyout", str(path.with_suffix(".key")), "-out", str(path)]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *flags, *made],
        check=True,
        capture_output=True,
    )
    return path


@pytest.fixture(scope="module")
def certificate() -> Iterator[Path]:
    """The certificate of a server at 127.0.0.1, in a folder that the server can read."""
    with TemporaryDirectory(prefix="orchestrator-tls-") as folder:
        subject = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
        path = signed_by_itself(Path(folder, "server.crt"), *subject)
        path.with_name("hba").write_text(
            "host all someone 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"
        )
        for each in (path.parent, *path.parent.iterdir()):
            _give_away(each)
        path.with_suffix(".key").chmod(0o600)
        yield path


@pytest.fixture(scope="module")
def server(certificate: Path) -> Iterator[OwnServer]:
    """A server with a certificate that requires a password from one user."""
    settings = {
        "ssl": "on",
        "ssl_cert_file": str(certificate),
        "ssl_key_file": str(certificate.with_suffix(".key")),
        "hba_file": str(certificate.with_name("hba")),
    }
    with own_server(settings) as own:
        yield own


@pytest.fixture
async def name(server: OwnServer) -> AsyncIterator[str]:
    """An empty database."""
    await server.fetch(f"CREATE ROLE someone LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
    async with server.database() as url:
        yield str(make_url(url).database)
    await server.fetch("DROP ROLE someone")


async def test_a_password_with_colons_and_backslashes_in_a_password_file_works(
    server: OwnServer, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "passwords"
    monkeypatch.setenv("PGPASSFILE", str(path))
    monkeypatch.delenv("PGPASSWORD", raising=False)
    url = f"postgresql://someone@127.0.0.1:{server.port}/{name}"
    with pytest.raises(ConfigurationError, match="password"):
        await upgrade(url)
    escaped = PASSWORD.replace("\\", r"\\").replace(":", r"\:")
    path.write_text(f"127.0.0.1:*:{name}:someone:{escaped}\n")
    path.chmod(0o600)
    await upgrade(url)
    async with replicas(url, 1) as (database,):
        await wait_until_available(database)


async def test_a_password_in_the_url_is_decoded(server: OwnServer, name: str) -> None:
    url = f"postgresql://someone:a%3Ab%5Cc%40d%2Fe@127.0.0.1:{server.port}/{name}"
    await upgrade(database_url(url, Path()))


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
async def test_the_named_authority_is_the_one_trusted(
    server: OwnServer, name: str, certificate: Path, mode: str
) -> None:
    asked = f"sslmode={mode}&sslrootcert={certificate.name}"
    url = database_url(
        f"postgresql://postgres@127.0.0.1:{server.port}/{name}?{asked}", certificate.parent
    )
    await upgrade(url)
    async with replicas(url, 1) as (database,):
        await wait_until_available(database)
        async with database.read() as connection:
            found = await connection.scalar(
                text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
            )
    assert found is True


async def test_another_authority_is_not_trusted(
    server: OwnServer, name: str, tmp_path: Path
) -> None:
    other = signed_by_itself(tmp_path / "other.crt", "-subj", "/CN=other")
    asked = f"sslmode=verify-full&sslrootcert={other}"
    with pytest.raises(ConfigurationError, match="certificate verify failed"):
        await upgrade(f"postgresql://postgres@127.0.0.1:{server.port}/{name}?{asked}")


async def test_a_server_that_does_not_answer_is_waited_for_as_long_as_configured(
    server: OwnServer, name: str
) -> None:
    async with TcpProxy(server.port) as proxy:
        proxy.blackhole(True)
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await upgrade(f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}?connect_timeout=1")
        assert 0.9 < time.monotonic() - began < 2.5
        proxy.blackhole(False)
