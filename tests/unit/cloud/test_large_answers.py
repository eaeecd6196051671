"""Replies of any size: too large ones are not read to the end, large ones do not block the loop."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
import zlib
from itertools import pairwise
from time import perf_counter
from typing import Final

import pytest
from aiohttp import web

from orchestrator.cloud import gateway, wire
from orchestrator.cloud.transport import ANSWER_BYTES_MAX, MIB
from orchestrator.domain.errors import CloudErrorKind as Kind
from orchestrator.domain.model.error_detail import ClientCode
from tests.support.clock import NOON
from tests.unit.cloud.support import REGION, ScriptedServer, failure, gateway_to

MEMORY_BYTES_MAX: Final = 4 * ANSWER_BYTES_MAX
BOMB_MIB: Final = 256
WBITS: Final = {"gzip": 31, "deflate": 15}
ROW: Final = b'{"JobId":"job-%08d","JobName":"n","JobState":"RUNNING"},'


def bomb(encoding: str) -> bytes:
    """Return a small body that decompresses into 256 MiB."""
    packer = zlib.compressobj(1, wbits=WBITS[encoding])
    return b"".join(packer.compress(bytes(MIB)) for _ in range(BOMB_MIB)) + packer.flush()


def sent_packed(encoding: str) -> web.Response:
    packed = bomb(encoding)
    assert len(packed) < 2 * MIB
    return web.Response(body=packed, headers={"Content-Encoding": encoding})


class EndlessBody:
    """Endless body, sent in chunks until the client closes the connection."""

    def __init__(self) -> None:
        self.sent_bytes = 0
        self.cut = asyncio.Event()

    async def send(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        try:
            while True:
                await answer.write(b"x" * 65_536)
                self.sent_bytes += 65_536
        finally:
            self.cut.set()


@pytest.mark.parametrize("encoding", WBITS)
async def test_small_answer_that_decompresses_into_a_huge_one_takes_little_memory(encoding) -> None:
    async with gateway_to(ScriptedServer(sent_packed(encoding))) as cloud:
        tracemalloc.start()
        try:
            error = await failure(cloud)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert (error.kind, error.code) == (Kind.OUTCOME_UNKNOWN, ClientCode.ANSWER_TOO_LARGE)
    assert "16,777,216 bytes" in error.message
    assert peak_bytes < MEMORY_BYTES_MAX


async def test_endless_answer_is_cut_off() -> None:
    """The connection is closed; the next request succeeds on a new one."""
    endless = EndlessBody()
    async with gateway_to(ScriptedServer(endless.send, acknowledged())) as cloud:
        error = await failure(cloud)
        await endless.cut.wait()
        assert await cloud.terminate_job(region=REGION, job_id="job-1") == "r-1"

    assert (error.kind, error.code) == (Kind.OUTCOME_UNKNOWN, ClientCode.ANSWER_TOO_LARGE)
    assert endless.sent_bytes < MEMORY_BYTES_MAX


@pytest.mark.parametrize("more_bytes", [0, 1])
async def test_answer_is_read_up_to_the_bound(more_bytes) -> None:
    async with gateway_to(ScriptedServer(acknowledged(ANSWER_BYTES_MAX + more_bytes))) as cloud:
        if more_bytes:
            assert (await failure(cloud)).code == ClientCode.ANSWER_TOO_LARGE
        else:
            assert await cloud.terminate_job(region=REGION, job_id="job-1") == "r-1"


@pytest.mark.parametrize("large", [False, True])
async def test_large_answer_is_read_in_a_thread_and_a_small_one_in_the_loop(
    monkeypatch, large
) -> None:
    """Both the envelope and the rows are decoded there."""
    readers: set[threading.Thread] = set()

    def noting(function):
        def noted(*arguments, **named):
            readers.add(threading.current_thread())
            return function(*arguments, **named)

        return noted

    for name in ("open_envelope", "read_jobs"):
        monkeypatch.setattr(wire, name, noting(getattr(wire, name)))
    body = page_of_jobs(gateway.READ_IN_THREAD_FROM_BYTES if large else 1000)
    async with gateway_to(ScriptedServer(web.Response(body=body))) as cloud:
        jobs = await cloud.describe_jobs(region=REGION, job_ids=["job-00000000"])

    assert jobs["job-00000000"].name == "n"
    assert (threading.current_thread() in readers) is not large
    assert len(readers) == 1


async def test_event_loop_runs_while_a_large_answer_is_parsed() -> None:
    """json.loads in a thread would block the loop, because it holds the interpreter's lock."""
    body = page_of_jobs(ANSWER_BYTES_MAX - 1000)
    turns_at_s = [perf_counter()]
    parsing = asyncio.create_task(asyncio.to_thread(wire.open_envelope, 200, body))
    while not parsing.done():
        await asyncio.sleep(0)
        turns_at_s.append(perf_counter())

    longest_s = max(later - earlier for earlier, later in pairwise(turns_at_s))
    assert len(wire.read_jobs(await parsing, observed_at=NOON)) > 200_000
    assert longest_s < (turns_at_s[-1] - turns_at_s[0]) / 2


def acknowledged(size_bytes: int = 0) -> web.Response:
    """Return a reply to TerminateJob, padded with blanks."""
    body = b'{"Response":{"RequestId":"r-1"}}'
    return web.Response(body=body.ljust(size_bytes))


def page_of_jobs(size_bytes: int) -> bytes:
    """Return a reply to DescribeJobs with rows of this total size."""
    rows = b"".join(ROW % number for number in range(size_bytes // len(ROW % 0) + 1))
    return b'{"Response":{"RequestId":"r-1","JobSet":[' + rows[:-1] + b"]}}"
