"""What a demo of a folder says and keeps of its choice."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from core.files import write_json
from data.dataset.index import Dataset
from data.media.formats import DEFAULT_LIMITS
from data.media.images import encode_mp4, encode_png
from data.raw.decoding import read_pixels
from launch.demo.own import speed
from launch.demo.own.folder_chain import OwnChain
from launch.demo.own.settling import most_common, read_settled, settle
from launch.demo.report import render
from tools.shard import job as shard


@pytest.fixture
def output(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(6):
        height, width = ((90, 120), (120, 90))[number % 3 == 0]
        picture = np.full((height, width, 3), 40 * number, np.uint8)
        (source / f"{number}.png").write_bytes(encode_png(picture))
        (source / f"{number}.txt").write_text(f"picture {number}")
    encode_mp4(source / "film.mp4", np.zeros((40, 48, 64, 3), np.uint8), 10)
    encode_mp4(source / "short.mp4", np.zeros((3, 48, 64, 3), np.uint8), 10)
    for name in ("film", "short"):
        (source / f"{name}.txt").write_text("film")
    folder = tmp_path / "demo"
    shard.run(shard.Config(source=str(source), output=str(folder / "shards")))
    write_json(folder / "stages.json", {"digits": False, "planned": [], "stages": []})
    return folder


def test_what_is_chosen_is_said_and_kept(output: Path, capfd: pytest.CaptureFixture[str]) -> None:
    choice = settle(output, 5, 1, tiny=True, text_encoder="")
    err = capfd.readouterr().err
    assert "the folder: 6 images, 2 videos" in err
    assert "left out: 1 video of fewer than 5 frames" in err
    assert "5 frames from the middle of each video, 0.5 s used and 3.5 s not" in err
    assert "captions: 8" in err
    assert "what 5 minutes cannot give" in err
    assert "too little time" in err
    assert "this one sees 8 samples about 60 times" in err
    assert settle(output, 5, 1, tiny=True, text_encoder="") == choice
    assert capfd.readouterr().err == ""
    settle(output, 9, 1, tiny=True, text_encoder="")  # other minutes: chosen anew
    assert "what 9 minutes cannot give" in capfd.readouterr().err


def test_what_is_chosen_is_in_the_report(output: Path) -> None:
    settle(output, 5, 1, tiny=True, text_encoder="")
    settled = read_settled(output)
    assert settled is not None
    page = render(output)
    assert "What was chosen for this folder, and its limits" in page
    assert settled["said"][1] in page
    assert settled["limits"][0] in page


def test_samples_are_of_the_shape_that_most_have(output: Path) -> None:
    from data.dataset.index import Dataset

    choice = settle(output, 5, 1, tiny=True, text_encoder="")
    frames, height, width = most_common(Dataset(output / "shards"), choice, clip=False)
    assert frames == 1
    assert width > height  # four of six
    assert most_common(Dataset(output / "shards"), choice, clip=True)[0] == 5


def test_the_record_of_the_choice_is_plain(output: Path) -> None:
    settle(output, 5, 1, tiny=True, text_encoder="")
    record = json.loads((output / "choice.json").read_text())
    assert set(record) == {"source", "minutes", "choice", "said", "limits"}


def test_captions_that_cannot_be_read_are_said_not_to_be_used(
    output: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.demo.own.telling.can_read_words", lambda: False)
    settle(output, 5, 1, tiny=True, text_encoder="")
    assert "captions: 8 are NOT used, since transformers is not installed" in capfd.readouterr().err


def test_samples_that_nothing_can_guide_are_not_asked_to_be(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.demo.own.folder_chain.can_read_words", lambda: False)
    settle(output, 5, 1, tiny=True, text_encoder="")
    commands = OwnChain(output, 0, 1, tiny=True, minutes=5).sample()
    assert len(commands) == 2
    for command in commands:
        assert {"sampler.guidance=1.0", "sampler.guidance_end=0.0"} < set(command.text().split())


def test_reading_is_timed_on_images_and_on_clips_that_are_long_enough(output: Path) -> None:
    read: list[int] = []
    dataset = Dataset(output / "shards")
    media = np.asarray(dataset.media)
    assert min(speed.reading_s(media, partial(read_pixels, dataset, limits=DEFAULT_LIMITS))) > 0
    speed.reading_s(media, lambda row, *_: read.append(row))
    frames = sorted(int(media["frames"][row]) for row in read)
    assert frames == [1] * 6 + [40]
