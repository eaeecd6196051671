"""Each provider, against the files, variables and services that it really reads."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from orchestrator.cloud.credentials import build_provider
from orchestrator.domain.errors import CloudError, CloudErrorKind, ConfigurationError
from tests.unit.cloud.support import NOON, ManualClock, served

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.cloud.signing import Credential

KEYS = {"TmpSecretId": "AKIDtmp", "TmpSecretKey": "tmp-key", "Token": "tmp-token"}
STS_ANSWER = {
    "Response": {
        "Credentials": {"TmpSecretId": "AKIDtmp", "TmpSecretKey": "tmp-key", "Token": "tmp-token"},
        "ExpiredTime": int(NOON.timestamp()) + 7200,
        "RequestId": "r-1",
    }
}
ROLE = {
    "secret_id": "AKIDlong",
    "secret_key": "long-key",
    "role_arn": "qcs::cam::uin/1:roleName/r",
}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SECRET_ID", "SECRET_KEY", "TOKEN"):
        monkeypatch.delenv(f"TENCENTCLOUD_{name}", raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


async def get(kind: str, **options: str | int | Path) -> Credential:
    return await build_provider(kind, options, ManualClock()).get()


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
    """The message lists what there is."""
    with pytest.raises(ConfigurationError, match=r"'vault'.*static, environment"):
        build_provider("vault", {}, ManualClock())


@pytest.mark.parametrize(
    ("kind", "missing"),
    [("static", ["secret_id", "secret_key"]), ("sts", ["secret_id", "secret_key", "role_arn"])],
)
def test_all_missing_options_are_named_at_once(kind, missing) -> None:
    """Also those that are there and None."""
    with pytest.raises(ConfigurationError) as caught:
        build_provider(kind, {"secret_id": None, "endpoint": None}, ManualClock())

    assert caught.value.problems == [f"{kind} credentials need {name}" for name in missing]


async def test_static_keys_are_given_as_they_are_but_for_blanks_around() -> None:
    """A line end from a secret file is no part of a key."""
    credential = await get("static", secret_id=" AKID ", secret_key="key\n", token="")

    assert parts(credential) == ("AKID", "key", None)
    assert credential.expires_at is None


@pytest.mark.parametrize("secret_key", ["", "  ", "a\r\nX-Evil: 1", "ключ"])
async def test_text_that_cannot_be_a_key_is_refused_and_not_shown(secret_key) -> None:
    """Nothing of it reaches a header or a message."""
    error = await failure("static", secret_id="AKID", secret_key=secret_key)

    assert "Evil" not in str(error)
    assert "AKID" not in str(error)


# --- environment and profile ---------------------------------------------------------------------


async def test_environment_is_read_with_its_token(monkeypatch) -> None:
    """The vendor's SDK forgets the token; its command line does not."""
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


async def test_profile_is_read_below_default(tmp_path) -> None:
    """Quoted or not, and with the percent signs that a key may hold."""
    path = tmp_path / "credentials"
    path.write_text('[default]\nsecret_id = "AKID"\nsecret_key = k%y\n', encoding="utf-8")

    assert parts(await get("profile", path=path)) == ("AKID", "k%y", None)


async def test_profile_in_the_home_directory_is_found(tmp_path, monkeypatch) -> None:
    """Where the vendor's own tools write it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / ".tencentcloud" / "credentials"
    path.parent.mkdir()
    path.write_text("[default]\nsecret_id=AKID\nsecret_key=key\ntoken=t\n", encoding="utf-8")

    assert parts(await get("profile")) == ("AKID", "key", "t")


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "[other]\nsecret_id=AKID\nsecret_key=key\n",
        "secret_id=AKID\n",
        "[default]\nsecret_id=AKID\n",
        "\x00\udcff",
    ],
)
async def test_profile_that_cannot_be_used_is_an_error_with_advice(tmp_path, text) -> None:
    """No file, no [default], no keys, no INI file: the vendor's SDK crashes on some of these."""
    path = tmp_path / "credentials"
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))

    error = await failure("profile", path=path)

    assert "AKID" not in str(error)


# --- CVM role ------------------------------------------------------------------------------------


async def test_role_of_the_machine_is_found_and_its_keys_read() -> None:
    """Two reads: the name of the bound role, then its keys with their end."""
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
    """No need to ask for the name."""
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
    """The vendor's SDK gives (None, None, None) for all of these."""

    async def metadata(request):
        return web.Response(status=status, text=text)

    async with served(metadata) as url:
        error = await failure("cvm-role", role="r", endpoint=url)

    assert error.message.startswith("CVM role: ")


async def test_machine_without_metadata_is_an_error_with_advice(unused_tcp_port) -> None:
    """On a host that is no CVM instance nothing answers."""
    error = await failure("cvm-role", endpoint=f"http://127.0.0.1:{unused_tcp_port}")

    assert "bind a CAM role" in str(error.advice)


# --- STS and TKE ---------------------------------------------------------------------------------


async def test_assumed_role_gives_keys_that_end_when_asked_for() -> None:
    """The vendor's client asks STS; the end is counted from before the call."""
    asked = []

    async def sts(request):
        asked.append((request.headers["X-TC-Action"], await request.json()))
        return web.Response(body=json.dumps(STS_ANSWER).encode(), content_type="text/plain")

    async with served(sts) as url:
        credential = await get("sts", **ROLE, session_name="s", duration_s=1800, endpoint=url)

    assert parts(credential) == ("AKIDtmp", "tmp-key", "tmp-token")
    assert credential.expires_at == NOON + timedelta(seconds=1800)
    parameters = {"RoleArn": ROLE["role_arn"], "RoleSessionName": "s", "DurationSeconds": 1800}
    assert asked == [("AssumeRole", parameters)]


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (200, {"Response": {"Error": {"Code": "AuthFailure", "Message": "m"}, "RequestId": "r"}}),
        (200, {"Response": {"RequestId": "r"}}),
        (500, {}),
    ],
)
async def test_refusal_of_sts_is_an_error_with_advice(status, answer) -> None:
    """Whatever the vendor's client makes of it."""

    async def sts(request):
        return web.Response(
            status=status, body=json.dumps(answer).encode(), content_type="application/json"
        )

    async with served(sts) as url:
        error = await failure("sts", **ROLE, endpoint=url)

    assert error.message.startswith("STS AssumeRole: ")
    assert "long-key" not in str(error)


async def test_loop_runs_on_while_sts_takes_its_time() -> None:
    """The vendor's client blocks its thread, not ours."""
    asked, answered = asyncio.Event(), asyncio.Event()

    async def sts(request):
        asked.set()
        await answered.wait()
        return web.Response(body=json.dumps(STS_ANSWER).encode(), content_type="text/plain")

    async with served(sts) as url:
        waiting = asyncio.create_task(get("sts", **ROLE, endpoint=url))
        await asked.wait()
        assert not waiting.done()
        answered.set()
        assert (await waiting).secret_id == "AKIDtmp"


async def test_identity_of_a_tke_pod_gives_keys(tmp_path, monkeypatch) -> None:
    """By the variables and the token file that TKE puts into the pod."""
    token_file = tmp_path / "token"
    token_file.write_text("jwt", encoding="utf-8")
    monkeypatch.setenv("TKE_REGION", "ap-guangzhou")
    monkeypatch.setenv("TKE_PROVIDER_ID", "provider")
    monkeypatch.setenv("TKE_ROLE_ARN", "arn")
    monkeypatch.setenv("TKE_WEB_IDENTITY_TOKEN_FILE", str(token_file))
    asked = []

    async def sts(request):
        asked.append((request.headers["X-TC-Action"], (await request.json())["WebIdentityToken"]))
        return web.Response(body=json.dumps(STS_ANSWER).encode(), content_type="text/plain")

    async with served(sts) as url:
        credential = await get("tke-oidc", endpoint=url)

    assert asked == [("AssumeRoleWithWebIdentity", "jwt")]
    assert parts(credential) == ("AKIDtmp", "tmp-key", "tmp-token")
    assert credential.expires_at == NOON + timedelta(seconds=7200)


async def test_outside_of_tke_the_missing_variable_is_named(monkeypatch) -> None:
    """As the vendor's reader reports it."""
    monkeypatch.delenv("TKE_REGION", raising=False)

    assert "TKE_REGION" in (await failure("tke-oidc")).message
