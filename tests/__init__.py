"""Tests; pytest explains the assertions of their shared helpers as it does those of tests."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.support")
