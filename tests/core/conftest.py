"""A world of one rank, and failpoints that outlive no test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core import distributed, failpoints
from core.distributed import World


@pytest.fixture(scope="session")
def world() -> World:
    return distributed.start("cpu", 60)


@pytest.fixture(autouse=True)
def _disarm() -> Iterator[None]:
    yield
    failpoints.arm("")
