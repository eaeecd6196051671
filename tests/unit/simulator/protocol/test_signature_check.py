"""Valid and invalid signatures, in every form that clients are known to make."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.unit.simulator.support import START, cloud, code, job, plain_request, tc3_request

if TYPE_CHECKING:
    from orchestrator.simulator.protocol.request_parser import Request

FAILURE = "AuthFailure.SignatureFailure"
FILTERS = {
    "Filters.0.Name": "job-state",
    "Filters.0.Values.0": "RUNNING",
    "Filters.0.Values.1": "FAILED",
    "Limit": 100,
}


def judged(request: Request) -> str:
    return code(cloud(job()).simulator.handle(request))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target": "/?"},
        {"service": "127"},
        {"host": "127.0.0.1:8000", "signed_host": "127.0.0.1"},
        {"host": "http://127.0.0.1:8000"},
        {"host": "http://127.0.0.1:8000/"},
        {"host": "Batch.Example.COM", "signed_host": "batch.example.com"},
        {"extra": {"x-tc-action": "describejobs"}},
        {"unsigned": True},
    ],
    ids=str,
)
def test_tc3_holds(options):
    request = tc3_request("DescribeJobs", **options)
    if "extra" in options:
        raised = [
            (name, "DescribeJobs" if name.lower() == "x-tc-action" else value)
            for name, value in request.headers
        ]
        request = replace(request, headers=raised)
    assert judged(request) == "OK"


def test_tc3_over_get_carries_nested_parameters():
    assert judged(tc3_request("DescribeJobs", FILTERS, method="GET")) == "OK"
    named = tc3_request("DescribeJobs", {"JobIds.0": "job-aaaaaaaa", "JobIds.1": "x"}, method="GET")
    assert judged(named) == "InvalidParameter.JobIdMalformed"


@pytest.mark.parametrize(
    "options",
    [
        {"secret_key": "another-key"},
        {"signed_host": "elsewhere.example"},
        {"signed_timestamp": START - 86_400},
        {"signed_timestamp": START - 1},
    ],
    ids=str,
)
def test_tc3_does_not_hold(options):
    assert judged(tc3_request("DescribeJobs", **options)) == FAILURE


def test_the_date_of_the_scope_must_be_that_of_the_timestamp():
    request = tc3_request("DescribeJobs")
    headers = [(name, value.replace("2027-01-15", "2027-01-14")) for name, value in request.headers]
    assert judged(replace(request, headers=headers)) == FAILURE


def test_a_changed_body_breaks_the_signature():
    request = tc3_request("DescribeJobs", {"Limit": 1})
    assert judged(replace(request, body=b'{"Limit": 2}')) == FAILURE


def test_a_changed_query_breaks_the_signature():
    request = tc3_request("DescribeJobs", {"Limit": 1}, method="GET")
    assert judged(replace(request, target="/?Limit=2")) == FAILURE


def test_host_and_content_type_must_be_signed():
    request = tc3_request("DescribeJobs")
    fewer = [(name, value.replace("content-type;host", "host")) for name, value in request.headers]
    assert judged(replace(request, headers=fewer)) == FAILURE


@pytest.mark.parametrize(
    ("skew_s", "expected"),
    [
        (300, "OK"),
        (-300, "OK"),
        (301, "AuthFailure.SignatureExpire"),
        (-301, "AuthFailure.SignatureExpire"),
    ],
)
def test_timestamps_may_be_five_minutes_off(skew_s, expected):
    assert judged(tc3_request("DescribeJobs", timestamp=START + skew_s)) == expected
    assert judged(plain_request("DescribeJobs", timestamp=START + skew_s)) == expected


def test_an_unknown_secret_id_has_an_error_of_its_own():
    request = tc3_request("DescribeJobs", secret_id="AKIDOTHER")
    assert judged(request) == "AuthFailure.SecretIdNotFound"


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("digest", ["HmacSHA1", "HmacSHA256"])
def test_the_older_signatures_hold(method, digest):
    request = plain_request("DescribeJobs", FILTERS, method=method, digest=digest)
    assert judged(request) == "OK"
    portless = plain_request(
        "DescribeJobs", FILTERS, method=method, digest=digest, signed_host="127.0.0.1"
    )
    assert judged(portless) == "OK"
    wrong = plain_request("DescribeJobs", method=method, digest=digest, secret_key="another-key")
    assert judged(wrong) == FAILURE


def test_an_older_signature_covers_every_parameter():
    request = plain_request("DescribeJobs", {"Limit": 1})
    changed = replace(request, body=request.body.replace(b"Limit=1", b"Limit=2"))
    assert judged(changed) == FAILURE


def test_unknown_signature_methods_do_not_hold():
    request = plain_request("DescribeJobs")
    changed = replace(request, body=request.body.replace(b"HmacSHA1", b"HmacMD5"))
    assert judged(changed) == FAILURE


@pytest.mark.parametrize("text", ["", "soon", "9" * 400])
def test_a_timestamp_is_a_number(text):
    request = tc3_request("DescribeJobs")
    headers = [
        (name, text if name == "X-TC-Timestamp" else value) for name, value in request.headers
    ]
    expected = "InvalidParameter" if text else "MissingParameter"
    assert judged(replace(request, headers=headers)) == expected
