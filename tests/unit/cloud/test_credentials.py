"""Each credential provider against real files, variables and services."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from orchestrator.cloud.credentials import _Source, build_provider
from orchestrator.cloud.refreshing import RefreshingProvider
from orchestrator.cloud.transport import AiohttpTransport
from orchestrator.domain.errors import CloudError, CloudErrorKind, ConfigurationError
from tests.support import HANG_S
from tests.support.clock import NOON, ManualClock
from tests.unit.cloud.support import NoTransport, served

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.cloud.signing import Credential

KEYS = {"TmpSecretId": "AKIDtmp", "TmpSecretKey": "tmp-key", "Token": "tmp-token"}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SECRET_ID", "SECRET_KEY", "TOKEN"):
        monkeypatch.delenv(f"TENCENTCLOUD_{name}", raising=False)


async def get(kind: str, **options: str | int | Path) -> Credential:
    transport = AiohttpTransport()
    try:
        return await build_provider(kind, options, ManualClock(), transport).get()
    finally:
        await transport.close()


async def failure(kind: str, **options: str | int | Path) -> CloudError:
    with pytest.raises(CloudError) as caught:
        await get(kind, **options)
    assert caught.value.kind is CloudErrorKind.CREDENTIAL
    assert caught.value.advice
    return caught.value


def parts(credential: Credential) -> tuple[str, str, str | None]:
    return credential.secret_id, credential.secret_key, credential.token


# --- configuration -------------------------------------------------------------------------------


def test_unknown_kind_is_a_configuration_error() -> None:
    """The message lists the known providers."""
    with pytest.raises(ConfigurationError, match=r"'vault'.*static, environment"):
        build_provider("vault", {}, ManualClock(), NoTransport())


@pytest.mark.parametrize(
    ("kind", "missing"),
    [("static", ["secret_id", "secret_key"]), ("sts", ["secret_id", "secret_key", "role_arn"])],
)
def test_all_missing_options_are_named_at_once(kind, missing) -> None:
    """An option that is None counts as missing."""
    with pytest.raises(ConfigurationError) as caught:
        build_provider(kind, {"secret_id": None, "endpoint": None}, ManualClock(), NoTransport())

    assert caught.value.problems == [f"{kind} credentials need {name}" for name in missing]


async def test_static_keys_are_given_as_they_are_but_for_blanks_around() -> None:
    """Whitespace around a key, such as a line end from a secret file, is removed."""
    credential = await get("static", secret_id=" AKID ", secret_key="key\n", token="")

    assert parts(credential) == ("AKID", "key", None)
    assert credential.expires_at is None


@pytest.mark.parametrize("secret_key", ["", "  ", "a\r\nX-Evil: 1", "ключ"])
async def test_text_that_cannot_be_a_key_is_refused_and_not_shown(secret_key) -> None:
    """No part of it reaches a header or a message."""
    error = await failure("static", secret_id="AKID", secret_key=secret_key)

    assert "Evil" not in str(error)
    assert "AKID" not in str(error)


# --- environment ---------------------------------------------------------------------------------


async def test_environment_is_read_with_its_token(monkeypatch) -> None:
    """TENCENTCLOUD_TOKEN is read, as by tccli; the vendor's SDK ignores it."""
    monkeypatch.setenv("TENCENTCLOUD_SECRET_ID", "AKID")
    monkeypatch.setenv("TENCENTCLOUD_SECRET_KEY", "key")
    monkeypatch.setenv("TENCENTCLOUD_TOKEN", "token")

    assert parts(await get("environment")) == ("AKID", "key", "token")


@pytest.mark.parametrize("name", ["TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY"])
async def test_half_an_environment_is_none(monkeypatch, name) -> None:
    """The advice names both variables."""
    monkeypatch.setenv(name, "x")

    error = await failure("environment")

    assert "TENCENTCLOUD_SECRET_ID and TENCENTCLOUD_SECRET_KEY" in str(error.advice)


# --- CVM role ------------------------------------------------------------------------------------


async def test_role_of_the_machine_is_found_and_its_keys_read() -> None:
    """Two requests: the name of the bound role, then its keys with their expiry."""
    paths = []

    async def metadata(request):
        paths.append(request.raw_path)
        if request.path.endswith("/security-credentials/"):
            return web.Response(text="my role?")
        expires_s = int((NOON + timedelta(hours=6)).timestamp())
        return web.json_response(KEYS | {"Code": "Success", "ExpiredTime": expires_s})

    async with served(metadata) as url:
        credential = await get("cvm-role", endpoint=f"{url}/latest/meta-data/")

    assert parts(credential) == ("AKIDtmp", "tmp-key", "tmp-token")
    assert credential.expires_at == NOON + timedelta(hours=6)
    folder = "/latest/meta-data/cam/security-credentials/"
    assert paths == [folder, folder + "my%20role%3F"]


async def test_named_role_is_read_at_once() -> None:
    """A configured role saves the request for its name."""
    paths = []

    async def metadata(request):
        paths.append(request.path)
        return web.json_response(KEYS | {"Code": "Success", "ExpiredTime": 4102444800})

    async with served(metadata) as url:
        await get("cvm-role", role="r", endpoint=url)

    assert paths == ["/cam/security-credentials/r"]


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (404, "not found"),
        (500, json.dumps(KEYS | {"Code": "Success", "ExpiredTime": 4102444800})),
        (200, "<html>"),
        (200, "[]"),
        (200, json.dumps(KEYS | {"Code": "Failed", "ExpiredTime": 4102444800})),
        (200, json.dumps(KEYS | {"Code": "Success"})),
        (200, json.dumps(KEYS | {"Code": "Success", "ExpiredTime": 10**30})),
        (200, json.dumps({"Code": "Success", "ExpiredTime": 4102444800})),
    ],
)
async def test_metadata_without_keys_is_an_error_with_advice(status, text) -> None:
    """An invalid reply is an error; the vendor's SDK returns (None, None, None) for these."""

    async def metadata(request):
        return web.Response(status=status, text=text)

    async with served(metadata) as url:
        error = await failure("cvm-role", role="r", endpoint=url)

    assert error.message.startswith("CVM role: ")


async def test_machine_without_metadata_is_an_error_with_advice(unused_tcp_port) -> None:
    """A host that is not a CVM instance has no metadata service."""
    error = await failure("cvm-role", endpoint=f"http://127.0.0.1:{unused_tcp_port}")

    assert "bind a CAM role" in str(error.advice)


async def test_no_proxy_is_asked_for_the_keys_of_this_machine(monkeypatch) -> None:
    """A proxy would return the keys of its own machine."""
    paths = []

    async def metadata(request):
        paths.append(request.path)
        return web.json_response(KEYS | {"Code": "Success", "ExpiredTime": 4102444800})

    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with served(metadata) as url:
        await get("cvm-role", role="r", endpoint=url)

    assert len(paths) == 1


async def test_an_endless_answer_of_the_metadata_is_given_up() -> None:
    async def metadata(request):
        answer = web.StreamResponse()
        await answer.prepare(request)
        with suppress(ConnectionError):
            for _ in range(1000):
                await answer.write(b"[" * 65536)
        return answer

    async with served(metadata) as url:
        error = await failure("cvm-role", role="r", endpoint=url)

    assert "larger than 65,536 bytes" in error.message


# --- keys that are corrected in place ------------------------------------------------------------


class Configured:
    """Credentials section of a configuration file that is edited during the test."""

    def __init__(self, secret_key: str) -> None:
        self.secret_key = secret_key
        self.broken = False
        self.reads = 0

    def read(self) -> dict[str, str | int | Path | None]:
        self.reads += 1
        if self.broken:
            raise ConfigurationError(["it is not TOML"])
        return {"secret_id": "AKID", "secret_key": self.secret_key}


async def test_a_key_that_was_corrected_in_the_configuration_is_taken_over(caplog) -> None:
    """The new key is read after the cloud refused the old one, at most every 30 s."""
    file, clock = Configured("wrong"), ManualClock()
    caplog.set_level("INFO")
    provider = build_provider(
        "static", file.read(), clock, NoTransport(), account="prod", reread=file.read
    )
    first = await provider.get()
    file.reads = 0
    file.secret_key = "right"
    for clock.passed_s in (1.0, 10.0, 29.0):
        provider.invalidate(first)
        assert await provider.get() is first
    assert file.reads == 0

    clock.passed_s = 30.0
    assert (await provider.get()).secret_key == "right"
    assert file.reads == 1
    (record,) = caplog.records
    assert record.getMessage().startswith("account prod: the cloud refused the credential; a new")


async def test_a_configuration_that_cannot_be_read_again_leaves_the_keys_as_they_are(
    caplog,
) -> None:
    """The file may be incomplete while someone edits it."""
    file, clock = Configured("key"), ManualClock()
    provider = build_provider(
        "static", file.read(), clock, NoTransport(), account="prod", reread=file.read
    )
    first = await provider.get()
    file.broken = True
    clock.passed_s = 30.0
    provider.invalidate(first)
    assert (await provider.get()).secret_key == "key"
    assert "account prod: the configuration cannot be read again" in caplog.text
    assert "it is not TOML" in caplog.text


async def test_a_read_that_hangs_is_given_up_and_takes_one_thread(tmp_path) -> None:
    """A named pipe without a writer stands for a hanging file system."""
    path, clock = tmp_path / "pipe", ManualClock()
    os.mkfifo(path)
    source = _Source("profile", {"path": path}, clock, NoTransport(), "prod", None)
    provider = RefreshingProvider(source.load, clock=clock, timeout_s=0.1)
    before, messages = set(threading.enumerate()), []
    for clock.passed_s in (0.0, 30.0, 60.0):
        with pytest.raises(CloudError) as caught:
            await provider.get()
        messages.append(caught.value.message)
    assert messages == [
        "the credential was not loaded within 0.1 s",
        *["profile: the previous read of the keys has not finished"] * 2,
    ]
    (hanging,) = set(threading.enumerate()) - before
    path.write_text("[default]\nsecret_id=AKID\nsecret_key=key\n", encoding="utf-8")
    async with asyncio.timeout(HANG_S):
        while hanging.is_alive():  # noqa: ASYNC110 - it is a thread
            await asyncio.sleep(0.01)
