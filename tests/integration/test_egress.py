"""A daemon whose calls leave through a proxy, and its log of that at its start."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp
import pytest

from orchestrator.domain.errors import ConfigurationError
from orchestrator.simulator.http.app import serve
from orchestrator.simulator.simulator import Simulator
from tests.support.http_proxy import HttpProxy
from tests.support.service import Service, daemon, settings, simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from orchestrator.settings import Settings

SECRET = "pr0xy-secret"
JOB = "job-proxied1"
CLOUD = "http://batch.test"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def logged_proxies(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the log messages about the account's proxy."""
    lines = [record.getMessage() for record in caplog.records]
    prefix = "account main "
    return [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]


@asynccontextmanager
async def proxied_cloud(**proxy: str) -> AsyncIterator[tuple[Simulator, HttpProxy]]:
    """A cloud with one job, at a name that only a proxy resolves."""
    cloud = simulator({"ids": [JOB], "instances": 2, "drain_s": 0.1})
    async with serve(cloud) as url:
        port = urlsplit(url).port
        assert port is not None
        async with HttpProxy(port, **proxy) as made:
            yield cloud, made


async def stopped_it(made: Settings) -> None:
    async with daemon(made) as url, aiohttp.ClientSession(url) as client:
        service = Service(made, Simulator(secret_keys={}), client)
        ended = await service.until(await service.submit(JOB), JOB, "verified", "refused")
    assert ended["state"] == "verified", ended


async def test_every_call_goes_through_the_proxy_that_is_configured(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The proxy is logged at the start, without its password."""
    caplog.set_level(logging.INFO)
    async with proxied_cloud(user="me", password=SECRET) as (cloud, proxy):
        url = f"http://me:{SECRET}@127.0.0.1:{proxy.port}"
        await stopped_it(settings(CLOUD, sqlite_url, egress={"proxy": url}))
    assert {line.split()[1] for line in proxy.asked} == {f"{CLOUD}/"}
    assert {call.action for call in cloud.calls} >= {"TerminateJob", "DescribeInstances"}
    assert logged_proxies(caplog) == [f"calls batch.test through proxy {proxy.url} (egress.proxy)"]
    assert SECRET not in caplog.text


async def test_every_call_goes_through_the_proxy_of_the_environment(
    sqlite_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    async with proxied_cloud() as (_, proxy):
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "elsewhere.test")
        await stopped_it(settings(CLOUD, sqlite_url))
    assert logged_proxies(caplog) == [f"calls batch.test through proxy {proxy.url} (HTTP_PROXY)"]


async def test_an_unusable_proxy_is_reported_before_any_call(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "none.pem"
    made = settings(CLOUD, sqlite_url, egress={"ca_file": missing})
    with pytest.raises(ConfigurationError, match=f"accounts.main: ca_file {missing}"):
        async with daemon(made):
            pass
    monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="HTTP_PROXY: must be"):
        async with daemon(settings(CLOUD, sqlite_url)):
            pass
