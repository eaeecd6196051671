"""The signature equals that of the vendor's SDK, byte for byte."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from tencentcloud.common import abstract_client
from tencentcloud.common import credential as vendor_credential
from tencentcloud.common.common_client import CommonClient
from tencentcloud.common.http.request import RequestInternal
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile

from orchestrator.cloud.signing import Credential, authorization, signed_headers
from orchestrator.cloud.wire import Action

KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60)
HOSTS = st.sampled_from(
    [
        "batch.tencentcloudapi.com",
        "batch.ap-guangzhou.tencentcloudapi.com",
        "batch.intl.tencentcloudapi.com",
        "cvm.ap-guangzhou.tencentcloudapi.com",
        "127.0.0.1:8080",
    ]
)
PARAMETERS = st.dictionaries(st.text(max_size=10), st.text(max_size=40) | st.integers(), max_size=4)
SHARED_HEADERS = (
    *("Authorization", "Content-Type", "Host", "X-TC-Action", "X-TC-Language", "X-TC-Region"),
    *("X-TC-Timestamp", "X-TC-Token", "X-TC-Version"),
)


def headers_of_vendor(
    credential: Credential,
    action: Action,
    host: str,
    parameters: dict[str, object],
    timestamp_s: int,
) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body that the SDK builds at ``timestamp_s``."""
    client = CommonClient(
        action.service.name,
        action.service.version,
        vendor_credential.Credential(credential.secret_id, credential.secret_key, credential.token),
        "ap-guangzhou",
        ClientProfile(httpProfile=HttpProfile(endpoint=host), language="en-US"),
    )
    request = RequestInternal(host, "POST", "/", header={})
    stopped = SimpleNamespace(time=lambda: timestamp_s)
    with mock.patch.object(abstract_client, "time", stopped):
        client._build_req_with_tc3_signature(action.value, parameters, request)
    return request.header, request.data.encode()


@given(
    credential=st.builds(Credential, secret_id=KEYS, secret_key=KEYS, token=st.none() | KEYS),
    action=st.sampled_from(Action),
    host=HOSTS,
    parameters=PARAMETERS,
    timestamp_s=st.integers(min_value=0, max_value=4102444800),
)
def test_headers_are_those_of_the_vendor(credential, action, host, parameters, timestamp_s) -> None:
    """All headers that both send are equal, including the signature."""
    theirs, body = headers_of_vendor(credential, action, host, parameters, timestamp_s)

    ours = signed_headers(
        credential,
        service=action.service.name,
        host=host,
        action=action,
        version=action.service.version,
        region="ap-guangzhou",
        body=body,
        at=datetime.fromtimestamp(timestamp_s, UTC),
    )

    assert json.loads(body) == parameters
    assert set(ours) <= set(SHARED_HEADERS)
    assert ours == {name: theirs[name] for name in SHARED_HEADERS if name in theirs}


def test_scope_date_is_made_from_the_timestamp() -> None:
    """One second before midnight UTC, the scope has the old date."""
    credential = Credential(secret_id="AKIDexample", secret_key="secret")
    before_midnight_s = int(datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC).timestamp())

    days = [
        authorization(
            credential,
            service="batch",
            host="h",
            body=b"{}",
            timestamp_s=before_midnight_s + later_s,
        )
        for later_s in (0, 1)
    ]

    assert "Credential=AKIDexample/2026-02-28/batch/tc3_request" in days[0]
    assert "Credential=AKIDexample/2026-03-01/batch/tc3_request" in days[1]


def test_service_is_part_of_the_signature() -> None:
    """A signature for one service is not valid for another."""
    credential = Credential(secret_id="AKIDexample", secret_key="secret")

    made = {
        authorization(credential, service=service, host="h", body=b"{}", timestamp_s=0)
        for service in ("batch", "cvm")
    }

    assert len({text.rpartition("=")[2] for text in made}) == 2


def test_credential_shows_nothing_of_itself() -> None:
    """repr, str and format show no part of a key."""
    credential = Credential(secret_id="AKIDexample", secret_key="secret", token="token")

    assert {repr(credential), str(credential), f"{credential}"} == {"Credential(***)"}
