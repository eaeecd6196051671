"""A manual clock, and a client that signs its requests and needs no socket."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from orchestrator.simulator.cloud.job_spec import JobSpec
from orchestrator.simulator.protocol.replies import Delivery, Reply
from orchestrator.simulator.protocol.request_parser import Request
from orchestrator.simulator.simulator import Simulator
from orchestrator.simulator.traffic.quota import LOWEST_DOCUMENTED

START = 1_800_000_000.0
SECRET_ID = "AKIDEXAMPLE"
SECRET_KEY = "example-secret-key"
HOST = "127.0.0.1:8000"
CVM = {"DescribeInstances", "TerminateInstances"}
UNLIMITED = dict.fromkeys(LOWEST_DOCUMENTED, 10_000)


@dataclass
class Clock:
    time: float = START

    def __call__(self) -> float:
        return self.time

    def at(self, seconds: float) -> None:
        """Set the time to ``seconds`` after the start."""
        self.time = START + seconds


def tc3_request(
    action: str,
    params: dict[str, Any] | None = None,
    *,
    method: str = "POST",
    target: str = "/",
    host: str = HOST,
    signed_host: str | None = None,
    extra: dict[str, str] | None = None,
    service: str | None = None,
    secret_id: str = SECRET_ID,
    secret_key: str = SECRET_KEY,
    timestamp: float = START,
    signed_timestamp: float | None = None,
    region: str = "ap-guangzhou",
    version: str = "2017-03-12",
    body: bytes | None = None,
    unsigned: bool = False,
) -> Request:
    """Return a request signed as the vendor describes, with options for client differences."""
    if body is None:
        body = json.dumps(params or {}).encode() if method == "POST" else b""
    query = urlencode(params or {}) if method == "GET" else ""
    form = "application/x-www-form-urlencoded"
    signed = {
        "content-type": "application/json" if method == "POST" else form,
        "host": host if signed_host is None else signed_host,
        **(extra or {}),
    }
    names = ";".join(sorted(signed))
    lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
    payload = b"UNSIGNED-PAYLOAD" if unsigned else body
    canonical = "\n".join((method, "/", query, lines, names, hashlib.sha256(payload).hexdigest()))
    seconds = int(timestamp if signed_timestamp is None else signed_timestamp)
    date = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
    service = service or ("cvm" if action in CVM else "batch")
    scope = f"{date}/{service}/tc3_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = b"TC3" + secret_key.encode()
    for part in (date, service, "tc3_request", f"TC3-HMAC-SHA256\n{seconds}\n{scope}\n{digest}"):
        key = hmac.digest(key, part.encode(), "sha256")
    headers = {
        **signed,
        "Host": host,
        "X-TC-Action": action,
        "X-TC-Version": version,
        "X-TC-Region": region,
        "X-TC-Timestamp": str(int(timestamp)),
        "Authorization": f"TC3-HMAC-SHA256 Credential={secret_id}/{scope}, "
        f"SignedHeaders={names}, Signature={key.hex()}",
    }
    del headers["host"]
    if unsigned:
        headers["X-TC-Content-SHA256"] = "UNSIGNED-PAYLOAD"
    return Request(method, f"{target}?{query}" if query else target, list(headers.items()), body)


def plain_request(
    action: str,
    params: dict[str, Any] | None = None,
    *,
    method: str = "POST",
    digest: str = "HmacSHA1",
    secret_key: str = SECRET_KEY,
    signed_host: str = HOST,
    timestamp: float = START,
) -> Request:
    """Return a request of the older kind, with everything in the form or in the query."""
    given = {
        "Action": action,
        "Version": "2017-03-12",
        "Region": "ap-guangzhou",
        "Timestamp": int(timestamp),
        "Nonce": 4711,
        "SecretId": SECRET_ID,
        "SignatureMethod": digest,
        **(params or {}),
    }
    text = "&".join(f"{name}={given[name]}" for name in sorted(given))
    made = hmac.digest(
        secret_key.encode(),
        f"{method}{signed_host}/?{text}".encode(),
        digest.removeprefix("Hmac").lower(),
    )
    form = urlencode({**given, "Signature": base64.b64encode(made).decode()})
    headers = [("Host", HOST), ("Content-Type", "application/x-www-form-urlencoded")]
    if method == "GET":
        return Request("GET", f"/?{form}", headers, b"")
    return Request("POST", "/", headers, form.encode())


def answer(reply: Reply) -> dict[str, Any]:
    """Return the ``Response`` of a reply that is delivered whole."""
    assert reply.delivery is Delivery.WHOLE
    assert reply.status == 200
    response: dict[str, Any] = json.loads(reply.body)["Response"]
    return response


def code(reply: Reply) -> str:
    """Return the code of an error reply, or OK."""
    return str(answer(reply).get("Error", {"Code": "OK"})["Code"])


@dataclass
class Cloud:
    """A simulator with a manual clock, and short methods to call it."""

    clock: Clock
    simulator: Simulator
    options: dict[str, Any] = field(default_factory=dict)

    def call(self, action: str, **params: Any) -> dict[str, Any]:
        request = tc3_request(action, params, timestamp=self.clock(), **self.options)
        return answer(self.simulator.handle(request))

    def code(self, action: str, **params: Any) -> str:
        return str(self.call(action, **params).get("Error", {"Code": "OK"})["Code"])

    def counters(self, job_id: str = "job-aaaaaaaa") -> dict[str, int]:
        """Return the counters of TaskInstanceMetrics that are not zero, by state."""
        metrics = self.call("DescribeJob", JobId=job_id)["TaskInstanceMetrics"]
        return {name.removesuffix("Count"): count for name, count in metrics.items() if count}

    def job_state(self, job_id: str = "job-aaaaaaaa") -> str:
        return str(self.call("DescribeJob", JobId=job_id)["JobState"])

    def truth(self, job_id: str = "job-aaaaaaaa") -> dict[str, Any]:
        return next(job for job in self.simulator.truth() if job["job_id"] == job_id)


def cloud(*specs: JobSpec, **options: Any) -> Cloud:
    """Return a cloud with these jobs and without quota limits."""
    clock = Clock()
    settings = {"secret_keys": {SECRET_ID: SECRET_KEY}, "limits_per_s": UNLIMITED, **options}
    simulator = Simulator(now=clock, **settings)
    simulator.add_jobs(specs)
    return Cloud(clock, simulator)


def job(**values: Any) -> JobSpec:
    """Return the job ``job-aaaaaaaa`` of ten running instances that drains in ten seconds."""
    return JobSpec(**{"job_id": "job-aaaaaaaa", "instances": 10, "drain_s": 10.0, **values})
