"""Fetch a certificate and verify it, or verify a file without any daemon."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING

from orchestrator.cli.client.api_client import Api
from orchestrator.cli.exit_codes import FAILED
from orchestrator.cli.output import printing
from orchestrator.domain.audit.verification import verify
from orchestrator.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


def fetch(url: str, token: str | None, operation_id: str, output: Path | None) -> int:
    """Write the certificate to ``output``, or to standard output; the exit code.

    One that is not valid is written, too: somebody will want to see it.
    """

    async def ask() -> bytes:
        async with Api(url, token) as api:
            return await api.certificate(operation_id)

    data = asyncio.run(ask())
    if output is not None:
        try:
            output.write_bytes(data)
        except OSError as error:
            raise ConfigurationError([f"{output} cannot be written: {error.strerror}"]) from error
    elif sys.stdout.isatty():
        # Only ESC and its like are escaped in JSON; a terminal obeys others as well.
        printing.line(printing.out(), printing.clean(data.decode(errors="replace")))
    else:
        printing.raw(data)
    return _judge(data, operation_id)


def check(path: Path, operation_id: str | None) -> int:
    """Whether the file is a valid certificate, of this operation where one is given."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError([f"{path} cannot be read: {error.strerror}"]) from error
    return _judge(data, operation_id)


def _judge(data: bytes, operation_id: str | None) -> int:
    notes = printing.err()
    faults = verify(data)
    if not faults:
        document = json.loads(data)
        certified = document["certificate"]
        of = certified["operation"]["id"]
        if operation_id not in {None, of}:
            faults = [f"operation: it is the certificate of {of}, not of {operation_id}"]
    if faults:
        for fault in faults:
            printing.line(notes, printing.clean(fault))
        printing.line(notes, f"not valid: {len(faults)} fault{'' if len(faults) == 1 else 's'}")
        return FAILED
    printing.line(notes, printing.clean(f"valid: {of}: {certified['conclusion']}"))
    printing.line(notes, f"digest {document['digest']}")
    return 0
