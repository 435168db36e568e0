"""What the integration tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.tiny_run import make_autoencoder, make_latents


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny latents; beside it `autoencoder`, which is said to have made them."""
    folder = tmp_path_factory.mktemp("cache")
    make_autoencoder(folder / "autoencoder")
    return make_latents(folder / "latents", folder / "autoencoder")
