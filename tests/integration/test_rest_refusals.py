"""Tests of what the REST API refuses: always with a problem, and without storing anything."""

from __future__ import annotations

import asyncio
import json
import logging
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from hypothesis import given, settings, strategies

from orchestrator.api import routes
from tests.support import HANG_S
from tests.support.rest import JSON, LEGAL, LEGAL_TEXT, OPERATIONS, Rest, assert_problem, tomorrow
from tests.support.service import service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1024 * 1024


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rest(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rest]:
    """Run a daemon whose requests may be accepted."""
    file = tmp_path_factory.mktemp("rest") / "orchestrator.db"
    async with service(f"sqlite:///{file}") as running:
        yield Rest(running, file)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def untouched(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rest]:
    """Run a daemon that must refuse every request: nothing is stored, no API call is made."""
    file = tmp_path_factory.mktemp("untouched") / "orchestrator.db"
    async with service(f"sqlite:///{file}") as running:
        yield Rest(running, file)


@pytest.fixture(autouse=True)
def _nothing_happened(request: pytest.FixtureRequest) -> Any:
    yield
    if "untouched" in request.fixturenames:
        untouched = request.getfixturevalue("untouched")
        assert untouched.rows() == 0
        assert untouched.service.simulator.calls == []


# --- bodies that are refused ---------------------------------------------------------------------

MALFORMED = {
    "empty": b"",
    "blank": b"  ",
    "cut off": LEGAL_TEXT[:-1],
    "more after it": LEGAL_TEXT + b"{}",
    "two values": b"{} {}",
    "words": b"terminate job-aaaaaaaa",
    "a form": b"jobs=job-aaaaaaaa&reason=r",
    "NaN": b'{"jobs": ["job-a"], "reason": "r", "settle_s": NaN}',
    "Infinity": b'{"jobs": ["job-a"], "reason": "r", "settle_s": -Infinity}',
    "5,000 digits": b'{"jobs": ["job-a"], "reason": "r", "settle_s": ' + b"9" * 5000 + b"}",
    "not UTF-8": b'{"jobs": ["job-a"], "reason": "\xff"}',
    "UTF-16": LEGAL_TEXT.decode().encode("utf-16"),
    "byte order mark alone": b"\xef\xbb\xbf",
    "NUL as it is": b'{"jobs": ["job-a"], "reason": "a\x00b"}',
    "NUL behind": LEGAL_TEXT + b"\x00",
    "half a surrogate pair": b'{"jobs": ["job-a"], "reason": "\\ud800"}',
    "half a pair in a key": b'{"jobs": ["job-a"], "reason": "r", "\\udc00": 1}',
    "a key twice": b'{"jobs": ["job-a"], "reason": "r", "reason": "s"}',
    "a key twice, deep": b'{"jobs": [{"a": 1, "a": 2}], "reason": "r"}',
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "deep and closed": b'{"reason": "r", "jobs": ' + b"[" * 500 + b"]" * 500 + b"}",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
async def test_invalid_json_is_refused(untouched: Rest, body: bytes) -> None:
    assert_problem(await untouched.post(body), 400, "malformed-json", "send one JSON object")


@pytest.mark.parametrize("document", [[], [LEGAL], None, 1, 1.5, True, "job-aaaaaaaa"], ids=repr)
async def test_json_that_is_no_object_is_refused(untouched: Rest, document: object) -> None:
    # aiohttp sends no body for None
    body = json.dumps(document).encode()
    assert_problem(await untouched.post(body), 422, "invalid-request", "must be an object")


WRONG_VALUES: dict[str, list[object]] = {
    "jobs": [None, True, 1, "job-aaaaaaaa", {}, {"0": "job-a"}, [], ["job-a"] * 10_001],
    "jobs.0": [
        *([None], [1], [["job-a"]], [{}], [""], ["job-"], ["JOB-aaaaaaaa"], [" job-aaaaaaaa"]),
        *(["job-aaaaaaaa\n"], ["job-aaaa aaaa"], ["job-aaaa\0"], ["job-é"], ["job-" + "a" * 61]),
        ["../job-a"],
    ],
    "reason": [
        *(None, 5, True, [], {}, "", "   ", "\u3000\u00a0", "\u200b\u202e", "\u0301\ufe0f"),
        *("\u3164\u2800", "\n\t", "\0", "over budget\0", "\x1b[31mred", "\x9b31mred", "\x7f"),
        "r" * 1001,
    ],
    "account": ["", 5, True, [], {}, "m" * 101],
    "region": ["", 5, True, [], {}, "r" * 101],
    "on_submitted": ["", "wait", "HOLD", 1, True, ["hold"]],
    "not_before": [
        *(5, 1e10, True, "", "tomorrow", "2026-01-01", "2026-01-01T00:00:00"),
        *("2026-02-30T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"),
    ],
    "give_up_after_s": [0, -1, -0.0, True, "60", [], 2_592_001, 1e300, 10**99],
    "escalate": [0, 1, "no", []],
    "reterminate_for_s": [0, -1, True, "60", [], 2_592_001, 1e300, 10**99],
    "settle_s": [-1, -1e-9, True, "60", [], 86_401, 1e300, 10**99],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in WRONG_VALUES.items() for value in values],
    ids=lambda each: repr(each)[:40],
)
async def test_a_wrong_value_is_refused_with_its_field(
    untouched: Rest, field: str, value: object
) -> None:
    answer = await untouched.post(LEGAL | {field.partition(".")[0]: value})
    problem = assert_problem(answer, 422, "invalid-request", f"{field}: ")
    assert [error["field"] for error in problem["errors"]] == [field]
    assert all(error["message"] for error in problem["errors"])


@pytest.mark.parametrize("field", ["jobs", "reason"])
async def test_a_field_that_is_needed_is_named(untouched: Rest, field: str) -> None:
    without = {name: value for name, value in LEGAL.items() if name != field}
    for body in (without, without | {field: None}):
        answer = await untouched.post(body)
        problem = assert_problem(answer, 422, "invalid-request", f"{field}: is required")
        assert [error["field"] for error in problem["errors"]] == [field]


@pytest.mark.parametrize(
    "field",
    ["filter", "plan_id", "lane", "priority", "Jobs", "job_ids", "__proto__", "", "é"],
)
async def test_an_unknown_field_is_refused_not_passed_over(untouched: Rest, field: str) -> None:
    """Some may get a meaning in later versions; to ignore one would be a false promise."""
    problem = assert_problem(
        await untouched.post(LEGAL | {field: "null"}),
        422,
        "invalid-request",
        "escalate, give_up_after_s, jobs, not_before, on_submitted",
    )
    assert [error["field"] for error in problem["errors"]] == [field]


@pytest.mark.parametrize(
    ("named", "detail"),
    [
        ({"account": "nobody"}, "'nobody' is not configured: use one of main"),
        ({"account": "\0"}, "is not configured: use one of main"),
        ({"account": "Main"}, "is not configured: use one of main"),
        ({"region": "ap-beijing"}, "use one of ap-guangzhou, ap-shanghai"),
        ({"region": "x.example.com/"}, "use one of ap-guangzhou, ap-shanghai"),
        ({"region": "ap-guangzhou-3"}, "ap-guangzhou-3 is a zone: name its region, ap-guangzhou"),
        ({"not_before": "2999-01-01T00:00:00Z"}, "more than 30 days ahead"),
    ],
    ids=repr,
)
async def test_an_impossible_request_is_refused(
    untouched: Rest, named: dict[str, str], detail: str
) -> None:
    assert_problem(await untouched.post(LEGAL | named), 422, "invalid-request", detail)


async def test_all_mistakes_are_reported_at_once(untouched: Rest) -> None:
    body = {"jobs": ["job-a", 5], "reason": " ", "settle_s": -1, "lane": "urgent", "region": ""}
    problem = assert_problem(await untouched.post(body), 422, "invalid-request", "2 more mistakes")
    fields = {error["field"] for error in problem["errors"]}
    assert fields == {"jobs.1", "reason", "settle_s", "lane", "region"}


async def test_malformed_ids_refuse_the_request_and_each_is_named(untouched: Rest) -> None:
    jobs = ["job-good0001", "job-bad!", "job-good0002", "no job", "job-good0003"]
    problem = assert_problem(
        await untouched.post(LEGAL | {"jobs": jobs}), 422, "invalid-request", "'no job'"
    )
    messages = {error["field"]: error["message"] for error in problem["errors"]}
    assert messages.keys() == {"jobs.1", "jobs.3"}
    assert "'job-bad!'" in messages["jobs.1"]


async def test_an_answer_repeats_little_of_what_was_sent(untouched: Rest) -> None:
    """That holds for many mistakes, and for long values and names."""
    many = await untouched.post(LEGAL | {"jobs": ["x" * 90] * 10_000})
    problem = assert_problem(many, 422, "invalid-request", "and 9,997 more mistakes")
    assert len(problem["errors"]) == 100
    long = await untouched.post(LEGAL | {"jobs": ["x" * 500_000], "y" * 500_000: 1})
    assert_problem(long, 422, "invalid-request")
    assert max(len(many.text), len(long.text)) < 30_000


@pytest.mark.parametrize("path", [OPERATIONS, f"{OPERATIONS}/op_1:stop"])
async def test_mistakes_are_counted_and_only_a_few_are_listed(untouched: Rest, path: str) -> None:
    """The limits hold for the bodies of all POST requests."""
    unknown = {f"field{number}": 1 for number in range(1_000)}
    many = await untouched.call("POST", path, body=LEGAL | unknown, headers=JSON)
    problem = assert_problem(many, 422, "invalid-request", "more mistakes")
    assert len(problem["errors"]) <= 101
    nested = await untouched.call("POST", path, body={"reason": [[]] * 2_000}, headers=JSON)
    assert_problem(nested, 400, "malformed-json", "more than 2,000 arrays and objects")


async def test_a_body_of_two_mebibytes_is_refused(untouched: Rest) -> None:
    answer = await untouched.post(BytesIO(LEGAL_TEXT + b" " * 2 * MIB))
    assert_problem(answer, 413, "body-too-large", "1 MiB", "split the jobs")


@pytest.mark.parametrize(
    "content_type",
    [
        *("", "text/plain", "text/json", "application/x-www-form-urlencoded"),
        *("multipart/form-data; boundary=b", "application/jsonp", ";;;", "\xff"),
    ],
)
async def test_a_body_of_another_type_is_refused(untouched: Rest, content_type: str) -> None:
    """The most important are the three that a page of another origin can send unasked."""
    answer = await untouched.post(LEGAL_TEXT, Content_Type=content_type)
    assert_problem(answer, 415, "unsupported-media-type", "application/json")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "nonsense"])
async def test_an_encoded_body_is_refused(
    untouched: Rest, caplog: pytest.LogCaptureFixture, encoding: str
) -> None:
    """The header alone is enough, even if the body is not encoded."""
    answer = await untouched.post(LEGAL_TEXT, Content_Encoding=encoding)
    assert_problem(answer, 415, "unsupported-media-type", "no Content-Encoding")
    assert faults(caplog) == []


@pytest.mark.parametrize("key", ["", "k" * 201, "é", "\u6f22", "a\tb"])
async def test_an_idempotency_key_that_cannot_be_used(untouched: Rest, key: str) -> None:
    answer = await untouched.post(LEGAL, Idempotency_Key=key)
    assert_problem(answer, 400, "bad-idempotency-key", "1 to 200 printable ASCII")


def request_bytes(*lines: bytes, body: bytes = LEGAL_TEXT, complete: bool = True) -> bytes:
    """Return a POST with header lines that a client library would refuse to send."""
    head = (
        b"POST /v1/operations HTTP/1.1",
        b"Host: 127.0.0.1",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        b"Connection: close",
        *lines,
    )
    return b"\r\n".join(head) + b"\r\n\r\n" + (body if complete else body[:5])


@pytest.mark.parametrize(
    "lines",
    [(b"Idempotency-Key: \xff\xfe",), (b"Idempotency-Key: a", b"Idempotency-Key: b")],
    ids=["no UTF-8", "two keys"],
)
async def test_an_idempotency_key_that_no_client_library_sends(
    untouched: Rest, lines: tuple[bytes, ...]
) -> None:
    response = await untouched.send(request_bytes(*lines))
    assert response.startswith(b"HTTP/1.1 400 ")
    assert b"bad-idempotency-key" in response


GARBAGE = {
    "header of 9,000 bytes": request_bytes(b"X-Absurd: " + b"a" * 9000),
    "10,000 headers": request_bytes(*[b"X-%d: a" % n for n in range(10_000)]),
    "blank in a header's name": request_bytes(b"X Absurd: a"),
    "NUL in a header": request_bytes(b"X-Absurd: a\0b"),
    "header over two lines": request_bytes(b"X-Absurd: a", b" b"),
    "two hosts": request_bytes(b"Host: 127.0.0.1"),
    "no header at all": b"POST /v1/operations HTTP/1.1\r\n\r\n",
    "two lengths": request_bytes(b"Content-Length: 1"),
    "length and chunks": request_bytes(b"Transfer-Encoding: chunked"),
    "negative length": b"POST /v1/operations HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "chunk of no size": (
        b"POST /v1/operations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n"
    ),
    "unknown method": b"TERMINATE /v1/operations HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "method of 5,000 bytes": b"A" * 5000 + b" /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "unknown version": b"GET /livez HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no path": b"GET * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "port that cannot be": b"GET http://a:99999/livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "path of 9,000 bytes": b"GET /v1/operations/" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "path that is no UTF-8": b"GET /v1/operations/\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    "query that is no UTF-8": b"GET /v1/operations?limit=\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    "behind a request": b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nwhatever\r\n\r\n",
    "other protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


def faults(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the log messages of warnings and errors, which no caller may cause."""
    return [each.message for each in caplog.records if each.levelno >= logging.WARNING]


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
async def test_an_invalid_http_request_is_refused(
    untouched: Rest, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    """By default aiohttp would answer in plain text and log a traceback."""
    answer = await untouched.answer_to(data)
    assert_problem(answer, 400, "malformed-http", "send HTTP/1.1: ")
    assert len(answer.text) < 500
    assert faults(caplog) == []
    assert (await untouched.get("/livez")).status == 200


@pytest.mark.parametrize("path", ["/v1/operations", "/nothing"])
async def test_an_expectation_that_cannot_be_met(untouched: Rest, path: str) -> None:
    data = request_bytes(b"Expect: " + b"a" * 8000).replace(b"/v1/operations", path.encode())
    answer = await untouched.answer_to(data)
    assert_problem(answer, 417, "http", "Unknown Expect: a")
    assert len(answer.text) < 500


@pytest.mark.parametrize(
    "line", ["OPTIONS *", "CONNECT 127.0.0.1:22", "GET //[", "GET /v1%2foperations"]
)
async def test_a_target_that_there_is_not(
    untouched: Rest, caplog: pytest.LogCaptureFixture, line: str
) -> None:
    data = f"{line} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    assert_problem(await untouched.answer_to(data.encode()), 404, "no-such-path", "README")
    assert faults(caplog) == []


@pytest.mark.parametrize("line", ["GET /livez", "GET /nothing", "GET /v1/terminations", "nonsense"])
async def test_no_answer_names_the_versions_of_the_server(untouched: Rest, line: str) -> None:
    data = f"{line} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    assert (await untouched.answer_to(data.encode())).headers["Server"] == "orchestrator"


async def test_a_body_that_does_not_arrive_is_not_waited_for(
    untouched: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "BODY_TIMEOUT_S", 0.1)
    response = await untouched.send(request_bytes(complete=False), until=b"}")
    assert response.startswith(b"HTTP/1.1 408 ")
    assert b"urn:orchestrator:problem:body-timeout" in response


async def test_a_caller_who_disconnects_is_not_logged_as_an_error(
    untouched: Rest, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await asyncio.open_connection(untouched.base.host, untouched.base.port)
    writer.write(request_bytes(complete=False))
    writer.write_eof()
    async with asyncio.timeout(HANG_S):
        assert b"500" not in await reader.read()
    writer.close()
    assert faults(caplog) == []


async def test_a_body_that_is_damaged_on_its_way_is_not_logged_as_an_error(
    untouched: Rest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(routes, "BODY_TIMEOUT_S", 0.1)
    reader, writer = await asyncio.open_connection(untouched.base.host, untouched.base.port)
    writer.write(
        b"POST /v1/operations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    )
    async with asyncio.timeout(HANG_S):
        await reader.readuntil(b"100 Continue\r\n\r\n")
        writer.write(b"ZZ\r\n")
        response = await reader.readuntil(b"}")
    writer.close()
    assert response.startswith(b"HTTP/1.1 408 ")
    assert faults(caplog) == []


# --- fuzzing -------------------------------------------------------------------------------------

ASCII = strategies.characters(codec="ascii")
ANY_JSON = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.floats()
    | strategies.text(),
    lambda inner: strategies.lists(inner) | strategies.dictionaries(strategies.text(), inner),
    max_leaves=20,
)


@settings(max_examples=100)
@given(body=ANY_JSON.map(lambda document: json.dumps(document).encode()) | strategies.binary())
async def test_no_body_causes_an_internal_error(untouched: Rest, body: bytes) -> None:
    answer = await untouched.post(body)
    assert answer.status in (400, 422), answer.text


LEGAL_BODIES = strategies.fixed_dictionaries(
    {
        "jobs": strategies.lists(
            strategies.from_regex("job-[0-9A-Za-z]{1,60}", fullmatch=True, alphabet=ASCII),
            min_size=1,
            max_size=5,
        ),
        "reason": strategies.sampled_from(
            ["r", "\u9884\u7b97\n", " x ", "r" * 1000, "\u200b\u2764\ufe0f"]
        ),
    },
    optional={
        "account": strategies.sampled_from(["main", None]),
        "region": strategies.sampled_from(["ap-guangzhou", "ap-shanghai", None]),
        "on_submitted": strategies.sampled_from(["hold", "refuse"]),
        "not_before": strategies.sampled_from([None, "2026-01-01T00:00:00+08:00", tomorrow()]),
        "give_up_after_s": strategies.none() | strategies.floats(0.001, 2_592_000),
        "reterminate_for_s": strategies.none() | strategies.floats(0.001, 2_592_000),
        "settle_s": strategies.none() | strategies.integers(0, 86_400),
    },
)
WRONG_PARTS = [
    *[
        (field.partition(".")[0], value)
        for field, values in WRONG_VALUES.items()
        for value in values
    ],
    ("account", "other"),
    ("region", "ap-other"),
    ("lane", "urgent"),
]


@settings(max_examples=150)
@given(legal=LEGAL_BODIES, wrong=strategies.lists(strategies.sampled_from(WRONG_PARTS), max_size=2))
async def test_a_request_is_accepted_if_and_only_if_all_of_it_is_legal(
    rest: Rest, legal: dict[str, Any], wrong: list[tuple[str, object]]
) -> None:
    answer = await rest.post(legal | dict(wrong))
    assert answer.status == (422 if wrong else 202), answer.text
    if not wrong:
        document = answer.document
        assert document["progress"]["jobs"]["total"] == len(set(legal["jobs"]))
        assert document["reason"] == legal["reason"]


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ([], "name at least one"),
        (["job-a"] * 10_001, "name at most 10,000; split the others into more requests"),
    ],
    ids=["none", "10,001"],
)
async def test_the_limit_of_jobs_in_a_request_is_named(
    rest: Rest, jobs: list[str], message: str
) -> None:
    answer = await rest.post({"jobs": jobs, "reason": "r"})
    assert answer.document["errors"] == [{"field": "jobs", "message": message}]


# --- paths and parameters that are refused -------------------------------------------------------

ODD_IDS = [
    *("op_none", "trm_00000000000000000000", "%00", "%ff", "%ed%a0%80", "%0d%0aX:%20y"),
    *("..%2f..%2fetc", "%C3%A9", "*", "op_1:stop", "'--", "a" * 1000),
]


@pytest.mark.parametrize("odd", ODD_IDS, ids=lambda odd: odd[:20])
@pytest.mark.parametrize(
    "path",
    [
        *("/v1/operations/{}", "/v1/operations/{}/terminations", "/v1/operations/{}/events"),
        *("/v1/operations/{}/certificate", "/v1/terminations/{}", "/v1/terminations/{}/events"),
    ],
)
async def test_an_id_that_nothing_has(untouched: Rest, path: str, odd: str) -> None:
    answer = await untouched.get(path.format(odd))
    assert_problem(answer, 404, "not-found", "GET /v1/")


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/operations/", "//v1/operations", "/v2/operations", "/%00", "/livez/"]
)
async def test_a_path_that_there_is_not(untouched: Rest, path: str) -> None:
    assert_problem(await untouched.get(path), 404, "no-such-path", "README")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/v1/operations", "GET, HEAD, POST"),
        ("DELETE", "/v1/operations", "GET, HEAD, POST"),
        ("OPTIONS", "/v1/operations", "GET, HEAD, POST"),
        ("POST", "/v1/operations/op_1", "GET, HEAD"),
        ("PATCH", "/v1/operations/op_1", "GET, HEAD"),
        ("PUT", "/v1/operations/op_1:stop", "GET, HEAD, POST"),
        ("POST", "/v1/operations/op_1/certificate", "GET, HEAD"),
        ("POST", "/v1/terminations", "GET, HEAD"),
        ("DELETE", "/v1/terminations/trm_1", "GET, HEAD"),
        ("POST", "/v1/terminations/trm_1/events", "GET, HEAD"),
        ("POST", "/livez", "GET, HEAD"),
        ("POST", "/readyz", "GET, HEAD"),
    ],
)
async def test_a_method_that_is_not_possible(
    untouched: Rest, method: str, path: str, allow: str
) -> None:
    answer = await untouched.call(method, path, body=LEGAL, headers=JSON)
    assert_problem(answer, 405, "method-not-allowed", allow)
    assert answer.headers["Allow"] == allow


BAD_PARAMETERS = [
    *[
        (f"limit={limit}", "bad-limit", "1 to 1000")
        for limit in (
            *("0", "-1", "1001", "abc", "", "1.5", "1e2", "%2B5", "%205", "%D9%A5", "0010009999"),
            *("001000" + "9" * 50, "1" * 5000),
        )
    ],
    *[
        (f"page_token={token}", "bad-page-token", "next_page_token")
        for token in ("", "x", "!!!!", "%00", "%C3%A9", "bm9uc2Vuc2U=", "a" * 5000)
    ],
    ("state=", "bad-parameter", "state must be one of"),
    ("state=dead", "bad-parameter", "state must be one of"),
    ("state=QUEUED", "bad-parameter", "state must be one of"),
    ("state=FINISHED", "bad-parameter", "state must be one of"),
    ("dry_run=true", "unknown-parameter", "unknown: dry_run; use limit"),
    ("Limit=5", "unknown-parameter", "unknown: Limit; use limit"),
    ("limit=5&page=2&offset=1", "unknown-parameter", "offset, page"),
    ("limit=5&limit=6", "bad-parameter", "once"),
    ("pretty&pretty", "bad-parameter", "once"),
    ("pretty=false", "bad-parameter", "pretty must be true, or have no value"),
]


@pytest.mark.parametrize("path", ["/v1/operations", "/v1/terminations"])
@pytest.mark.parametrize(
    ("query", "slug", "detail"), BAD_PARAMETERS, ids=[case[0][:30] for case in BAD_PARAMETERS]
)
async def test_a_bad_query_parameter(
    untouched: Rest, path: str, query: str, slug: str, detail: str
) -> None:
    assert_problem(await untouched.get(f"{path}?{query}"), 400, slug, detail)


@pytest.mark.parametrize(
    ("path", "slug", "detail"),
    [
        ("/v1/terminations?revived=yes", "bad-parameter", "revived must be one of true, false"),
        (
            "/v1/terminations?region=ap-guangzhou-3",
            "bad-parameter",
            "is a zone: name its region, ap-",
        ),
        ("/livez?verbose", "unknown-parameter", "unknown: verbose; use pretty"),
        ("/readyz?verbose", "unknown-parameter", "unknown: verbose; use pretty"),
    ],
)
async def test_a_bad_query_parameter_of_one_path(
    untouched: Rest, path: str, slug: str, detail: str
) -> None:
    assert_problem(await untouched.get(path), 400, slug, detail)


async def test_unknown_parameters_are_named_up_to_a_hundred(untouched: Rest) -> None:
    query = "&".join(f"p{number:04}" for number in range(1000))
    answer = await untouched.get(f"/v1/operations?{query}")
    detail = "p0098, p0099 (and 900 more); use limit, page_token, state, account, pretty"
    assert_problem(answer, 400, "unknown-parameter", detail)


async def test_a_post_takes_no_query_parameter(untouched: Rest) -> None:
    """``?dry_run=true`` must not terminate anything."""
    for query in ("dry_run=true", "pretty"):
        answer = await untouched.call("POST", f"{OPERATIONS}?{query}", body=LEGAL, headers=JSON)
        name = query.partition("=")[0]
        assert_problem(
            answer, 400, "unknown-parameter", f"unknown: {name}; this request takes none"
        )


async def test_one_operation_or_termination_takes_no_query_parameter(rest: Rest) -> None:
    operation = await rest.accepted("job-noquery1")
    path = f"{OPERATIONS}/{operation['id']}"
    (termination,) = (await rest.get(f"{path}/terminations")).document["terminations"]
    for one in (path, f"/v1/terminations/{termination['id']}"):
        assert_problem(await rest.get(f"{one}?fields=id"), 400, "unknown-parameter", "fields")
        assert (await rest.get(one)).status == 200
