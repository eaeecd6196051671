"""What tests of several folders share: worlds, clocks, servers and proxies."""

from __future__ import annotations

from typing import Final

HANG_S: Final = 60.0
"""Real seconds after which a test gives up what it waits for: far more than a busy machine needs.

It promises nothing: it ends a test that would hang.
"""
