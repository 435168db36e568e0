"""The job `shard` with filters, duplicates and clips: what is packed, and what is left out and why."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from core.config.loading import load
from core.errors import UserError, WorkError
from core.faults import failpoints
from data.dataset.index import Dataset
from data.dataset.summary import summarise
from data.media.clips import ClipConfig
from data.media.formats import Media
from data.media.images import decode_video, encode_mp4
from data.raw.duplicates import DuplicateConfig
from data.raw.filters import FilterConfig
from tests.data.media.test_clips import encoded
from tests.data.samples import clip, image_bytes, tar_bytes
from tools.shard.job import Config, plan, run


def photo(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Draw low frequencies, other ones for each seed, as in photographs: uint8 (H, W, 3)."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / [[[height]], [[width]]]
    waves = sum(
        random.normal() / (1 + a + b) * np.cos(np.pi * (a * y + random.uniform(0, 2)) + np.pi * b * x)
        for a in range(6)
        for b in range(6)
    )
    grey = 255 * (waves - waves.min()) / np.ptp(waves)
    return np.stack([grey, grey, 255 - grey], -1).astype(np.uint8)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make five photographs of one size, and one of each kind that is not wanted."""
    folder = tmp_path / "in"
    folder.mkdir()
    for seed in range(5):
        (folder / f"photo{seed}.png").write_bytes(image_bytes(photo(seed)))
    (folder / "copy.png").write_bytes(image_bytes(photo(2)))
    (folder / "large.png").write_bytes(image_bytes(photo(1, 96, 128)))
    (folder / "pressed.jpg").write_bytes(image_bytes(photo(3), "JPEG", quality=60))
    (folder / "small.png").write_bytes(image_bytes(photo(7, 20, 64)))
    (folder / "wide.png").write_bytes(image_bytes(photo(8, 40, 200)))
    encode_mp4(folder / "short.mp4", clip(4, 48, 64), 8)
    encode_mp4(folder / "slow.mp4", clip(20, 48, 64), 2)
    return folder


FILTERS = FilterConfig(min_side=32, max_aspect=3, min_seconds=1, min_fps=4)


REGULAR = {"g": "10", "x264-params": "scenecut=0"}  # keyframes at 0, 1.25, 2.5, 3.75 s


def config_of(source: Path, output: Path, **fields: object) -> Config:
    return Config(source=str(source), output=str(output), **{"samples_per_shard": 3, **fields})  # type: ignore[arg-type]


def packed(folder: Path) -> list[str]:
    """Return the names of the packed samples, sorted."""
    dataset = Dataset(folder)
    return sorted(json.loads(dataset.read(row)["json"])["source"] for row in range(len(dataset)))


def left_out(folder: Path) -> dict[str, tuple[str, str]]:
    lines = (folder / "left_out.jsonl").read_text().splitlines()
    return {entry["id"]: (entry["reason"], entry["detail"]) for entry in map(json.loads, lines)}


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "config.yaml"}


def test_fields_are_read_from_the_command_line() -> None:
    words = ["source=a", "output=b", "filters.min_side=64", "duplicates.near=4", "clips.length_s=5"]
    config = load(Config, overrides=words)
    assert (config.filters.min_side, config.duplicates.near, config.clips.length_s) == (64, 4, 5.0)
    with pytest.raises(UserError, match=r"filters\.min_side=64: expected at most max_side=32"):
        load(Config, overrides=[*words, "filters.max_side=32"])


@pytest.mark.parametrize(
    ("config", "media", "reason"),
    [
        (FilterConfig(), Media(1, 9999, 1, 0), ""),
        (FilterConfig(min_side=32), Media(32, 40, 1, 0), ""),
        (FilterConfig(min_side=32), Media(40, 31, 1, 0), "shorter side below 32 pixels"),
        (FilterConfig(max_side=32), Media(33, 20, 1, 0), "longer side above 32 pixels"),
        (FilterConfig(max_aspect=2), Media(20, 41, 1, 0), "aspect ratio above 2"),
        (FilterConfig(min_seconds=2), Media(9, 9, 15, 8), "lasts less than 2 s"),
        (FilterConfig(min_seconds=2), Media(9, 9, 1, 0), ""),
        (FilterConfig(max_seconds=2), Media(9, 9, 17, 8), "lasts more than 2 s"),
        (FilterConfig(min_fps=12.5), Media(9, 9, 17, 8), "below 12.5 frames a second"),
        (FilterConfig(max_fps=6), Media(9, 9, 17, 8), "above 6 frames a second"),
    ],
)
def test_filters(config: FilterConfig, media: Media, reason: str) -> None:
    assert config.reason(media) == reason


def test_filters_leave_out_and_tell(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(source, tmp_path / "out", filters=FILTERS, quarantine_budget=0)
    assert "every file is looked at first; filters, duplicates and clips change these numbers" in plan(config)
    run(config)
    assert left_out(tmp_path / "out") == {
        "short.mp4": ("lasts less than 1 s", ""),
        "slow.mp4": ("below 4 frames a second", ""),
        "small.png": ("shorter side below 32 pixels", ""),
        "wide.png": ("aspect ratio above 3", ""),
    }
    assert len(packed(tmp_path / "out")) == 8
    samples = [shard.samples for shard in Dataset(tmp_path / "out").manifest.shards]
    assert samples == [3, 3, 2]  # full, although files in between were left out
    assert "left out: 1 x lasts less than 1 s" in capsys.readouterr().err
    assert sum(summarise(Dataset(tmp_path / "out"))["left_out"].values()) == 4
    run(config)
    assert "finished before" in capsys.readouterr().err


def test_exact_duplicates(source: Path, tmp_path: Path) -> None:
    run(config_of(source, tmp_path / "out", duplicates=DuplicateConfig(exact=True)))
    assert left_out(tmp_path / "out") == {"photo2.png": ("the same bytes as another file", "copy.png")}
    assert len(packed(tmp_path / "out")) == 11


def test_near_duplicates_leave_the_largest(source: Path, tmp_path: Path) -> None:
    near = DuplicateConfig(exact=True, near=6)
    run(config_of(source, tmp_path / "out", duplicates=near))
    told = left_out(tmp_path / "out")
    assert told["photo1.png"] == ("looks like another file", "large.png")
    assert told["pressed.jpg"] == ("looks like another file", "photo3.png")
    assert told["photo2.png"] == ("the same bytes as another file", "copy.png")
    assert {"photo0.png", "photo4.png", "copy.png", "large.png", "small.png", "wide.png"} <= set(
        packed(tmp_path / "out")
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"duplicates": DuplicateConfig(near=4)}, r"duplicates\.near=4: .*longtake\[duplicates\]"),
        (
            {"clips": ClipConfig(scenes=True, cuts="pyscenedetect")},
            r"clips\.cuts=pyscenedetect: .*longtake\[scenes\]",
        ),
    ],
)
def test_a_library_that_is_missing_is_told_before_work_starts(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, object],
    message: str,
) -> None:
    monkeypatch.setattr("data.raw.survey.find_spec", lambda name: None)
    for function in (plan, run):
        with pytest.raises(UserError, match=message):
            function(config_of(source, tmp_path / "out", **fields))
    assert not (tmp_path / "out").exists()


def test_what_the_filters_leave_out_is_no_original(source: Path, tmp_path: Path) -> None:
    """The larger copy is too large, so the smaller one stays."""
    fields = {"filters": FilterConfig(max_side=100), "duplicates": DuplicateConfig(near=6)}
    run(config_of(source, tmp_path / "out", **fields))
    assert "photo1.png" in packed(tmp_path / "out")
    assert left_out(tmp_path / "out")["large.png"] == ("longer side above 100 pixels", "")


def test_clips_are_samples_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    data = encoded(clip(40), **REGULAR)
    (folder / "film.mp4").write_bytes(data)
    (folder / "film.txt").write_text("a bright square")
    fields = {"clips": ClipConfig(length_s=2), "filters": FilterConfig(min_seconds=1.5), "shuffle": False}
    run(config_of(folder, tmp_path / "out", **fields))
    dataset = Dataset(tmp_path / "out")
    assert packed(tmp_path / "out") == ["film.mp4#t=0,2.5", "film.mp4#t=2.5,5"]
    assert dataset.media["frames"].tolist() == [20, 20]
    told = json.loads(dataset.read(1)["json"])
    assert (told["text"], told["frames"], told["fps"]) == ("a bright square", 20, 8.0)
    pictures = np.concatenate([decode_video(dataset.read(row)["mp4"]) for row in range(2)])
    assert np.array_equal(pictures, decode_video(data))
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/a.tar").write_bytes(
        tar_bytes([("x/film.mp4", data), ("x/film.txt", b"a bright square")])
    )
    run(config_of(tmp_path / "shards", tmp_path / "tarred", **fields))
    assert [dataset.read(r)["mp4"] for r in range(2)] == [
        Dataset(tmp_path / "tarred").read(r)["mp4"] for r in range(2)
    ]


def test_a_short_rest_of_a_video_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "film.mp4").write_bytes(encoded(clip(24), **REGULAR))
    fields = {"clips": ClipConfig(length_s=1), "filters": FilterConfig(min_seconds=1)}
    run(config_of(folder, tmp_path / "out", **fields))
    assert left_out(tmp_path / "out") == {"film.mp4#t=2.5,3": ("lasts less than 1 s", "")}
    assert len(packed(tmp_path / "out")) == 2


def test_clips_that_keyframes_make_longer_than_asked_for_are_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One that has one keyframe stays whole, and one that has two becomes two."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, between in (("whole", "100"), ("halved", "20")):
        settings = {**REGULAR, "g": between}
        (folder / f"{name}.mp4").write_bytes(encoded(clip(40), **settings))
    run(config_of(folder, tmp_path / "out", clips=ClipConfig(length_s=1)))
    assert len(packed(tmp_path / "out")) == 3
    said = capfd.readouterr().err
    assert "cut: 1 video into 2 clips of 2.5 to 2.5 s" in said
    assert "warning: 3 clips of more than twice clips.length_s=1, up to 5 s: packets are copied" in said
    run(config_of(folder, tmp_path / "more", clips=ClipConfig(length_s=3)))
    assert "warning" not in capfd.readouterr().err


def test_frames_that_no_clip_can_have_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    frames = np.concatenate([clip(24), np.full((24, 32, 48, 3), 200, np.uint8)])  # a new scene at frame 24
    (folder / "film.mp4").write_bytes(encoded(frames, **REGULAR))
    run(config_of(folder, tmp_path / "out", clips=ClipConfig(scenes=True)))
    reason = ("frames before the first keyframe of a scene", "6 frames")  # that is frame 30
    assert left_out(tmp_path / "out") == {"film.mp4": reason}
    assert packed(tmp_path / "out") == ["film.mp4#t=0,3", "film.mp4#t=3.75,6"]


def test_unusable_files_are_set_aside_and_count(source: Path, tmp_path: Path) -> None:
    (source / "broken.png").write_bytes(b"x" * 100)
    with pytest.raises(WorkError, match=r"1 of .* broken.png: decode: not a JPEG"):
        run(config_of(source, tmp_path / "out", filters=FILTERS, quarantine_budget=0))
    run(config_of(source, tmp_path / "more", filters=FILTERS, quarantine_budget=1))
    assert "broken.png" not in left_out(tmp_path / "more")
    assert '"broken.png"' in (tmp_path / "more/quarantine.jsonl").read_text()


def test_nothing_left_is_told(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing is left of 12 files: .*shorter side below 5000 pixels"):
        run(config_of(source, tmp_path / "out", filters=FilterConfig(min_side=5000)))


ALL = {"filters": FILTERS, "duplicates": DuplicateConfig(exact=True, near=4), "clips": ClipConfig(length_s=1)}


@pytest.fixture
def armed() -> Iterator[None]:
    yield
    failpoints.arm("")


@pytest.mark.usefixtures("armed")
@pytest.mark.parametrize("place", ["survey.note", "shard.publish", "shard.manifest"])
def test_a_disturbed_job_ends_with_the_same_bytes(source: Path, tmp_path: Path, place: str) -> None:
    failpoints.arm(f"{place}:enospc")
    with pytest.raises(WorkError, match="No space left"):
        run(config_of(source, tmp_path / "out", **ALL))
    failpoints.arm("")
    run(config_of(source, tmp_path / "out", **ALL))
    run(config_of(source, tmp_path / "undisturbed", **ALL))
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


@pytest.mark.full
@pytest.mark.multiprocess
def test_several_processes_choose_the_same(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.raw.survey.CHUNK", 4)
    run(config_of(source, tmp_path / "many", processes=2, **ALL))
    run(config_of(source, tmp_path / "one", **ALL))
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


def test_without_such_fields_no_file_is_read_twice(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(config_of(source, tmp_path / "out"))
    assert "look:" not in capsys.readouterr().err
    assert not (tmp_path / "out/left_out.jsonl").exists()
    assert len(packed(tmp_path / "out")) == 12
