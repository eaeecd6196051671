"""Consoles without markup, terminal-safe text, and errors of standard output."""

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
    """Standard output cannot be written: the disk is full, or the reader closed the pipe."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"standard output cannot be written: {error.strerror}")
        self.reader_left = error.errno == errno.EPIPE
        self.operation_id: str | None = None
        self.id_lost = False
        """True if the operation id was shown nowhere else."""


@contextmanager
def naming(operation_id: str, *, lost: bool = False) -> Iterator[None]:
    """Add the operation id to an OutputFailed, so that it is printed on standard error.

    ``lost``: print it even if the reader closed the pipe, since the failed output was the id.
    """
    try:
        yield
    except OutputFailed as error:
        error.operation_id, error.id_lost = operation_id, lost
        raise


def clean(text: object) -> str:
    """Return one line of printable characters from any text of the network."""
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
    """Return a console without markup and emoji: a job name can be ``[red]`` or ``:boom:``.

    FORCE_COLOR does not turn a pipe into a terminal: lines would be broken at an arbitrary width.
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
    """A standard stream. A failed write raises OutputFailed, or is ignored if ``lossy``.

    Standard error is lossy: an unreadable note must not prevent a request from being sent.
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
    if stream is None:  # closed before the program started
        raise OutputFailed(OSError(errno.EBADF, os.strerror(errno.EBADF)))
    try:
        yield stream
    except OSError as error:
        _discard(stream)
        raise OutputFailed(error) from error


def _discard(stream: TextIO) -> None:
    """Redirect the stream to /dev/null: Python would write its buffer at exit and fail again."""
    with suppress(OSError):  # in tests the stream has no file descriptor
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, stream.fileno())
        os.close(devnull)


def print_bytes(data: bytes) -> None:
    """Write bytes to standard output unchanged."""
    with _written(sys.stdout) as stream:
        stream.buffer.write(data)
        stream.flush()


def print_line(console: Console, text: str) -> None:
    """Print one line without line breaks; a pipe receives it unchanged, including tabs."""
    if console.is_terminal:
        console.print(text, soft_wrap=True)
    else:
        console.file.write(f"{text}\n")
        console.file.flush()


def print_wrapped(console: Console, text: str) -> None:
    """Print one line; a terminal that is too narrow shows it broken between words."""
    if console.is_terminal:
        console.print(text)
    else:
        print_line(console, text)
