"""Structured logs on standard error, including the records of the standard library's logging."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import TYPE_CHECKING

import structlog

from orchestrator.observability.log_writer import LogWriter
from orchestrator.observability.repeats import Repeats

if TYPE_CHECKING:
    from typing import TextIO

    from structlog.typing import EventDict, ExcInfo, Processor


def configure(*, level: str, json: bool) -> None:
    """Send every log record through one formatter: JSON lines, or text for a terminal.

    A process without standard error logs nothing: the descriptor may belong to another file.
    """
    stderr: TextIO | None = sys.stderr
    if stderr is None:
        logging.getLogger().handlers = [logging.NullHandler()]
        return
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderers: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if json
        else [
            _on_one_line,
            structlog.dev.ConsoleRenderer(
                colors=stderr.isatty(), exception_formatter=_write_traceback
            ),
        ]
    )
    handler = LogWriter(stderr.fileno(), Repeats())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for chatty in ("alembic", "aiosqlite", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def flush() -> None:
    """Wait until the queued lines are written, at most 1.5 s."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def dropped_lines() -> int:
    """Return the number of lines that were not written."""
    handlers = logging.getLogger().handlers
    return sum(handler.dropped for handler in handlers if isinstance(handler, LogWriter))


def _on_one_line(_logger: object, _method: str, event: EventDict) -> EventDict:
    event["event"] = _escaped(event["event"])
    return event


def _write_traceback(stream: TextIO, failure: ExcInfo) -> None:
    """Write a traceback without local variables, which may contain secrets.

    Its lines are indented, so that none looks like a log line of its own.
    """
    lines = "".join(traceback.format_exception(*failure)).splitlines()
    stream.writelines(f"\n    {_escaped(line)}" for line in lines)


def _escaped(text: object) -> str:
    """Escape unprintable characters: foreign text must not forge lines or control the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
