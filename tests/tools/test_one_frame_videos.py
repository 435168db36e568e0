"""A video of one frame is an image for every job; what a sample shows does not depend on its bucket."""

from __future__ import annotations

import io
import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from core.distributed.ranks import World
from data.dataset.index import Dataset
from data.dataset.schema import IMAGE_BUCKET
from data.loading.pixels import PixelConfig, PixelLoader
from data.media.clips import ClipConfig
from data.media.images import (
    decode_image,
    decode_media,
    decode_video,
    probe,
    resize_crop,
)
from data.order.buckets import BucketConfig
from data.raw.decoding import read_pixels
from data.raw.duplicates import DuplicateConfig
from data.reindexing.reindex import reindex
from tests.data.samples import clip, image_bytes, picture, tar_bytes
from tests.data.videos import encoded_video, noisy_clip
from tests.tools.encode.encode_runs import make_autoencoder, make_config
from tools.encode import job as encode
from tools.evaluate.real_samples import Shape, chosen_rows, read_rows
from tools.inspect import dataset as inspect_dataset
from tools.shard import job as shard

SIZE = (16, 16)
KINDS = {
    "mp4": ("mp4", "libx264"),
    "mkv": ("matroska", "libx264"),
    "webm": ("webm", "libvpx-vp9"),
    "avi": ("avi", "mpeg4"),
}


def one_frame(format: str = "mp4", codec: str = "libx264", seed: int = 0) -> bytes:
    return encoded_video(picture(32, 48, seed)[None], format=format, codec=codec)


def without_rate() -> bytes:
    """Encode a video of one frame without a duration, as some tools write them: nothing gives a rate."""
    out = io.BytesIO()
    with av.open(io.BytesIO(one_frame(*KINDS["webm"]))) as source, av.open(out, "w", format="webm") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.duration, packet.stream = 0, copy
                target.mux(packet)
    return out.getvalue()


def packed(files: dict[str, bytes], folder: Path, **fields: object) -> Dataset:
    source = folder / "in"
    source.mkdir()
    for name, data in files.items():
        (source / name).write_bytes(data)
    shard.run(shard.Config(source=str(source), output=str(folder / "raw"), **fields))
    return Dataset(folder / "raw")


@pytest.fixture
def mixed(tmp_path: Path) -> Dataset:
    """Make an image, a video of several frames, and a video of one frame in every container."""
    files = {f"{suffix}.{suffix}": one_frame(*kind) for suffix, kind in KINDS.items()}
    files |= {
        "none.webm": without_rate(),
        "a.png": image_bytes(picture()),
        "b.mp4": encoded_video(noisy_clip(9)),
    }
    return packed(files, tmp_path)


def test_nothing_tells_a_rate() -> None:
    assert probe(without_rate())[:4] == (48, 32, 1, 0.0)


def test_they_are_counted_as_images_and_go_to_image_buckets(mixed: Dataset) -> None:
    assert mixed.manifest.extra["counts"] == {"image": 6, "video": 1}
    assert not (mixed.folder / "quarantine.jsonl").exists()
    assert ((mixed.media["frames"] == 1) == (mixed.index["bucket"] == IMAGE_BUCKET)).all()
    before = (mixed.folder / "dataset.json").read_bytes()
    reindex(mixed.folder)
    assert (mixed.folder / "dataset.json").read_bytes() == before


@pytest.mark.parametrize("fps", [0.0, 4.0])
def test_their_pixels_are_those_of_their_frame(mixed: Dataset, fps: float) -> None:
    config = PixelConfig(buckets=BucketConfig(shapes=((1, *SIZE), (5, *SIZE)), fps=fps), part="all")
    loader = PixelLoader(mixed, config, World(0, 1, 0, torch.device("cpu")), seed=0)
    image, _ = loader.buckets
    for row in np.flatnonzero(mixed.media["frames"] == 1).tolist():
        pixels = read_pixels(mixed, row, image, config.buckets, config.limits)
        data = next(data for suffix, data in mixed.read(row).items() if suffix != "json")
        if mixed.media["fps"][row] or json.loads(mixed.read(row)["json"])["source"] == "none.webm":
            expected = decode_video(data, size=SIZE)
        else:
            expected = resize_crop(decode_image(data), *SIZE)[None]
        assert np.array_equal(pixels, expected)
    for batch in loader.load(0):
        assert batch.weight.tolist() == [1.0] * len(batch)
    assert loader.failed == {}


def test_the_contact_sheet_shows_them(mixed: Dataset) -> None:
    assert inspect_dataset.contact_sheet(mixed)[1] == []


def test_all_are_encoded_and_nothing_is_set_aside(mixed: Dataset, tmp_path: Path) -> None:
    config = make_config(mixed, make_autoencoder(tmp_path / "autoencoder"), tmp_path / "latents")
    encode.run(config)
    latents = Dataset(config.output)
    assert (latents.index["size"] > 0).all()
    assert not (config.output / "quarantine.jsonl").exists()


def test_evaluation_takes_them_as_images(mixed: Dataset) -> None:
    assert (compared_with(mixed, 1), compared_with(mixed, 9)) == (6, 1)


def compared_with(dataset: Dataset, frames: int) -> int:
    """Return how many real samples `evaluate` reads."""
    shape = Shape(frames, *SIZE)
    rows = chosen_rows(dataset, shape, 100, 0)
    return sum(found is not None for found in read_rows(dataset, rows, shape, fps=0, stride=1))


def test_a_scene_of_one_frame_is_cut_to_an_image(tmp_path: Path) -> None:
    """A flash between two scenes: with clips.scenes=true it becomes a clip of its own."""
    dark, bright = clip(8) // 4, 255 - clip(8) // 4
    film = np.concatenate([dark, np.full((1, 32, 48, 3), 128, np.uint8), bright])
    dataset = packed(
        {"film.mp4": encoded_video(film, **{"x264-params": "keyint=1"})},
        tmp_path,
        clips=ClipConfig(scenes=True),
    )
    assert sorted(dataset.media["frames"].tolist()) == [1, 8, 8]
    row = dataset.media["frames"].tolist().index(1)
    config = make_config(dataset, make_autoencoder(tmp_path / "autoencoder"), tmp_path / "latents")
    encode.run(config)
    assert int(Dataset(config.output).index["size"][row]) > 0


def test_near_duplicates_compare_them_with_images(tmp_path: Path) -> None:
    pytest.importorskip("imagehash")
    data = one_frame()
    same = {"a.png": image_bytes(decode_media(data)[0]), "b.mp4": data}
    assert len(packed(same, tmp_path, duplicates=DuplicateConfig(near=2))) == 1


def test_members_with_longer_names_are_found_by_evaluation_and_on_sheets(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    png = image_bytes(picture())
    (folder / "a.tar").write_bytes(
        tar_bytes([("0000.rgb.png", png), ("0001.rgb.png", png), ("0001.cls", b"0")])
    )
    reindex(folder)
    dataset = Dataset(folder)
    assert compared_with(dataset, 1) == 2
    assert inspect_dataset.contact_sheet(dataset)[1] == []
