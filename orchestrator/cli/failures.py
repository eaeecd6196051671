"""What ends a command early, and the exit code and words for each."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import typer

from orchestrator.cli import printing
from orchestrator.cli.printing import OutputFailed
from orchestrator.domain.errors import ConfigurationError, OrchestratorError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

URL_VARIABLE: Final = "ORCHESTRATOR_URL"
TOKEN_VARIABLE: Final = "ORCHESTRATOR_TOKEN"  # noqa: S105 - a name
NOT_WELL: Final = 1
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


class RequestFailed(OrchestratorError):
    """The daemon answered with an error; ``errors`` has a line for each mistake."""

    def __init__(self, status: int, title: str, detail: str, errors: tuple[str, ...] = ()) -> None:
        super().__init__(f"{title}: {detail}")
        self.status = status
        self.errors = errors


class Unreachable(OrchestratorError):
    """No daemon answers at the URL."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(
            f"no orchestrator answers at {url} ({why}); start one with `orchestrator serve`, "
            f"or name another with --url or {URL_VARIABLE}"
        )


class Interrupted(OrchestratorError):
    """Ctrl-C; the message says what goes on without us."""


class RunFailed(OrchestratorError):
    """It was started and could not go on."""


@contextmanager
def reported() -> Iterator[None]:
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
        _end([str(error)], NOT_WELL)
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
