"""Properties that videos declare reach JSON, closing lines and pixels; datasets from before the rules."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import UserError
from data.dataset.index import Dataset
from data.dataset.media_rows import OLD_MEDIA_DTYPE
from data.dataset.schema import FOUND, MEDIA, MEDIA_RULES
from data.loading.pixels import PixelConfig, pixel_table
from data.media.film.interlacing import Fields
from data.media.formats import DEFAULT_LIMITS
from data.media.images import decode_video, probe
from data.media.media_rules import ANEW
from data.order.buckets import Bucket, BucketConfig, assign
from data.order.usage import usage_lines
from data.raw.decoding import decoding_identity, read_pixels, sample_media
from data.reindexing.reindex import reindex
from launch import cli
from tests.data.colours import profile
from tests.data.films import interlaced, moving_bars, with_matrix
from tests.data.rare_stills import bitmap, one_animated, tiff, twelve_bits
from tests.data.samples import image_bytes, picture
from tests.data.videos import encoded_video, noisy_clip
from tools.shard.job import Config, run

UNEVEN = [*range(0, 80, 8), *range(80, 240, 16)]
BUCKET = Bucket(5, 32, 48)
PICTURE = picture(48, 64)
FILES = {
    "mirrored.mp4": with_matrix(encoded_video(noisy_clip(12)), (-1, 0, 0, 1)),
    "plain.mp4": encoded_video(noisy_clip(12)),
    "uneven.mkv": encoded_video(noisy_clip(20), "matroska", times=UNEVEN),
    "woven.mp4": encoded_video(interlaced(moving_bars(40)), crf="10"),
}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rules")
    (folder / "in").mkdir()
    for name, data in FILES.items():
        (folder / "in" / name).write_bytes(data)
    (folder / "in" / "photo.png").write_bytes(image_bytes(picture()))
    run(Config(source=str(folder / "in"), output=str(folder / "raw"), shuffle=False))
    return folder / "raw"


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "raw"))


def rows(dataset: Dataset) -> dict[str, int]:
    """Return the row of each file."""
    return {json.loads(dataset.read(row)["json"])["source"]: row for row in range(len(dataset))}


def aged(folder: Path) -> Dataset:
    """Rewrite the dataset as it was before media rules had a version."""
    dataset = Dataset(folder)
    old = np.zeros(len(dataset), OLD_MEDIA_DTYPE)
    for name in OLD_MEDIA_DTYPE.names:
        old[name] = dataset.media[name]
    np.save(folder / MEDIA, old)
    extra = {n: v for n, v in dataset.manifest.extra.items() if n not in (MEDIA_RULES, FOUND)}
    replace(dataset.manifest, extra=extra, blocks={}).write(folder)
    return Dataset(folder)


def test_what_was_found_is_recorded_and_counted(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = Dataset(packed)
    told = {name: json.loads(dataset.read(row)["json"]) for name, row in rows(dataset).items()}
    assert told["mirrored.mp4"]["found"] == {"frame_rate": "8", "orientation": "mirrored left-right"}
    assert (told["plain.mp4"]["rate"], told["plain.mp4"]["duration"]) == ("8", "3/2")
    assert "rate" not in told["photo.png"]
    assert dataset.manifest.extra[FOUND] == {
        "frame_rate": {"8": 3, "variable": 1},
        "interlacing": {"top field first, by idet": 1},
        "orientation": {"mirrored left-right": 1},
    }
    assert cli.main(["inspect", str(packed)]) == 0
    said = capsys.readouterr().out
    assert "turned or mirrored: 1 x mirrored left-right (shown as they say)" in said
    assert "frames a second: 3 x 8, 1 x variable" in said
    assert "interlaced: 1 x top field first, by idet (left so" in said


def test_shard_says_it_in_its_closing_lines(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(Config(source=str(packed.parent / "in"), output=str(tmp_path / "again"), check="header"))
    said = capsys.readouterr().err
    assert "turned or mirrored: 1 x mirrored left-right" in said
    assert "interlaced: 1 x top field first" in said


def test_interlaced_samples_are_made_whole_where_asked(packed: Path) -> None:
    dataset = Dataset(packed)
    row = rows(dataset)["woven.mp4"]
    bucket = Bucket(5, 96, 128)
    for deinterlace, fields in (("off", Fields.WHOLE), ("auto", Fields.TOP_FIRST)):
        pixels = read_pixels(dataset, row, bucket, BucketConfig(deinterlace=deinterlace), DEFAULT_LIMITS)
        expected = decode_video(FILES["woven.mp4"], frames=(8, 5, 1), size=(96, 128), fields=fields)
        assert np.array_equal(pixels, expected)
    plain = BucketConfig()
    assert decoding_identity(dataset, plain) == {"media_rules": 1}  # nothing in it is read otherwise since
    assert decoding_identity(dataset, replace(plain, deinterlace="auto"))["deinterlace"] == "auto"
    assert "frames_at_fps" in decoding_identity(dataset, replace(plain, fps=8.0))


@pytest.mark.parametrize("suffix", ["npy", "png"])
def test_inspect_writes_what_training_sees(packed: Path, tmp_path: Path, suffix: str) -> None:
    dataset, out = Dataset(packed), tmp_path / f"out.{suffix}"
    row = rows(dataset)["mirrored.mp4"]
    words = [f"sample={row}", f"pixels={out}", "buckets.shapes=[[1,16,16],[5,32,48]]"]
    assert cli.main(["inspect", str(packed), *words]) == 0
    expected = read_pixels(dataset, row, BUCKET, BucketConfig(), DEFAULT_LIMITS)
    found = np.load(out) if suffix == "npy" else np.asarray(Image.open(out))
    assert np.array_equal(found, expected if suffix == "npy" else np.concatenate(expected, axis=1))


def test_inspect_refuses_a_sample_that_is_not_there(packed: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.npy"
    for words, message in (
        (["sample=99", f"pixels={out}"], "sample=99: expected a row below 5"),
        ([f"pixels={out}"], "sample=-1: expected a row, since pixels= is given"),
        (["sample=1", f"pixels={out}.jpg"], "ends in .npy or .png"),
    ):
        assert cli.main(["inspect", str(packed), "buckets.shapes=[[1,16,16],[5,32,48]]", *words]) == 2
        assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_dataset_from_before_the_rules(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    dataset = aged(copy)
    assert dataset.media["duration_num"].tolist()
    assert dataset.media["fps"].tolist() == Dataset(copy).media["fps"].tolist()
    assert capsys.readouterr().err.count("made before media rules had a version") == 2  # once a dataset
    where = rows(dataset)
    read_pixels(dataset, where["plain.mp4"], BUCKET, BucketConfig(), DEFAULT_LIMITS)
    read_pixels(dataset, where["uneven.mkv"], BUCKET, BucketConfig(), DEFAULT_LIMITS)
    for name, config, rule in (
        ("mirrored.mp4", BucketConfig(), "its orientation is 'mirrored left-right'"),
        ("uneven.mkv", BucketConfig(fps=4.0), "its frame_rate is 'variable'"),
    ):
        with pytest.raises(UserError, match=rule):
            read_pixels(dataset, where[name], BUCKET, config, DEFAULT_LIMITS)
    assert decoding_identity(dataset, BucketConfig()) == {}
    reindex(copy)
    assert {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()} == before
    read_pixels(Dataset(copy), where["mirrored.mp4"], BUCKET, BucketConfig(), DEFAULT_LIMITS)


def test_a_dataset_of_earlier_rules_is_refused_only_where_they_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    deep = PICTURE.astype("<u2") * 257
    for name, data in {
        "12.tif": tiff([twelve_bits(np.full((48, 64), 4095))], 12, 1),
        "planes.tif": tiff([deep[..., channel].tobytes() for channel in range(3)], 16, 3, planes=True),
        "p3.bmp": bitmap(PICTURE, b"DEBM", profile()),
        "one.png": one_animated(PICTURE),
        "plain.tif": image_bytes(PICTURE, "TIFF"),
        "plain.bmp": image_bytes(PICTURE, "BMP"),
        "plain.png": image_bytes(PICTURE),
        "plain.mp4": FILES["plain.mp4"],
    }.items():
        (tmp_path / "in" / name).write_bytes(data)
    run(Config(source=str(tmp_path / "in"), output=str(tmp_path / "raw"), shuffle=False))
    dataset = Dataset(tmp_path / "raw")
    assert decoding_identity(dataset, BucketConfig())["media_rules"] == 2
    assert "1 x a TIFF of 12 bits, since media rules 2" in capsys.readouterr().err
    where, extra = rows(dataset), dict(dataset.manifest.extra)
    extra[FOUND] = {name: counts for name, counts in extra[FOUND].items() if name != ANEW}
    replace(dataset.manifest, extra=extra | {MEDIA_RULES: 1}, blocks={}).write(dataset.folder)
    before = Dataset(dataset.folder)
    assert decoding_identity(before, BucketConfig())["media_rules"] == 1  # a cache of then fits
    for name, row in where.items():
        if name.startswith("plain"):
            sample_media(before, row)
            continue
        with pytest.raises(UserError, match=r"it is a .*, which media rules 2 read otherwise than rules 1"):
            sample_media(before, row)
    again = reindex(dataset.folder).manifest
    assert again.fingerprint == before.manifest.fingerprint  # bytes are the same; what is made of them is not
    assert decoding_identity(Dataset(dataset.folder), BucketConfig())["media_rules"] == 2


def test_colours_that_are_kept_are_read_as_before() -> None:
    data = bitmap(PICTURE, b"DEBM", profile())
    assert probe(data).found[ANEW] == "a BMP with an ICC profile, since media rules 2"
    assert ANEW not in probe(data, colour="keep").found


def test_used_and_unused_seconds_and_mixed_rates_are_said(packed: Path) -> None:
    media, config = np.asarray(Dataset(packed).media), BucketConfig(shapes=((1, 16, 16), BUCKET))
    lines = list(
        usage_lines(
            media, assign(media, [Bucket(1, 16, 16), BUCKET], config), [Bucket(1, 16, 16), BUCKET], config
        )
    )
    assert len(lines) == 2
    assert "5 frames from the middle of each video" in lines[0]
    assert "clips.length_s of `shard` cuts" in lines[0]
    assert "mixes frame rates (3 x 8, " in lines[1]
    assert "buckets.fps=8" in lines[1]
    drawn = PixelConfig(buckets=config, clip="random")
    said = pixel_table(Dataset(packed), drawn).said
    assert said[-1] == lines[1]
    assert re.search(r"5 frames of each video, drawn anew each time, [\d.]+ of [\d.]+ s in a pass$", said[-2])
    assert pixel_table(Dataset(packed), replace(drawn, clip="centre")).said[-2:] == tuple(lines)
    at_rate = replace(config, fps=8.0)
    assert len(list(usage_lines(media, np.ones(len(media), int), [Bucket(1, 16, 16), BUCKET], at_rate))) == 1
