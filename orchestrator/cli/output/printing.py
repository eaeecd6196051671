"""Consoles that print what they are given, and text from elsewhere made harmless."""

from __future__ import annotations

import errno
import os
import re
import sys
import unicodedata
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, Final, cast

from rich.console import Console

from orchestrator.domain.errors import OrchestratorError
from orchestrator.domain.text import INVISIBLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

ESCAPE_SEQUENCE: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours, cursor
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # titles, links
    r"|\x1b[ -/]*[0-~]"
)
SPACES: Final = ("\n", "\r", "\t", "\u2028", "\u2029")
PIPE_WIDTH: Final = 120


class OutputFailed(OrchestratorError):
    """Standard output takes nothing more: its disk is full, or its reader has left."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"standard output cannot be written: {error.strerror}")
        self.reader_left = error.errno == errno.EPIPE
        self.operation_id: str | None = None
        self.id_lost = False
        """Whether nothing else tells the operation's id."""


@contextmanager
def naming(operation_id: str, *, lost: bool = False) -> Iterator[None]:
    """Where output fails, have the operation that it is about named on standard error.

    ``lost``: also where it is the reader who left, for the id was to be written just now.
    """
    try:
        yield
    except OutputFailed as error:
        error.operation_id, error.id_lost = operation_id, lost
        raise


def clean(text: object) -> str:
    """One line of printable characters, whatever came from the network."""
    without_sequences = ESCAPE_SEQUENCE.sub("", str(text))
    return "".join(
        " " if character in SPACES else character
        for character in without_sequences
        if character in SPACES or unicodedata.category(character) not in INVISIBLE
    ).strip()


def out() -> Console:
    return _console(to_stderr=False)


def err() -> Console:
    return _console(to_stderr=True)


def _console(*, to_stderr: bool) -> Console:
    """Markup and emoji names are off: a job may be called ``[red]`` or ``:boom:``.

    FORCE_COLOR makes no terminal of a pipe: lines would be broken at a width that nobody has.
    """
    stream = sys.stderr if to_stderr else sys.stdout
    is_terminal = stream is not None and stream.isatty()
    return Console(
        file=cast("IO[str]", _Stream(stream, lossy=to_stderr)),
        force_terminal=is_terminal,
        markup=False,
        emoji=False,
        highlight=False,
        width=None if is_terminal or "COLUMNS" in os.environ else PIPE_WIDTH,
    )


class _Stream:
    """A standard stream; a write that fails raises OutputFailed, or is dropped with ``lossy``.

    Notes on standard error are lossy: that nobody reads them must not keep a request from being
    sent.
    """

    def __init__(self, stream: TextIO | None, *, lossy: bool) -> None:
        self._stream = stream
        self._dropped = (OutputFailed,) if lossy else ()

    def write(self, text: str) -> None:
        with suppress(*self._dropped), _written(self._stream) as stream:
            stream.write(text)

    def flush(self) -> None:
        with suppress(*self._dropped), _written(self._stream) as stream:
            stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _written(stream: TextIO | None) -> Iterator[TextIO]:
    if stream is None:  # it was closed before the program began
        raise OutputFailed(OSError(errno.EBADF, os.strerror(errno.EBADF)))
    try:
        yield stream
    except OSError as error:
        _discard(stream)
        raise OutputFailed(error) from error


def _discard(stream: TextIO) -> None:
    """Lead to nowhere what waits to be written: Python tries once more as it exits, loudly."""
    with suppress(OSError):  # no file of the system, in tests
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def raw(data: bytes) -> None:
    """Write bytes to standard output as they are."""
    with _written(sys.stdout) as stream:
        stream.buffer.write(data)
        stream.flush()


def line(console: Console, text: str) -> None:
    """Print one line, however long, without breaking it; a pipe gets it as it is, tabs included."""
    if console.is_terminal:
        console.print(text, soft_wrap=True)
    else:
        console.file.write(f"{text}\n")
        console.file.flush()


def words(console: Console, text: str) -> None:
    """Print one line, which a terminal that is too narrow for it shows broken between words."""
    if console.is_terminal:
        console.print(text)
    else:
        line(console, text)
