"""A small raw dataset with an autoencoder, and the config of a job that encodes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from core.queue.config import QueueConfig
from data.dataset.index import Dataset
from tests.data.raw_datasets import make_raw
from tests.tools.encode.encode_runs import make_autoencoder, make_config
from tools.encode import job as encode


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> tuple[Dataset, Path]:
    folder = tmp_path_factory.mktemp("sources")
    return make_raw(folder), make_autoencoder(folder / "autoencoder")


@pytest.fixture
def config(sources, tmp_path) -> encode.Config:
    return replace(make_config(*sources, tmp_path / "cache"), queue=QueueConfig())
