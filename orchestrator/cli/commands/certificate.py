"""The `certificate` command: fetch and verify a certificate, or verify a file offline."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING

from orchestrator.cli.client.api_client import Api
from orchestrator.cli.exit_codes import FAILED
from orchestrator.cli.output import printing
from orchestrator.domain.audit.certificate_verification import verify
from orchestrator.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


def fetch(url: str, token: str | None, operation_id: str, output: Path | None) -> int:
    """Write the certificate to ``output`` or to standard output; return the exit code.

    An invalid certificate is written too, so that it can be examined.
    """

    async def request() -> bytes:
        async with Api(url, token) as api:
            return await api.certificate(operation_id)

    data = asyncio.run(request())
    if output is not None:
        try:
            output.write_bytes(data)
        except OSError as error:
            raise ConfigurationError([f"{output} cannot be written: {error.strerror}"]) from error
    elif sys.stdout.isatty():
        # JSON escapes only characters such as ESC; a terminal obeys other controls as well.
        printing.print_line(printing.out(), printing.clean(data.decode(errors="replace")))
    else:
        printing.print_bytes(data)
    return _verify(data, operation_id)


def check(path: Path, operation_id: str | None) -> int:
    """Verify the certificate in a file, and its operation if one is given; return the exit code."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError([f"{path} cannot be read: {error.strerror}"]) from error
    return _verify(data, operation_id)


def _verify(data: bytes, operation_id: str | None) -> int:
    notes = printing.err()
    faults = verify(data)
    if not faults:
        document = json.loads(data)
        certificate = document["certificate"]
        certified_id = certificate["operation"]["id"]
        if operation_id not in {None, certified_id}:
            faults = [
                f"operation: this is the certificate of {certified_id}, not of {operation_id}"
            ]
    if faults:
        for fault in faults:
            printing.print_line(notes, printing.clean(fault))
        printing.print_line(
            notes, f"not valid: {len(faults)} fault{'' if len(faults) == 1 else 's'}"
        )
        return FAILED
    printing.print_line(
        notes, printing.clean(f"valid: {certified_id}: {certificate['conclusion']}")
    )
    printing.print_line(notes, f"digest {document['digest']}")
    return 0
