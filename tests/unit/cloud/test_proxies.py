"""Requests through a real proxy and over real TLS: what arrives, and the errors."""

from __future__ import annotations

import base64
import re
import ssl
import traceback
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from aiohttp import web

from orchestrator.cloud.egress import Egress, Proxy
from orchestrator.cloud.transport import AiohttpTransport, HttpAnswer
from orchestrator.domain.errors import CloudError, CloudErrorKind
from tests.support.http_proxy import HttpProxy
from tests.unit.cloud.support import ScriptedServer, said

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HOST = "batch.test"
SECRET = "pr%40xy-secret"
TOKEN = base64.b64encode(b"me:pr@xy-secret").decode()
BROKEN = {
    "no answer": b"",
    "half an answer": b"HTTP/1.1 407",
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "a line without end": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    "a header without colon": b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
    "a length that is none": b"HTTP/1.1 407 X\r\nContent-Length: abc\r\n\r\n",
    "the password": f"HTTP/1.1 200 OK\r\nProxy-Authorization\u00a0: {TOKEN}\r\n\r\n".encode(),
}
"""Replies of a proxy that aiohttp cannot read."""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@asynccontextmanager
async def listening(
    server: ScriptedServer, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Run ``server`` on loopback, over TLS if a context is given; yield the port."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def certified(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


async def call(url: str, egress: Egress, *, times: int = 1, timeout_s: float = 5.0) -> HttpAnswer:
    """Send requests one after another on one transport; return the last reply."""
    transport = AiohttpTransport(
        connect_timeout_s=timeout_s, total_timeout_s=2 * timeout_s, egress=egress
    )
    try:
        for _ in range(times):
            answer = await transport.post(
                url, headers={"Host": HOST}, body=b"{}", before_send=lambda: None
            )
        return answer
    finally:
        await transport.close()


async def failure(url: str, egress: Egress, **more: Any) -> CloudError:
    with pytest.raises(CloudError) as caught:
        await call(url, egress, **more)
    logged = "".join(traceback.format_exception(caught.value))
    assert not any(secret in logged for secret in (SECRET, "pr@xy-secret"))
    assert TOKEN not in str(caught.value)
    assert caught.value.advice
    return caught.value


def through(proxy: HttpProxy, user: str = "", **more: Any) -> Egress:
    credentials = f"{user}:{SECRET}@" if user else ""
    url = f"http://{credentials}127.0.0.1:{proxy.port}"
    return Egress(proxy=Proxy(url, "egress.proxy"), **more)


# --- proxies -------------------------------------------------------------------------------------


async def test_a_plain_call_goes_through_the_proxy_with_its_password_percent_decoded() -> None:
    server = ScriptedServer(lambda _: said())
    async with (
        listening(server) as port,
        HttpProxy(port, user="me", password="pr@xy-secret") as proxy,
    ):
        answer = await call(f"http://{HOST}/", through(proxy, "me"))

    assert answer.status == 200
    assert proxy.asked == [f"POST http://{HOST}/"]
    [(headers, body)] = server.arrived
    assert (headers["Host"], body) == (HOST, b"{}")


async def test_a_tls_call_is_tunnelled_and_the_password_stays_with_the_proxy(
    authority: trustme.CA, ca_file: Path
) -> None:
    """Two requests share one tunnel; the proxy sees the content of neither."""
    server = ScriptedServer(lambda _: said())
    async with (
        listening(server, certified(authority, HOST)) as port,
        HttpProxy(port, user="me", password="pr@xy-secret") as proxy,
    ):
        await call(f"https://{HOST}/", through(proxy, "me", ca_file=ca_file), times=2)

    assert proxy.asked == [f"CONNECT {HOST}:443"]
    assert len(server.arrived) == 2
    assert not any("Proxy-Authorization" in headers for headers, _ in server.arrived)


async def test_the_proxy_of_the_environment_is_used() -> None:
    server = ScriptedServer(lambda _: said())
    async with listening(server) as port, HttpProxy(port) as proxy:
        environment = {"HTTP_PROXY": proxy.url, "NO_PROXY": "other.test"}
        await call(f"http://{HOST}/", Egress(environment=environment))
    assert len(server.arrived) == len(proxy.asked) == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_does_not_know_the_user(scheme: str) -> None:
    """Nothing was sent, and the advice is about the proxy."""
    server = ScriptedServer(lambda _: said())
    async with (
        listening(server) as port,
        HttpProxy(port, user="me", password="another") as proxy,
    ):
        error = await failure(f"{scheme}://{HOST}/", through(proxy, "me"))
    assert (error.kind, error.code) == (CloudErrorKind.NOT_SENT, "Client.ProxyFailed")
    assert "407" in error.message
    assert f"http://127.0.0.1:{proxy.port} (egress.proxy)" in error.message
    assert "check the proxy" in str(error.advice)
    assert server.arrived == []


async def test_a_proxy_that_refuses_the_tunnel() -> None:
    async with listening(ScriptedServer()) as port, HttpProxy(port) as proxy:
        proxy.answer = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
        error = await failure(f"https://{HOST}/", through(proxy))
    assert (error.kind, error.code) == (CloudErrorKind.NOT_SENT, "Client.ProxyFailed")
    assert error.message.endswith("(egress.proxy): it answered 403 Forbidden")


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
async def test_a_proxy_whose_answer_cannot_be_read(scheme: str, answer: bytes) -> None:
    """The error has one line without the password; through a tunnel, nothing was sent."""
    async with (
        listening(ScriptedServer()) as port,
        HttpProxy(port, user="me", password="pr@xy-secret") as proxy,
    ):
        proxy.answer = answer
        error = await failure(f"{scheme}://{HOST}/", through(proxy, "me"))
    assert (error.kind is CloudErrorKind.NOT_SENT) == (scheme == "https")
    assert re.search(
        r"it (closed the connection before it answered|sent invalid HTTP: [\w -]+)$",
        error.message,
    )


async def test_a_proxy_that_says_nothing() -> None:
    async with listening(ScriptedServer(said())) as port, HttpProxy(port) as proxy:
        proxy.hangs = True
        error = await failure(f"https://{HOST}/", through(proxy), timeout_s=0.2)
    assert (error.kind, error.code) == (CloudErrorKind.NOT_SENT, "Client.ProxyFailed")


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_is_not_there(scheme: str, unused_tcp_port: int) -> None:
    egress = Egress(proxy=Proxy(f"http://u:{SECRET}@127.0.0.1:{unused_tcp_port}", "HTTPS_PROXY"))
    error = await failure(f"{scheme}://{HOST}/", egress)
    assert (error.kind, error.code) == (CloudErrorKind.NOT_SENT, "Client.ProxyFailed")
    assert "(HTTPS_PROXY)" in error.message


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_nothing_is_sent_twice_through_a_proxy(
    scheme: str, authority: trustme.CA, ca_file: Path
) -> None:
    """A reply that breaks off is not repeated, on a new or on a kept connection."""

    def breaks_off(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.close()
        return said()

    for calls, replies in ((1, [breaks_off]), (2, [lambda _: said(), breaks_off])):
        server = ScriptedServer(*replies)
        tls = certified(authority, HOST) if scheme == "https" else None
        async with listening(server, tls) as port, HttpProxy(port) as proxy:
            egress = through(proxy, ca_file=ca_file)
            error = await failure(f"{scheme}://{HOST}/", egress, times=calls)
        assert error.kind is CloudErrorKind.OUTCOME_UNKNOWN
        assert len(server.arrived) == calls


# --- TLS -----------------------------------------------------------------------------------------


async def test_an_authority_of_ones_own_is_trusted_where_it_is_named(
    authority: trustme.CA, ca_file: Path
) -> None:
    server = ScriptedServer(lambda _: said())
    async with listening(server, certified(authority, "127.0.0.1")) as port:
        answer = await call(f"https://127.0.0.1:{port}/", Egress(ca_file=ca_file))
    assert answer.status == 200


@pytest.mark.parametrize("named", [False, True], ids=["unknown authority", "another host"])
async def test_a_certificate_that_is_not_trusted(
    named: bool, authority: trustme.CA, ca_file: Path
) -> None:
    """Nothing was sent, and the advice is about certificates."""
    server = ScriptedServer(lambda _: said())
    names = ("other.test",) if named else ("127.0.0.1",)
    async with listening(server, certified(authority, *names)) as port:
        egress = Egress(ca_file=ca_file if named else None)
        error = await failure(f"https://127.0.0.1:{port}/", egress)
    assert (error.kind, error.code) == (
        CloudErrorKind.NOT_SENT,
        "Client.CertificateNotTrusted",
    )
    assert "CERTIFICATE_VERIFY_FAILED" in error.message
    assert "ca_file" in str(error.advice)
    assert server.arrived == []


async def test_a_certificate_that_is_not_trusted_at_the_end_of_a_tunnel(
    authority: trustme.CA,
) -> None:
    """The error is about the certificate, not about the proxy."""
    server = ScriptedServer(lambda _: said())
    async with listening(server, certified(authority, HOST)) as port, HttpProxy(port) as proxy:
        error = await failure(f"https://{HOST}/", through(proxy))
    assert error.code == "Client.CertificateNotTrusted"
    assert server.arrived == []
