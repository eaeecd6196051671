"""Keys of a role, against a real HTTP server in place of STS."""

from __future__ import annotations

import asyncio
import json
import warnings
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cloud import sts
from orchestrator.cloud.credentials import build_provider
from orchestrator.cloud.signing import Credential, authorization
from orchestrator.cloud.sts import sts_url
from orchestrator.cloud.transport import AiohttpTransport
from orchestrator.domain.errors import CloudError, CloudErrorKind
from tests.support import HANG_S
from tests.support.clock import NOON, ManualClock
from tests.unit.cloud.support import ScriptedServer, served

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tencentcloud.common import credential as vendor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from orchestrator.cloud.credentials import CredentialProvider

EXPIRED_TIME = int(NOON.timestamp()) + 1800
KEYS = {"TmpSecretId": "AKIDtmp", "TmpSecretKey": "tmp-key", "Token": "tmp-token"}
GIVEN: dict[str, Any] = {"Credentials": KEYS, "ExpiredTime": EXPIRED_TIME, "RequestId": "r-1"}
LONG_LIVED = {"secret_id": "AKIDlong", "secret_key": "long-key"}
ROLE_ARN = "qcs::cam::uin/1:roleName/r"
POD = {"TKE_REGION": "ap-tokyo", "TKE_PROVIDER_ID": "provider", "TKE_ROLE_ARN": "arn"}


def answered(status: int = 200, **response: Any) -> web.Response:
    """Return a reply of STS; the vendor's SDK reads errors of this content type only."""
    return web.Response(
        status=status,
        body=json.dumps({"Response": response}).encode(),
        content_type="application/json",
    )


@asynccontextmanager
async def provider(
    kind: str, url: str, clock: ManualClock | None = None, **options: Any
) -> AsyncIterator[CredentialProvider]:
    transport = AiohttpTransport(connect_timeout_s=2, total_timeout_s=4)
    given = {**LONG_LIVED, "role_arn": ROLE_ARN, "endpoint": url, **options}
    try:
        yield build_provider(kind, given, clock or ManualClock(), transport)
    finally:
        await transport.close()


async def get(kind: str, url: str, **options: Any) -> Credential:
    async with provider(kind, url, **options) as asked:
        return await asked.get()


async def failure(server: ScriptedServer, kind: str = "sts") -> CloudError:
    async with served(server.handle) as url:
        with pytest.raises(CloudError) as caught:
            await get(kind, url)
    assert caught.value.kind is CloudErrorKind.CREDENTIAL
    assert caught.value.advice
    assert "long-key" not in str(caught.value)
    return caught.value


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    token_file = tmp_path / "token"
    token_file.write_text("jwt", encoding="utf-8")
    for name, value in POD.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TKE_WEB_IDENTITY_TOKEN_FILE", str(token_file))
    return token_file


def rotate(token_file: Path) -> None:
    token_file.write_text("jwt-2\n", encoding="utf-8")


async def test_a_role_is_assumed_by_one_signed_call() -> None:
    """The signature fits host and body; the keys expire when STS says."""
    server = ScriptedServer(lambda _: answered(**GIVEN))
    async with served(server.handle) as url:
        found = await get("sts", url, session_name="s", duration_s=7200)
        host = urlsplit(url).netloc

    assert (found.secret_id, found.secret_key, found.token) == ("AKIDtmp", "tmp-key", "tmp-token")
    assert found.expires_at is not None
    assert found.expires_at.timestamp() == EXPIRED_TIME
    [(headers, body)] = server.arrived
    assert json.loads(body) == {
        "RoleArn": ROLE_ARN,
        "RoleSessionName": "s",
        "DurationSeconds": 7200,
    }
    assert (headers["Host"], headers["X-TC-Action"]) == (host, "AssumeRole")
    assert headers["Authorization"] == authorization(
        Credential(secret_id="AKIDlong", secret_key="long-key"),
        service="sts",
        host=host,
        body=body,
        timestamp_s=int(NOON.timestamp()),
    )


async def test_the_keys_of_a_pod_are_asked_for_by_its_token(pod: Path) -> None:
    """The request is unsigned and has the role of the variables; a rotated token is read again."""
    server, clock = ScriptedServer(lambda _: answered(**GIVEN)), ManualClock()
    async with (
        served(server.handle) as url,
        provider("tke-oidc", url, clock, session_name="s", duration_s=900) as asked,
    ):
        found = await asked.get()
        rotate(pod)
        clock.passed_s = 30
        asked.invalidate(found)
        await asked.get()

    (headers, body), (_, second) = server.arrived
    assert json.loads(second)["WebIdentityToken"] == "jwt-2"
    assert json.loads(body) == {
        "ProviderId": "provider",
        "WebIdentityToken": "jwt",
        "RoleArn": "arn",
        "RoleSessionName": "s",
        "DurationSeconds": 900,
    }
    assert headers["X-TC-Region"] == "ap-tokyo"
    assert "long" not in str(headers)


def shape(server: ScriptedServer) -> list[tuple[dict[str, str], dict[str, Any]]]:
    """Return the requests without their times, program names and signatures, which may differ."""
    names = ("Content-Type", "X-TC-Action", "X-TC-Version", "X-TC-Region")
    return [
        (
            {name: headers[name] for name in names}
            | {"Authorization": headers["Authorization"].split("/")[0].partition(" ")[0]},
            json.loads(body) | {"RoleSessionName": ""},
        )
        for headers, body in server.arrived
    ]


@pytest.mark.parametrize("kind", ["sts", "tke-oidc"])
async def test_the_vendors_sdk_asks_the_same(kind: str, pod: Path) -> None:
    ours, theirs = (
        ScriptedServer(lambda _: answered(**GIVEN)),
        ScriptedServer(lambda _: answered(**GIVEN)),
    )
    async with served(ours.handle) as our_url, served(theirs.handle) as their_url:
        await get(kind, our_url, duration_s=7200)
        if kind == "sts":
            sdk = vendor.STSAssumeRoleCredential(
                *LONG_LIVED.values(), ROLE_ARN, "", 7200, endpoint=their_url
            )
        else:
            sdk = vendor.DefaultTkeOIDCRoleArnProvider().get_credentials()
            sdk.endpoint = their_url
        await asyncio.to_thread(sdk.get_credential_info)

    assert shape(ours) == shape(theirs)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (answered(RequestId="r"), "Credentials is missing in the reply of STS"),
        (answered(Credentials=[], ExpiredTime=1), "Credentials is missing in the reply of STS"),
        (
            answered(Credentials={}, ExpiredTime=1),
            "Credentials.TmpSecretId is missing in the reply of STS",
        ),
        (
            answered(Credentials=KEYS | {"Token": None}, ExpiredTime=EXPIRED_TIME),
            "Credentials.Token is missing in the reply of STS",
        ),
        (
            answered(Credentials=KEYS | {"TmpSecretKey": 1}, ExpiredTime=EXPIRED_TIME),
            "Credentials.TmpSecretKey is missing in the reply of STS",
        ),
        (answered(Credentials=KEYS), "ExpiredTime is missing in the reply of STS"),
        (answered(Credentials=KEYS, ExpiredTime="x"), "ExpiredTime is missing in the reply of STS"),
        (
            answered(Credentials=KEYS, ExpiredTime=True),
            "ExpiredTime is missing in the reply of STS",
        ),
        (
            answered(Credentials=KEYS, ExpiredTime=10**30),
            "ExpiredTime is missing in the reply of STS",
        ),
        (answered(Credentials=KEYS, ExpiredTime=1), "has expired"),
        (
            web.Response(text="<html>", content_type="text/html"),
            "not a JSON object with a Response",
        ),
        (web.Response(text="[]"), "not a JSON object with a Response"),
        (web.Response(status=400, text="<html>"), "the reply was HTTP 400"),
        (answered(500), "the reply was HTTP 500"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_wrong_answer_is_named(answer: web.Response, expected: str) -> None:
    assert expected in (await failure(ScriptedServer(answer))).message


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(
    keys=JSON_VALUES | st.fixed_dictionaries(dict.fromkeys(KEYS, JSON_VALUES)),
    expired_time=JSON_VALUES,
)
def test_any_answer(keys: object, expired_time: object) -> None:
    """The result is keys with an expiry, or a CloudError with advice."""
    found = outcome({"Credentials": keys, "ExpiredTime": expired_time, "RequestId": "r"})
    if isinstance(found, CloudError):
        assert found.kind is CloudErrorKind.CREDENTIAL
        assert found.advice
    else:
        assert found.expires_at
        assert found.token


def outcome(response: dict[str, object]) -> Credential | CloudError:
    try:
        return sts._read(response, source="STS")
    except CloudError as error:
        return error


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("AuthFailure.SecretIdNotFound", "check the account's key"),
        ("AuthFailure.SignatureExpire", "start NTP"),
        ("ResourceNotFound.RoleNotFound", "check that the role exists and trusts"),
        ("UnauthorizedOperation", "check that the role exists and trusts"),
        ("InternalError.GetRoleError", "check that the role exists and trusts"),
    ],
)
async def test_a_refusal_keeps_its_code_and_its_request(code: str, advice: str) -> None:
    """The advice is about STS, not about a request for a job."""
    error = {"Code": code, "Message": "no"}
    found = await failure(ScriptedServer(lambda _: answered(Error=error, RequestId="r-9")))
    assert found.message == f"STS AssumeRole: {code}: no"
    assert found.request_id == "r-9"
    assert advice in str(found.advice)


async def test_an_sts_that_is_not_there(unused_tcp_port: int) -> None:
    with pytest.raises(CloudError, match=r"STS AssumeRole: Client\.ConnectFailed") as caught:
        await get("sts", f"http://127.0.0.1:{unused_tcp_port}")
    assert "DNS, routes and firewalls" in str(caught.value.advice)


async def test_a_pod_without_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """All missing variables are named, and no request is sent."""
    for name in (*POD, "TKE_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    server = ScriptedServer(lambda _: answered(**GIVEN))
    found = await failure(server, "tke-oidc")
    assert all(name in found.message for name in POD)
    assert server.arrived == []


async def test_a_pod_without_its_token(pod: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TKE_WEB_IDENTITY_TOKEN_FILE", f"{pod}.gone")
    found = await failure(ScriptedServer(lambda _: answered(**GIVEN)), "tke-oidc")
    assert f"{pod}.gone cannot be read" in found.message


@pytest.mark.parametrize("life_s", [20, 400])
async def test_a_short_life_is_renewed_at_its_half(life_s: int) -> None:
    """The keys are replaced before they expire, without delaying a caller."""
    clock = ManualClock()
    server = ScriptedServer(
        lambda _: answered(Credentials=KEYS, ExpiredTime=NOON.timestamp() + clock.passed_s + life_s)
    )
    async with served(server.handle) as url, provider("sts", url, clock) as asked:
        first = await asked.get()
        clock.passed_s = life_s / 2 - 1
        assert await asked.get() is first
        assert len(server.arrived) == 1
        clock.passed_s = life_s / 2
        assert await asked.get() is first
        async with asyncio.timeout(HANG_S):
            while await asked.get() is first:  # noqa: ASYNC110 - it is loaded behind the callers
                await asyncio.sleep(0.01)
    assert len(server.arrived) == 2


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("sts.tencentcloudapi.com", "https://sts.tencentcloudapi.com/"),
        ("sts.test:8443", "https://sts.test:8443/"),
        ("http://127.0.0.1:1/", "http://127.0.0.1:1/"),
    ],
)
def test_where_sts_is(endpoint: str, url: str) -> None:
    assert sts_url(endpoint) == url


@pytest.mark.parametrize("endpoint", ["", "https://host/path", "ftp://host", "https://u@host"])
def test_where_sts_cannot_be(endpoint: str) -> None:
    with pytest.raises(ValueError, match="must be the host of STS"):
        sts_url(endpoint)
