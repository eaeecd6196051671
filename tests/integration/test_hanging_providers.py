"""The daemon as a process while the credential providers of some accounts hang."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import aiohttp
import pytest

from orchestrator.cli.demo.subprocesses import free_ports
from tests.support.daemon_process import (
    ACCOUNT,
    CONFIG,
    REGION,
    SECRET_ID,
    SECRET_KEY,
    STOP_MAX_S,
    Daemon,
    DelayableCloud,
    stopped,
    until,
)

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import AsyncIterator
    from pathlib import Path

    from orchestrator.cli.demo.subprocesses import Child


HEALTHY: Final = "healthy"
FIRST_CALL_MAX_S: Final = 5.0
HANGING: Final = {
    "sts": 'secret_id = "AKIDlong", secret_key = "long", role_arn = "arn", endpoint = "{silent}"',
    "tke-oidc": 'endpoint = "{silent}"',
    "cvm-role": 'endpoint = "{silent}"',
    "profile": 'path = "{directory}/pipe"',
}
THRICE: Final = ("sts", "tke-oidc")
HANGING_ACCOUNT: Final = """
[accounts.{name}]
endpoint = "{cloud}"
cvm_endpoint = "{cloud}"
regions = ["{region}"]
credentials = {{ provider = "{provider}", {options} }}
"""


@asynccontextmanager
async def silent() -> AsyncIterator[tuple[str, list[StreamWriter]]]:
    """A server that accepts requests and never answers; its URL, and the connections."""
    arrived: list[StreamWriter] = []

    def accept(_: StreamReader, writer: StreamWriter) -> None:
        arrived.append(writer)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", arrived
    finally:
        listener.close()
        for writer in arrived:
            writer.close()


def configuration(port: int, directory: Path, cloud_url: str, silent_url: str) -> str:
    """Return the settings of eight accounts whose providers hang, and of one reached by a name."""
    by_name = cloud_url.replace("127.0.0.1", "localhost")
    healthy = ACCOUNT.format(
        name=HEALTHY, cloud=by_name, region=REGION, secret_id=SECRET_ID, secret_key=SECRET_KEY
    )
    hanging = [
        HANGING_ACCOUNT.format(
            name=name,
            cloud=cloud_url,
            region=REGION,
            provider=provider,
            options=HANGING[provider].format(silent=silent_url, directory=directory),
        )
        for name, provider in accounts().items()
    ]
    return "".join((CONFIG.format(port=port, directory=directory), healthy, *hanging))


def accounts() -> dict[str, str]:
    """Return the provider of each account that hangs."""
    return {
        f"{provider}-{number}": provider
        for provider in HANGING
        for number in range(3 if provider in THRICE else 1)
    }


@pytest.fixture
async def daemon(
    tmp_path: Path, cloud: DelayableCloud, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Daemon, list[StreamWriter]]]:
    token_file = tmp_path / "token"
    token_file.write_text("jwt")
    for name in ("TKE_REGION", "TKE_PROVIDER_ID", "TKE_ROLE_ARN"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("TKE_WEB_IDENTITY_TOKEN_FILE", str(token_file))
    os.mkfifo(tmp_path / "pipe")
    (port,) = free_ports(1)
    async with (
        silent() as (silent_url, arrived),
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client,
    ):
        text = configuration(port, tmp_path, cloud.url, silent_url)
        file = tmp_path / "orchestrator.toml"
        file.write_text(text)
        file.chmod(0o644)
        yield Daemon(tmp_path, port, client), arrived


async def all_hang(made: Daemon, arrived: list[StreamWriter], process: Child) -> None:
    """Submit a job for each, and wait until every provider that sends requests waits."""
    for number, account in enumerate(accounts()):
        await made.submit(f"job-hangs{number:03}", account=account)
    over_http = sum(provider != "profile" for provider in accounts().values())
    await until(lambda: len(arrived) >= over_http, process)


@pytest.mark.timeout(120)
async def test_providers_that_hang_affect_only_their_own_accounts(
    cloud: DelayableCloud, daemon: tuple[Daemon, list[StreamWriter]]
) -> None:
    """The host of another account is resolved and called, and its job is terminated meanwhile."""
    made, arrived = daemon
    host = urlsplit(cloud.url).netloc.replace("127.0.0.1", "localhost")
    async with made.serving() as process:
        await all_hang(made, arrived, process)
        asked_s = monotonic()
        operation_id = await made.submit("job-runs0001", account=HEALTHY)
        await until(lambda: cloud.called("job-runs0001"), process)
        assert monotonic() - asked_s < FIRST_CALL_MAX_S
        ended = await made.finished(operation_id)
        assert await stopped(process, signal.SIGTERM) < STOP_MAX_S
    assert ended["job-runs0001"]["state"] == "verified"
    log = process.log.read_text()
    assert f"account {HEALTHY} calls {host} directly" in log
    assert f"every user of this host can read {made.directory}/orchestrator.toml" in log


@pytest.mark.timeout(120)
async def test_it_stops_in_time_while_they_hang(
    cloud: DelayableCloud, daemon: tuple[Daemon, list[StreamWriter]]
) -> None:
    made, arrived = daemon
    async with made.serving() as process:
        await all_hang(made, arrived, process)
        assert await stopped(process, signal.SIGTERM) < STOP_MAX_S
    assert cloud.simulator.calls == []
