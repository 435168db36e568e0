"""Encoding with public autoencoders and text encoders, in tiles, into a cache that says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.distributed.ranks import World
from core.errors import UserError
from core.faults import failpoints
from data.dataset.index import Dataset
from data.dataset.quarantine import read_quarantine
from data.latent.pack_reading import read_part
from data.loading.loader import LatentLoader
from data.order.buckets import BucketConfig
from data.order.steps import LoaderConfig
from data.reindexing.reindex import reindex
from models.autoencoder.tiling_config import TilingConfig
from models.text import encoders
from tests.data.samples import image_bytes, picture
from tests.models.public_models import save_autoencoder, save_text_encoder
from tests.tools.encode.encode_runs import captioned_config, content, make_autoencoder
from tools.encode import job as encode
from tools.shard import job as shard

CAPTIONS = ["a red disc", "", "a square", "a red disc", "a blue disc moves left", "a square"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make pictures with captions in two shards, an autoencoder and a text encoder."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "files").mkdir()
    for number, caption in enumerate(CAPTIONS):
        (folder / "files" / f"{number}.png").write_bytes(image_bytes(picture(16, 16, seed=number)))
        (folder / "files" / f"{number}.txt").write_text(caption)
    shard.run(shard.Config(source=str(folder / "files"), output=str(folder / "raw"), samples_per_shard=4))
    make_autoencoder(folder / "autoencoder")
    save_text_encoder(folder / "t5", "T5EncoderModel")
    return folder


def test_captions_are_in_the_cache_by_row_and_once_a_part(sources: Path, tmp_path: Path) -> None:
    encode.run(captioned_config(sources, tmp_path / "cache"))
    cache = Dataset(tmp_path / "cache")
    cache.verify()
    encoder, raw = encoders.load(sources / "t5"), Dataset(sources / "raw")
    captions = [json.loads(raw.read(row)["json"])["text"] for row in range(len(raw))]
    assert sorted(captions) == sorted(CAPTIONS)
    lengths = [len(caption.split()) + 1 if caption else 0 for caption in captions]
    assert np.load(cache.folder / "text.npy")["tokens"].tolist() == lengths
    packs = [pack for number in (0, 1) for pack in read_part(cache.shard_path(number))]
    for pack, rows in zip(packs, (range(4), range(4, 6)), strict=True):
        assert pack.text is not None
        once = {captions[row]: lengths[row] for row in rows}
        assert len(pack.text.tokens) == sum(once.values())
    steps = LoaderConfig(group_size=6, groups_per_step=1, rank_multiple=1)
    (batch,) = LatentLoader([cache], steps, World(0, 1, 0, torch.device("cpu")), 0).load(0)
    assert batch.condition.text is not None
    assert batch.condition.text_length is not None
    assert batch.condition.text.shape == (6, max(lengths), encoder.width)
    for row, found, length in zip(
        batch.id.tolist(), batch.condition.text, batch.condition.text_length.tolist(), strict=True
    ):
        assert length == lengths[row]
        if length:
            assert torch.allclose(found[:length].float(), encoder([captions[row]])[0], atol=2e-3)
    assert cache.manifest.extra["made_from"]["text"] == encoder.describe() | {"precision": "fp32"}
    assert cache.manifest.extra["longest_text"] == max(lengths)


def test_the_index_of_text_can_be_made_again(sources: Path, tmp_path: Path) -> None:
    encode.run(captioned_config(sources, tmp_path / "cache", flip=True))
    before = content(tmp_path / "cache")
    for name in ("index.npy", "text.npy", "flip.npy"):
        (tmp_path / "cache" / name).unlink()
    assert reindex(tmp_path / "cache").changed == ()
    assert content(tmp_path / "cache") == before
    (tmp_path / "cache" / "text.npy").write_bytes(b"damaged")
    encode.run(captioned_config(sources, tmp_path / "cache", flip=True, action="repair"))
    assert content(tmp_path / "cache") == before


def test_a_stopped_job_continues_to_the_same_text(sources: Path, tmp_path: Path) -> None:
    encode.run(captioned_config(sources, tmp_path / "whole"))
    failpoints.arm("encode.receipt:enospc")
    try:
        with pytest.raises(OSError, match="No space left"):
            encode.run(captioned_config(sources, tmp_path / "again"))
    finally:
        failpoints.arm("")
    assert not (tmp_path / "again" / "dataset.json").exists()
    encode.run(captioned_config(sources, tmp_path / "again"))
    assert content(tmp_path / "again") == content(tmp_path / "whole")


@pytest.mark.parametrize("change", [{"text_tokens": 4}, {"text_encoder": "other"}, {"text_encoder": ""}])
def test_other_text_is_another_cache(sources: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    if change.get("text_encoder") == "other":
        change = {"text_encoder": str(save_text_encoder(tmp_path / "other", "T5EncoderModel", seed=1))}
    encode.run(captioned_config(sources, tmp_path / "cache"))
    with pytest.raises(UserError, match=r"text_(encoder|tokens)=.*: expected"):
        encode.run(captioned_config(sources, tmp_path / "cache", **change))


def test_other_weights_in_the_same_folder_are_refused(sources: Path, tmp_path: Path) -> None:
    folder = save_text_encoder(tmp_path / "text", "T5EncoderModel")
    encode.run(captioned_config(sources, tmp_path / "cache", text_encoder=str(folder)))
    save_text_encoder(folder, "T5EncoderModel", seed=1)
    with pytest.raises(UserError, match=r"made with text.encoder="):
        encode.run(captioned_config(sources, tmp_path / "cache", text_encoder=str(folder)))


@pytest.mark.parametrize("kind", ["AutoencoderKL", pytest.param("AutoencoderKLWan", marks=pytest.mark.full)])
def test_a_public_autoencoder_fills_the_cache_with_raw_moments(
    kind: str, sources: Path, tmp_path: Path
) -> None:
    from models.autoencoder.opening import open_autoencoder

    folder = save_autoencoder(tmp_path / kind, kind)
    encode.run(captioned_config(sources, tmp_path / "cache", autoencoder=folder, text_encoder=""))
    cache = Dataset(tmp_path / "cache")
    network = open_autoencoder(folder)
    made_from = cache.manifest.extra["made_from"]
    assert made_from["encoder_config"]["class"] == kind
    assert made_from["normalisation"] == network.normalisation  # type: ignore[union-attr]
    size = 16 // network.spatial_compression
    assert cache.manifest.buckets == ([2, 4, 1, size, size],)
    assert not read_quarantine(cache.folder)
    assert "text" not in made_from


def test_an_encoder_without_distribution_stores_means(sources: Path, tmp_path: Path) -> None:
    folder = save_autoencoder(tmp_path / "dc", "AutoencoderDC")
    wanted = captioned_config(sources, tmp_path / "cache", autoencoder=folder, text_encoder="")
    with pytest.raises(UserError, match=r"store=moments: expected mean, since .* gives no distribution"):
        encode.run(wanted)
    encode.run(replace(wanted, store="mean"))
    assert Dataset(tmp_path / "cache").manifest.buckets == ([1, 4, 1, 4, 4],)


def test_clips_of_which_frames_would_be_lost_are_refused(sources: Path, tmp_path: Path) -> None:
    folder = save_autoencoder(tmp_path / "wan", "AutoencoderKLWan")
    bad = captioned_config(
        sources, tmp_path / "cache", autoencoder=folder, buckets=BucketConfig(shapes=((8, 16, 16),))
    )
    with pytest.raises(UserError, match=r"8x16x16 does not suit the autoencoder: frames=8: expected 5 or 9"):
        encode.plan(bad)


def test_tiles_are_part_of_what_the_cache_was_made_from(sources: Path, tmp_path: Path) -> None:
    tiled = captioned_config(sources, tmp_path / "cache", text_encoder="", tiling=TilingConfig(pixels=8))
    encode.run(tiled)
    encode.run(replace(tiled, output=tmp_path / "whole", tiling=TilingConfig()))
    first, second = (json.loads((tmp_path / n / "dataset.json").read_text()) for n in ("cache", "whole"))
    assert first["extra"]["made_from"]["tiling"] == {"pixels": 8, "frames": 0}
    assert second["extra"]["made_from"]["tiling"] == {"pixels": 0, "frames": 0}
    assert np.allclose(first["extra"]["statistics"]["std"], second["extra"]["statistics"]["std"], rtol=1e-3)
    with pytest.raises(UserError, match=r"tiling.pixels=9: expected a multiple of 8"):
        encode.plan(replace(tiled, tiling=TilingConfig(pixels=9)))
