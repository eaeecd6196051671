"""Consoles that print what they are given, and text from elsewhere made harmless."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from typing import Final

from rich.console import Console

ESCAPE_SEQUENCE: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours, cursor
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # titles, links
    r"|\x1b[ -/]*[0-~]"
)
SPACES: Final = ("\n", "\r", "\t", "\u2028", "\u2029")
INVISIBLE: Final = ("Cc", "Cf", "Cs")
"""Controls, formatting such as the reversal of direction, and lone surrogates."""
PIPE_WIDTH: Final = 120


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
    """Markup and emoji names are off: a job may be called ``[red]`` or ``:boom:``."""
    stream = sys.stderr if to_stderr else sys.stdout
    fixed_width = None if stream.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    return Console(stderr=to_stderr, markup=False, emoji=False, highlight=False, width=fixed_width)


def line(console: Console, text: str) -> None:
    """Print one line, however long, without breaking it."""
    console.print(text, soft_wrap=True)


def words(console: Console, text: str) -> None:
    """Print one line, which a terminal that is too narrow for it shows broken between words."""
    console.print(text, soft_wrap=not console.is_terminal)
