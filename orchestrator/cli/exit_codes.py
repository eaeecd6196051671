"""Exit codes, and what a command prints when an error ends it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import typer

from orchestrator.cli.client.errors import TOKEN_VARIABLE, RequestFailed, Unreachable
from orchestrator.cli.output import printing
from orchestrator.cli.output.printing import OutputFailed
from orchestrator.domain.errors import ConfigurationError, OrchestratorError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

FAILED: Final = 1
UNUSABLE: Final = 2
UNREACHABLE: Final = 3
NOT_PRINTED: Final = 4
FINISHED_BEFORE: Final = 5
INTERRUPTED: Final = 130
READER_LEFT: Final = 141
"""As of a program that SIGPIPE ended."""
EXIT_CODES: Final = (
    "Exit codes: 0 as asked; 1 not everything came out down, or a job was revived since, or a "
    "certificate is not valid; 2 the request or the configuration cannot be used; 3 no daemon "
    "answers; 4 standard output cannot be written; 5 the idempotency key is that of an operation "
    "that had finished before; 128 + N ended by signal N (141: the reader of the pipe left)."
)
UNAUTHORIZED: Final = 401


class Interrupted(OrchestratorError):
    """Ctrl-C; the message says what goes on without us."""


class RunFailed(OrchestratorError):
    """It was started and could not go on."""


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print what ends a command on standard error, and exit with its code."""
    try:
        yield
    except ConfigurationError as error:
        _end(error.problems, UNUSABLE)
    except RequestFailed as error:
        lines = [str(error), *(f"  {each}" for each in error.errors)]
        if error.status == UNAUTHORIZED:
            lines.append(f"  give the token in the environment variable {TOKEN_VARIABLE}")
        _end(lines, UNUSABLE)
    except Unreachable as error:
        _end([str(error)], UNREACHABLE)
    except Interrupted as error:
        _end(["", str(error)], INTERRUPTED)
    except KeyboardInterrupt:
        _end(["", "stopped"], INTERRUPTED)
    except (StoreUnavailable, RunFailed) as error:
        _end([str(error)], FAILED)
    except OutputFailed as error:
        _end(_unprinted(error), READER_LEFT if error.reader_left else NOT_PRINTED)


def _unprinted(error: OutputFailed) -> list[str]:
    """A reader who leaves early has what was wanted; but an id that nobody has must not be lost."""
    if error.reader_left and not error.id_lost:
        return []
    return [f"{error}; operation: {error.operation_id}" if error.operation_id else str(error)]


def _end(lines: list[str], code: int) -> None:
    console = printing.err()
    for text in lines:
        indent = text[: len(text) - len(text.lstrip())]
        printing.line(console, indent + printing.clean(text))
    raise typer.Exit(code)
