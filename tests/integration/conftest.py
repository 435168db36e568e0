"""Fixtures that the integration tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.tiny_run import make_autoencoder, make_latents


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of tiny latents; `autoencoder` beside it is recorded as their encoder."""
    folder = tmp_path_factory.mktemp("cache")
    make_autoencoder(folder / "autoencoder")
    return make_latents(folder / "latents", folder / "autoencoder")
