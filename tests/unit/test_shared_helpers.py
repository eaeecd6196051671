"""Helpers that several test modules share are in tests/support, not in one of the modules."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
IMPORT = re.compile(
    r"^ *(from tests[\w.]*\.test_\w+ import|from tests[\w.]* import test_)", re.MULTILINE
)


def test_no_module_imports_a_test_module() -> None:
    modules = sorted(TESTS.rglob("*.py"))
    assert len(modules) > 100
    assert [path.relative_to(TESTS) for path in modules if IMPORT.search(path.read_text())] == []
