"""Values at and beyond the limits of their type, in every field of every request.

Each is served, or refused with advice, and nothing is stored that cannot be read back.
"""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import pytest
import pytest_asyncio
from yarl import URL

from orchestrator.api.schemas import OperationRequest
from tests.support.service import service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.postgres import Server
    from tests.support.service import Service

TOMORROW: Final = (datetime.now(UTC) + timedelta(days=1)).isoformat()
LEGAL: Final = {"jobs": ["job-aaaaaaaa"], "reason": "a test", "not_before": TOMORROW}
HOSTILE: Final[tuple[Any, ...]] = (
    *(
        *(None, True, "", " ", "\0", "\ud800", "x" * 5000, "é" * 300, "NaN", "infinity", []),
        *([None], {}),
    ),
    *(-1, -0.0, 0, 5e-324, 1e308, -1e308, 2**31, 2**63, 10**30, 10**400),
)
TIMES: Final = (
    *("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"),
    *("1999-12-31T23:59:59Z", "2100-01-01T00:00:01Z", "9999-12-31T23:59:59Z", "-infinity"),
    *("2026-02-30T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T00:00:00", "20260101"),
    *("+10000-01-01T00:00:00Z", "2026-01-01T00:00:00.0000000001Z", 1e308, 10**30),
)
TEXTS: Final = (
    *("%00", "a%00b", "%ED%A0%80", "%ff%fe", "%C3%28", "x" * 5000, "%F0%9F%92%A9", "..%2f", "%25"),
    *("-1", "0", "1e3", "%D9%A1", "9" * 19, "9" * 30, "NaN", "%0a", "%7f", "%20", "'--", ""),
)
LISTS: Final = {
    "/v1/operations": ("limit", "page_token", "state", "account"),
    "/v1/terminations": (
        *("limit", "page_token", "state", "revived", "job_id", "account", "region"),
    ),
    "/v1/operations/{op}/terminations": ("limit", "page_token", "state", "revived"),
    "/v1/operations/{op}/events": ("limit", "page_token"),
    "/v1/terminations/{trm}/events": ("limit", "page_token"),
    "/v1/terminations/{trm}/instances": ("limit", "page_token", "state", "machine"),
}
OTHERS: Final = (
    *("/v1/operations/{op}", "/v1/terminations/{trm}", "/v1/operations/{op}/certificate"),
    *("/livez", "/readyz", "/metrics"),
)
HEADERS: Final = {
    "Idempotency-Key": ("", " ", "é", "x" * 201, "\x80"),
    "Content-Type": ("", "application/json; charset=\x80", "x/y", "application/json;" + ";" * 2000),
    "If-None-Match": ("x", '"', '"\x80"', "*", 'W/"' + "x" * 4000 + '"'),
    "Authorization": ("", "Bearer", "Bearer \x80", "Basic x"),
    "Host": ("localhost:99999999", "[", "\x80", "127.0.0.1:x"),
    "Content-Encoding": ("gzip", "\x80"),
    "Range": ("bytes=9-1",),
}

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest) -> tuple[Server, str] | None:
    """A server and its database to copy; None for SQLite."""
    if request.param == "sqlite":
        return None
    return request.getfixturevalue("postgres"), request.getfixturevalue("postgres_template")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def daemon(
    place: tuple[Server, str] | None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    async with AsyncExitStack() as stack:
        if place is None:
            url = f"sqlite:///{tmp_path_factory.mktemp('hostile') / 'orchestrator.db'}"
        else:
            url = await stack.enter_async_context(place[0].database(place[1]))
        yield await stack.enter_async_context(service(url))


async def asked(
    daemon: Service, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, str]:
    """Return the status and the body of an answer; a refusal must have a detail."""
    base = daemon.client._base_url
    assert base is not None
    url = URL(str(base.origin()) + path, encoded=True)
    method = "GET" if body is None else "POST"
    headers = {"Content-Type": "application/json"} | headers
    async with daemon.client.request(method, url, data=body, headers=headers) as answer:
        text = await answer.text()
    assert answer.status < 500, (path, body and body[:200], headers, text)
    if answer.status >= 400:
        assert json.loads(text)["detail"]
    return answer.status, text


@pytest.mark.parametrize("field", OperationRequest.model_fields)
async def test_no_value_of_a_field_is_stored_beyond_reading(daemon: Service, field: str) -> None:
    values = (*HOSTILE, *TIMES)
    values += tuple([value] for value in HOSTILE) if field == "jobs" else ()
    for value in values:
        body = json.dumps(LEGAL | {field: value}).encode()
        status, text = await asked(daemon, "/v1/operations", body)
        assert status in {202, 400, 422}, (value, text)
    for number in (b"1e999", b"-1e999", b"9" * 5000, b"NaN", b"[" * 10**5):
        body = json.dumps(LEGAL | {field: 0}).encode().replace(f'"{field}": 0'.encode(), b"%b")
        status, _ = await asked(daemon, "/v1/operations", body.replace(b"%b", b'"x":' + number))
        assert status in {400, 422}


@pytest.mark.parametrize("at", TIMES)
async def test_an_impossible_time_is_refused_and_named(daemon: Service, at: Any) -> None:
    status, text = await asked(
        daemon, "/v1/operations", json.dumps(LEGAL | {"not_before": at}).encode()
    )
    if status != 202:
        assert "not_before" in json.loads(text)["detail"]
    else:
        assert str(at).startswith("2026-")


async def test_the_year_1_is_refused_with_what_to_do(daemon: Service) -> None:
    body = json.dumps(LEGAL | {"not_before": "0001-01-01T00:00:00Z"}).encode()
    status, text = await asked(daemon, "/v1/operations", body)
    assert status == 422
    assert json.loads(text)["detail"] == (
        "not_before: must be 2000-01-01 or later; leave it out to start at once"
    )


async def known(daemon: Service) -> dict[str, str]:
    body = json.dumps(LEGAL | {"jobs": ["job-zzzzzzzz"]}).encode()
    _, operation = await asked(daemon, "/v1/operations", body)
    _, listed = await asked(daemon, "/v1/terminations?job_id=job-zzzzzzzz")
    return {"op": json.loads(operation)["id"], "trm": json.loads(listed)["terminations"][0]["id"]}


@pytest.mark.parametrize("path", LISTS)
async def test_no_value_of_a_query_is_the_daemon_s_fault(daemon: Service, path: str) -> None:
    ids = await known(daemon)
    for name in LISTS[path]:
        for text in TEXTS:
            status, _ = await asked(daemon, f"{path.format(**ids)}?{name}={text}")
            assert status in {200, 400, 404}
    for text in TEXTS:
        assert (await asked(daemon, f"{path.format(**ids)}?{text}=1"))[0] == 400
    _, listed = await asked(daemon, f"{path.format(**ids)}?limit=1")
    token = json.loads(listed)["next_page_token"]
    for broken in (token and token[:-1], token and token + "AA", quote("é"), "====", "YQ=="):
        if broken:
            status, _ = await asked(daemon, f"{path.format(**ids)}?page_token={broken}")
            assert status == 400


@pytest.mark.parametrize("path", [*LISTS, *OTHERS])
async def test_no_value_of_a_path_is_the_daemon_s_fault(daemon: Service, path: str) -> None:
    for text in TEXTS:
        status, _ = await asked(daemon, path.format(op=text, trm=text))
        assert status in {200, 400, 404}
        assert (await asked(daemon, f"{path.format(op='x', trm='x')}{text}"))[0] in {200, 400, 404}


@pytest.mark.parametrize("name", HEADERS)
async def test_no_value_of_a_header_is_the_daemon_s_fault(daemon: Service, name: str) -> None:
    ids = await known(daemon)
    for value in HEADERS[name]:
        body = json.dumps(LEGAL).encode()
        await asked(daemon, "/v1/operations", body, **{name: value})
        path = f"/v1/operations/{ids['op']}/certificate"
        await asked(daemon, path, None, **{name: value})


async def test_all_stored_rows_are_readable(daemon: Service) -> None:
    for name in ("operations", "terminations"):
        _, text = await asked(daemon, f"/v1/{name}?limit=1000")
        rows = json.loads(text)[name]
        assert rows
        for row in rows:
            assert (await asked(daemon, f"/v1/{name}/{row['id']}"))[0] == 200
    assert json.loads((await asked(daemon, "/readyz"))[1])["status"] == "ready"


async def test_no_id_of_an_operation_to_stop_is_the_daemon_s_fault(daemon: Service) -> None:
    for text in TEXTS:
        status, _ = await asked(daemon, f"/v1/operations/{text}:stop", b'{"reason": "x"}')
        assert status in {404, 405}, text
