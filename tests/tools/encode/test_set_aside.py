"""Samples that cannot be encoded: set aside, counted within a budget, and drawn by no step.

Run: pytest tests/tools/encode/test_set_aside.py
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from core.distributed.ranks import World
from core.errors import WorkError
from data.dataset.index import Dataset
from data.dataset.quarantine import read_quarantine
from data.latent.reading import LatentReader
from data.loading.loader import LatentLoader
from data.order.buckets import NO_BUCKET, BucketConfig
from data.order.steps import LoaderConfig
from data.reindexing.from_parts import index_from_parts
from tests.data.raw_datasets import damage, make_raw
from tests.tools.encode.encode_runs import SHAPES
from tools.encode import job as encode


@pytest.fixture
def damaged(tmp_path, sources) -> encode.Config:
    raw = make_raw(tmp_path, images=8, clips=0)
    for row in (1, 5):
        damage(raw, row)
    return encode.Config(
        source=str(raw.folder),
        autoencoder=sources[1],
        output=tmp_path / "cache",
        buckets=BucketConfig(shapes=SHAPES[:1]),
        quarantine_budget=2,
    )


def test_a_sample_that_cannot_be_decoded_keeps_its_row_with_weight_0(damaged):
    encode.run(damaged)
    cache = Dataset(damaged.output)
    cache.verify()
    assert np.flatnonzero(cache.index["size"] == 0).tolist() == [1, 5]
    assert [(entry.id, entry.stage) for entry in read_quarantine(damaged.output)] == [
        (1, "decode"),
        (5, "decode"),
    ]
    loader = LatentLoader([cache], LoaderConfig(group_size=8), World(0, 1, 0, torch.device("cpu")), 0)
    (batch,) = loader.load(0)
    assert batch.weight.tolist() == [float(row not in (1, 5)) for row in batch.id.tolist()]
    assert (index_from_parts(cache.folder, cache.manifest.shards)[0] == cache.index).all()


def make_hidden(raw: Dataset, row: int) -> None:
    """Overwrite the tar header of a sample's first member."""
    entry = raw.index[row]
    with open(raw.shard_path(int(entry["shard"])), "r+b") as file:
        file.seek(int(entry["offset"]))
        file.write(b"\xff" * 512)


def test_what_a_damaged_tar_header_hides_is_set_aside_and_nothing_else(damaged, tmp_path, sources):
    raw = make_raw(tmp_path / "again", images=8, clips=0)
    whole = replace(damaged, source=str(raw.folder), output=tmp_path / "whole")
    encode.run(whole)
    make_hidden(raw, 2)
    hidden = replace(whole, output=tmp_path / "hidden")
    encode.run(hidden)
    (entry,) = read_quarantine(hidden.output)
    assert (entry.id, entry.stage) == (2, "decode")
    assert "row 2 of the index is no sample" in entry.error
    assert str(tmp_path) not in entry.error
    before, after = (Dataset(each.output) for each in (whole, hidden))
    assert np.flatnonzero(after.index["size"] == 0).tolist() == [2]
    others = np.delete(np.arange(8), 2)
    readers = [LatentReader(cache.folder, cache.manifest, cache.index) for cache in (before, after)]
    assert torch.allclose(*(reader.gather(others).float() for reader in readers), rtol=2e-3, atol=2e-3)


def test_the_budget_stops_the_job(damaged):
    with pytest.raises(WorkError, match="2 of 8 samples were set aside, more than the budget of 1"):
        encode.run(replace(damaged, quarantine_budget=1))
    assert not (damaged.output / "dataset.json").exists()


def test_latents_that_are_not_finite_are_set_aside(config, monkeypatch):
    from tools.runs.encoders import AutoencoderEncoder

    plain = AutoencoderEncoder.encode

    def overflow(self, pixels):
        moments = plain(self, pixels)
        if pixels.shape[2] > 1:
            moments[0, 0, 0, 0, 0, 0] = 1e6
        return moments

    monkeypatch.setattr(AutoencoderEncoder, "encode", overflow)
    encode.run(replace(config, quarantine_budget=0.5))
    stages = {entry.stage for entry in read_quarantine(config.output)}
    assert stages == {"encode"}
    assert (Dataset(config.output).index["size"] == 0).sum() == len(read_quarantine(config.output))


def test_samples_that_fit_no_bucket_are_set_aside_and_never_drawn(config):
    encode.run(
        replace(config, buckets=BucketConfig(shapes=((1, 16, 16), (9, 16, 16))), quarantine_budget=0.5)
    )
    cache = Dataset(config.output)
    short = np.flatnonzero(np.asarray(Dataset(config.source).media["frames"]) == 6).tolist()
    assert np.flatnonzero(cache.index["bucket"] == NO_BUCKET).tolist() == short
    assert [entry.id for entry in read_quarantine(config.output)] == short
    loader = LatentLoader([cache], LoaderConfig(group_size=8), World(0, 1, 0, torch.device("cpu")), 0)
    drawn = {int(i) for step in range(8) for batch in loader.load(step) for i in batch.id}
    assert drawn == set(range(len(cache))) - set(short)
