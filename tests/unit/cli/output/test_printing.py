"""Terminal-safe text and consoles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli.output.printing import clean, out, print_line, print_wrapped


@pytest.mark.parametrize(
    ("text", "harmless"),
    [
        ("plain", "plain"),
        ("任务 é 🙂", "任务 é 🙂"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x9b31mred", "red"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x07", "link"),
        ("\x1b]0;never ends", ""),
        ("\x1bPq#0\x1b\\after", "after"),
        ("\x1bcreset", "reset"),
        ("\x1b(0lines", "lines"),
        ("a\r\nb\tc\u2028d", "a  b c d"),
        ("\x00\x08\x7f\x85x", "x"),
        ("\u202etxt.exe\u200b", "txt.exe"),
        ("\ud800x", "x"),
        ("\x1b\x1b[31m", ""),
        (7, "7"),
    ],
)
def test_clean(text, harmless):
    """Escape sequences and other controls are removed; line breaks become spaces."""
    assert clean(text) == harmless


@given(st.text(alphabet=st.characters(), max_size=40))
def test_clean_leaves_one_printable_line(text):
    """Any text becomes one line without control characters."""
    result = clean(text)
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in result)
    assert len(result.splitlines()) <= 1
    result.encode()


@pytest.mark.parametrize("print_text", [print_line, print_wrapped])
def test_consoles_print_what_they_are_given(capsys, monkeypatch, print_text):
    """Consoles interpret no markup or emoji names, and add no line breaks."""
    monkeypatch.setenv("COLUMNS", "20")
    text = "[bold]job[/bold] :boom: " + "x" * 100
    print_text(out(), text)
    assert capsys.readouterr().out == text + "\n"
