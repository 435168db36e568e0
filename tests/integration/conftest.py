"""Fixtures that the integration tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.slurm_run import FIELDS, Run
from tests.integration.tiny_run import make_autoencoder, make_latents
from tests.slurm_cluster import Cluster


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of tiny latents; `autoencoder` beside it is recorded as their encoder."""
    return _cache_in(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Start a SLURM for all tests of this process."""
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def submitted_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the cache that all submitted runs train on."""
    return _cache_in(tmp_path_factory.mktemp("submitted"))


@pytest.fixture(scope="session")
def left_alone(cluster: Cluster, submitted_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train a run that is submitted and not disturbed."""
    run = Run(cluster, submitted_cache, tmp_path_factory.mktemp("left_alone") / "run")
    run.submit(*FIELDS)
    run.finish()
    return run


def _cache_in(folder: Path) -> Path:
    make_autoencoder(folder / "autoencoder")
    return make_latents(folder / "latents", folder / "autoencoder")
