"""A dry run of the demo on a folder says what would be chosen, and writes and trains nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from core.errors import UserError, WorkError
from data.media.images import encode_mp4, encode_png
from data.raw.ingest import list_source
from launch.demo import job
from launch.demo.own import foresight, speed
from launch.demo.own.settling import read_settled, settle
from launch.demo.own.step_times import Speed
from tools.shard import job as shard

TWO_CORES = Speed(0.45e6, 0.7e6, 100e9, 8e9, 2, "2 CPU cores")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number in range(12):
            picture = np.full((80, 120, 3), 10 * number, np.uint8)
            (folder / label / f"{number}.png").write_bytes(encode_png(picture))
    encode_mp4(folder / "cat" / "film.mp4", np.zeros((40, 80, 120, 3), np.uint8), 10)
    return folder


@pytest.fixture(autouse=True)
def known_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "measure_speed", lambda ranks, media, read: TWO_CORES)


def test_a_dry_run_says_what_a_run_then_chooses(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resolution, shapes, length of clips, sizes, steps, minutes and memory; and the output stays away."""
    monkeypatch.setattr(foresight, "time", SimpleNamespace(perf_counter=lambda: 0.0))  # packing takes none
    output = tmp_path / "demo"
    config = job.Config(source=str(source), output=str(output), minutes=10)
    lines = "\n".join(job.plan(config))
    assert not output.exists()
    for said in (
        "1 video, 2 classes, median size 120x80",
        "chosen for 10 minutes on 2 CPU cores: about ",
        "memory of a rank: about ",
        "of 7.45 GiB that it may take",
        "steps a second",
        "what 10 minutes cannot give",
    ):
        assert said in lines
    fields = config.chain().stages()[0].commands()[0].fields
    shard.run(
        shard.Config(**{name: str(v) if name in ("source", "output") else v for name, v in fields.items()})
    )
    settle(output, 10, 2, tiny=False, text_encoder="")
    settled = read_settled(output)
    assert settled is not None
    for line in settled["said"]:
        assert line in lines
    assert job.plan(config)[: len(settled["said"])] == settled["said"]  # from now on what was chosen


def test_some_samples_stand_for_the_others(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foresight, "MOST", 10)
    listing = list_source(source)
    drawn = listing.items[int(np.random.default_rng(0).permutation(len(listing.items))[0])]
    drawn.path.write_bytes(b"no picture")
    lines = foresight.foresee(list_source(source), 10, 2, tiny=False, text_encoder="")
    aside = "10 of 25 samples, 1 of which cannot be read"
    assert lines[0] == f"looked at {aside}; they stand for the others in what follows"


def test_a_folder_that_cannot_be_read_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(WorkError, match=r"none of 1 sample looked at can be read; `longtake shard` says why"):
        foresight.foresee(list_source(tmp_path), 10, 2, tiny=True, text_encoder="")


def test_what_a_later_stage_would_refuse_is_refused_at_once(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"output=.*: expected a folder outside of the source"):
        job.Config(source=str(source), output=str(source / "demo"))
    expected = (
        r"text_encoder=google/umt5-xxl: expected a folder with config.json, .*hf download google/umt5-xxl"
    )
    with pytest.raises(UserError, match=expected):
        job.Config(source=str(source), output=str(tmp_path / "demo"), text_encoder="google/umt5-xxl")
