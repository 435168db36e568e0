"""A world of one rank, and failpoints that outlive no test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core.distributed import ranks
from core.distributed.ranks import World
from core.faults import failpoints


@pytest.fixture(scope="module")
def world() -> World:
    """Return the world, started anew where a test of another module, in this process, has stopped it."""
    return ranks.start("cpu", 60)


@pytest.fixture(autouse=True)
def _disarm() -> Iterator[None]:
    yield
    failpoints.arm("")
