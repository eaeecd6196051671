"""The example configuration, as it is installed."""

from __future__ import annotations

from pathlib import Path

FILE = Path(__file__).parents[2] / "config" / "orchestrator.toml"
SHOWN = FILE.read_text(encoding="utf-8")
