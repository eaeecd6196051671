"""Tests of authentication over HTTP: bearer tokens, and requests from web pages in a browser."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from tests.support.rest import LEGAL, LEGAL_TEXT, OPERATIONS, Rest, assert_problem, tomorrow
from tests.support.service import service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKENS = {"sre": "token-of-sre", "batch-ui": "tökén-of-ui"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rest]:
    """Run a daemon with the tokens of two callers."""
    file = tmp_path_factory.mktemp("guarded") / "orchestrator.db"
    digests = [
        {"name": name, "sha256": hashlib.sha256(token.encode()).hexdigest()}
        for name, token in TOKENS.items()
    ]
    async with service(f"sqlite:///{file}", auth={"tokens": digests}) as running:
        yield Rest(running, file)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def unguarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rest]:
    """Run a daemon without tokens, for everyone on this machine."""
    file = tmp_path_factory.mktemp("unguarded") / "orchestrator.db"
    async with service(f"sqlite:///{file}") as running:
        yield Rest(running, file)


async def submit(rest: Rest, authorization: str, **headers: str) -> Any:
    body = LEGAL | {"not_before": tomorrow()}
    return await rest.post(body, Authorization=authorization, **headers)


# --- tokens --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOKENS)
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_token_names_its_caller(guarded: Rest, name: str, scheme: str) -> None:
    answer = await submit(guarded, f"{scheme} {TOKENS[name]}")
    assert answer.status == 202, answer.text
    assert answer.document["requested_by"] == name


WRONG = {
    "another token": "Bearer guess",
    "part of it": "Bearer token-of-sr",
    "more than it": "Bearer token-of-sre2",
    "two tokens": "Bearer token-of-sre, Bearer token-of-sre",
    "in capitals": "Bearer TOKEN-OF-SRE",
    "its digest": f"Bearer {hashlib.sha256(b'token-of-sre').hexdigest()}",
    "no scheme": "token-of-sre",
    "empty": "",
    "scheme alone": "Bearer",
    "scheme and blanks": "Bearer    ",
    "another scheme": "Basic token-of-sre",
    "as a password": "Basic c3JlOnRva2VuLW9mLXNyZQ==",
    "the caller's name": "Bearer sre",
    "long": f"Bearer {'a' * 8000}",
}


@pytest.mark.parametrize("authorization", WRONG.values(), ids=WRONG.keys())
async def test_an_invalid_token_is_refused(guarded: Rest, authorization: str) -> None:
    before = guarded.rows()
    answer = await submit(guarded, authorization)
    assert_problem(answer, 401, "unauthorized", "Authorization: Bearer TOKEN")
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="orchestrator"'
    assert TOKENS["sre"] not in answer.text
    assert guarded.rows() == before


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("0123456789abcdef" * 4, "it is the token itself"),
        ("token-of-echo", "it is the digest of the token and a line break"),
    ],
)
async def test_a_digest_of_something_else_than_the_token_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, token: str, reason: str
) -> None:
    """The reason is in the log, for the operator, and not in the response."""
    digests = [
        {"name": "hex", "sha256": "0123456789abcdef" * 4},
        {"name": "echo", "sha256": hashlib.sha256(b"token-of-echo\n").hexdigest()},
    ]
    file = tmp_path / "orchestrator.db"
    async with service(f"sqlite:///{file}", auth={"tokens": digests}) as running:
        for _ in range(2):
            answer = await submit(Rest(running, file), f"Bearer {token}")
            assert_problem(answer, 401, "unauthorized", "Authorization: Bearer TOKEN")
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert reason in warnings[0]
    assert token not in warnings[0]


@pytest.mark.parametrize("token", [b"\xff\xfe", b"token-of-sre\xff", b"t\xf6k\xe9n-of-ui"])
async def test_bytes_that_are_no_text_are_refused(guarded: Rest, token: bytes) -> None:
    response = await guarded.send(
        b"POST /v1/operations HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\nAuthorization: Bearer %s\r\n\r\n"
        % (len(LEGAL_TEXT), token)
        + LEGAL_TEXT
    )
    assert response.startswith(b"HTTP/1.1 401 ")
    assert b"WWW-Authenticate: Bearer" in response


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/operations"),
        ("HEAD", "/v1/operations"),
        ("GET", "/v1/operations/op_1"),
        ("GET", "/v1/operations/op_1/terminations"),
        ("GET", "/v1/operations/op_1/events"),
        ("GET", "/v1/operations/op_1/certificate"),
        ("GET", "/v1/terminations"),
        ("GET", "/v1/terminations/trm_1"),
        ("GET", "/v1/terminations/trm_1/events"),
        ("DELETE", "/v1/operations"),
        ("GET", "/nothing"),
        ("GET", "/livez/"),
        ("GET", "/readyz/../v1/operations"),
    ],
)
async def test_unauthenticated_callers_learn_nothing(guarded: Rest, method: str, path: str) -> None:
    """The response does not even show which paths exist."""
    answer = await guarded.call(method, path)
    assert answer.status == 401
    if method != "HEAD":
        assert_problem(answer, 401, "unauthorized")


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_health_needs_no_token(guarded: Rest, path: str) -> None:
    assert (await guarded.get(path)).status == 200
    assert_problem(await guarded.get(f"{path}?x"), 400, "unknown-parameter")


# --- pages in a browser on this machine ----------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b"],
)
async def test_a_page_of_another_origin_cannot_submit(unguarded: Rest, content_type: str) -> None:
    """A browser sends these content types without a preflight request, with JSON as text too."""
    answer = await unguarded.post(
        LEGAL_TEXT, Content_Type=content_type, Origin="https://evil.example"
    )
    assert_problem(answer, 415, "unsupported-media-type")
    assert unguarded.rows() == 0


async def test_a_page_of_another_origin_that_asks_first_is_not_allowed(unguarded: Rest) -> None:
    answer = await unguarded.call(
        "OPTIONS",
        OPERATIONS,
        headers={
            "Origin": "https://evil.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type",
        },
    )
    assert answer.status == 405
    assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8642", "127.0.0.1.evil.example", "localhost.evil.example"),
        *("evil.example@127.0.0.1.evil.example", "10.0.0.1", "0.0.0.0", "[::]", "[", ""),
    ],
)
async def test_a_name_rebound_to_the_loopback_address_is_not_served(
    unguarded: Rest, method: str, host: str
) -> None:
    """Pages under such a name would have the API's own origin, and could read and send all."""
    answer = await unguarded.call(
        method,
        OPERATIONS,
        body=LEGAL_TEXT if method == "POST" else None,
        headers={"Content-Type": "application/json", "Host": host},
    )
    assert_problem(answer, 421, "misdirected", "localhost", "[[auth.tokens]]")
    assert unguarded.rows() == 0


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8642", "127.0.0.1", "127.0.0.2:1", "[::1]", "[::1]:8642"]
)
async def test_the_names_of_the_loopback_address_are_served(unguarded: Rest, host: str) -> None:
    answer = await unguarded.call("GET", OPERATIONS, headers={"Host": host})
    assert answer.status == 200


async def test_with_tokens_any_name_is_served(guarded: Rest) -> None:
    """A proxy forwards its own Host; a page of a rebound name has no token."""
    answer = await submit(guarded, "Bearer token-of-sre", Host="orchestrator.example")
    assert answer.status == 202
