"""The partition that most tests of the engine need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.partition_world import PartitionWorld

if TYPE_CHECKING:
    from orchestrator.store.database.database import Database


@pytest.fixture
def world(database: Database) -> PartitionWorld:
    return PartitionWorld(database)
