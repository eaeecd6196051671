"""Words that readers have to guess, which neither the program, its documents nor its tests use."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
BANNED: Final = (
    *("told", "foretold", "anew", "of late", "lately", "put off", "in vain", "whoever"),
    *("all the same", "come-back", "come back", "came back", "comes back", "rung"),
    *("seen down", "brought down", "bring down", "kept down", "proven down", "went down"),
)
FILES: Final = sorted(
    path.relative_to(ROOT)
    for pattern in (
        *("orchestrator/**/*.py", "migrations/**/*.py", "tests/**/*.py", "config/*", "*.md"),
    )
    for path in ROOT.glob(pattern)
    if path.is_file() and path.name not in ("CHANGELOG.md", Path(__file__).name)
)


def test_there_are_files_of_each_kind() -> None:
    assert {path.suffix for path in FILES} == {".py", ".toml", ".md"}


@pytest.mark.parametrize("word", BANNED)
def test_no_file_uses_it(word: str) -> None:
    """Neither in its text nor in the name of a test."""
    found = re.compile(rf"(?<![a-z]){word}(?![a-z])", re.IGNORECASE)
    lines = [
        f"{path}:{number}: {line.strip()}"
        for path in FILES
        for number, line in enumerate((ROOT / path).read_text().splitlines(), start=1)
        if found.search(line.replace("_", " ") if "def test_" in line else line)
    ]
    assert lines == []
