"""Exit codes of the commands, and the printing of errors."""

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
"""The code that a shell shows for a program ended by SIGPIPE."""
EXIT_CODES: Final = (
    "Exit codes: 0 success; 1 failure: not every job is proven stopped, or a job was revived, or "
    "a certificate is not valid; 2 the request or the configuration is not valid; 3 no daemon "
    "answers; 4 standard output cannot be written; 5 the idempotency key belongs to an operation "
    "that had already finished; 128 + N ended by signal N (141: the reader closed the pipe)."
)
UNAUTHORIZED: Final = 401


class Interrupted(OrchestratorError):
    """Ended by Ctrl-C; the message names what continues without this command."""


class RunFailed(OrchestratorError):
    """A program was started and could not continue."""


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print an error that ends a command on standard error, and exit with its code."""
    try:
        yield
    except ConfigurationError as error:
        _end(error.problems, UNUSABLE)
    except RequestFailed as error:
        lines = [str(error), *(f"  {each}" for each in error.errors)]
        if error.status == UNAUTHORIZED:
            lines.append(f"  give the bearer token with --token-file or in {TOKEN_VARIABLE}")
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
        _end(_output_error_lines(error), READER_LEFT if error.reader_left else NOT_PRINTED)


def _output_error_lines(error: OutputFailed) -> list[str]:
    """Return the lines for failed output.

    None if the reader closed the pipe early, unless an operation id would be lost.
    """
    if error.reader_left and not error.id_lost:
        return []
    return [f"{error}; operation: {error.operation_id}" if error.operation_id else str(error)]


def _end(lines: list[str], code: int) -> None:
    console = printing.err()
    for text in lines:
        indent = text[: len(text) - len(text.lstrip())]
        printing.print_line(console, indent + printing.clean(text))
    raise typer.Exit(code)
