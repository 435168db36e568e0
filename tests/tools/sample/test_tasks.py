"""Samples that go on from pictures and clips, keep parts of them, or lie between. Run: pytest FILE"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from core.config.loading import load
from core.diffusion.sampling import SamplerConfig
from core.errors import UserError
from core.files import write_text
from core.records import read_rows
from data.media.film.codecs import encode_film
from data.media.images import decode_image, decode_video, encode_png, to_tensor
from tests.tools.made_runs import make_run
from tools.runs.loaded_run import open_run
from tools.sample import job as sample
from tools.sample.config import FilesConfig
from tools.sample.given import input_files
from tools.sample.given.config import TaskConfig
from tools.sample.given.known import Keeper

SIZE, FRAMES = 16, 9


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_run(tmp_path / "run", monkeypatch)


def picture(path: Path, size: int = SIZE, seed: int = 0) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    path.write_bytes(encode_png(pixels))
    return str(path)


def film(path: Path, frames: int) -> str:
    pixels = np.random.default_rng(1).integers(0, 256, (frames, SIZE, SIZE, 3), np.uint8)
    path.write_bytes(encode_film(pixels, 12.0, "ffv1", None))
    return str(path)


def mask(path: Path, made: slice, size: int = SIZE) -> str:
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[:, made] = 255
    path.write_bytes(encode_png(pixels))
    return str(path)


def make(run: Path, name: str, task: TaskConfig | None = None, **fields: Any) -> list[np.ndarray]:
    """Make samples in files, and read them back."""
    is_clip = fields.get("frames", 1) > 1
    known = {
        "count": 2,
        "sampler": SamplerConfig(steps=2),
        "files": FilesConfig(kind="ffv1" if is_clip else "png"),
    }
    more = {**known, "task": task or TaskConfig(), **fields}
    sample.run(sample.Config(source=str(run), output=str(run.parent / name), device="cpu", **more))
    decode = decode_video if is_clip else decode_image
    files = [row["file"] for row in read_rows(run.parent / name / "samples.jsonl")]
    return [decode((run.parent / name / file).read_bytes()) for file in files]


def roundtrip(run: Path, pixels: np.ndarray) -> np.ndarray:
    """Return what the autoencoder gives back of frames (T, H, W, 3)."""
    from data.media.images import from_tensor, to_tensor
    from models.autoencoder.opening import open_autoencoder

    autoencoder = open_autoencoder(run / "autoencoder")
    with torch.no_grad():
        return from_tensor(autoencoder.decode(autoencoder.encode(to_tensor(pixels)[None])[:, 0]))[0]


def test_a_clip_begins_with_its_picture(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = picture(tmp_path / "first.png")
    found = make(run, "i2v", TaskConfig(given=first), frames=FRAMES)
    expected = roundtrip(run, decode_image(Path(first).read_bytes())[None])[0].astype(int)
    for clip in found:
        assert np.abs(clip[0].astype(int) - expected).max() <= 1
    assert "kept by replacement guidance" in capfd.readouterr().err


def test_a_clip_goes_on_from_another_and_ends_with_a_picture(run: Path, tmp_path: Path) -> None:
    start = TaskConfig(given=film(tmp_path / "start.mkv", 5), given_last=picture(tmp_path / "last.png"))
    size: dict[str, Any] = {"frames": FRAMES + 4, "height": SIZE, "width": SIZE}
    latents = FilesConfig(kind="ffv1", latents=True)
    one, _ = make(run, "continued", start, files=latents, **size)
    free = make(run, "free", **size)
    found = [load_file(run.parent / "continued" / f"{n:06d}.safetensors")["latents"] for n in (0, 1)]
    apart = (found[0] - found[1]).abs().amax((0, 2, 3)).tolist()  # by latent frame, the last one a picture's
    assert max(apart[0], apart[1], apart[3]) < 1e-4 < apart[2]
    assert np.abs(one.astype(int) - free[0]).max() > 10


def test_a_clip_ends_as_a_film_does(run: Path, tmp_path: Path) -> None:
    """Four frames fill the last latent frame: that of a clip ending with them; a still is another."""
    trained = open_run(run, "", "ema", torch.device("cpu"))
    keeper, place = Keeper.of(trained, run), Path(film(tmp_path / "last.mkv", 4))
    moving = decode_video(place.read_bytes())
    clip = to_tensor(np.concatenate([np.repeat(moving[:1], 5, 0), moving]))[None]
    with torch.no_grad():
        wanted = trained.space.normaliser.apply(trained.autoencoder.encode(clip)[:, 0])[0]
    for task in (TaskConfig(given_last=str(place)), TaskConfig(given_last=picture(tmp_path / "p.png"))):
        found = keeper.known(task, (FRAMES, SIZE, SIZE))
        assert found is not None
        assert found.kept is not None
        assert found.kept[0, :, 0, 0].tolist() == [0, 0, 1]
        assert torch.allclose(found.latents[:, -1], wanted[:, -1]) == (task.given_last == str(place))
    assert make(run, "ends", TaskConfig(given_last=str(place)), frames=FRAMES)[0].shape[0] == FRAMES


def test_a_last_film_of_one_frame_is_a_picture(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    still = TaskConfig(given_last=picture(tmp_path / "p.png"))
    pixels = decode_image((tmp_path / "p.png").read_bytes())[None]
    (tmp_path / "one.mkv").write_bytes(encode_film(pixels, 12.0, "ffv1", None))
    one = TaskConfig(given_last=str(tmp_path / "one.mkv"))
    keeper = Keeper.of(open_run(run, "", "ema", torch.device("cpu")), run)
    known = [keeper.known(task, (FRAMES, SIZE, SIZE)) for task in (still, one)]
    assert known[0] is not None
    assert known[1] is not None
    assert torch.equal(known[0].latents, known[1].latents)
    monkeypatch.setattr(Keeper, "is_condition", lambda self, task: True)
    assert keeper.notes(one) == keeper.notes(still)
    assert "stands still" in keeper.notes(one)[0]
    assert "stands still" not in "".join(keeper.notes(TaskConfig(given_last=film(tmp_path / "f.mkv", 4))))


def test_films_are_decoded_once_however_many_batches_they_are_given_to(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, encoded = list[int](), list[int]()

    def decode(data: bytes) -> np.ndarray:
        decoded.append(len(data))
        return decode_video(data)

    def known(self: Keeper, task: TaskConfig, pixels: tuple[int, int, int]) -> Any:
        encoded.append(1)
        return plain(self, task, pixels)

    plain = Keeper.known
    monkeypatch.setattr(input_files, "decode_video", decode)
    monkeypatch.setattr(Keeper, "known", known)
    monkeypatch.setattr(Keeper, "notes", Keeper._unlike_training)  # whether the last film moves
    ends = TaskConfig(given=film(tmp_path / "first.mkv", 1), given_last=film(tmp_path / "last.mkv", 4))
    assert len(make(run, "ends", ends, frames=FRAMES, count=3, batch=1)) == 3
    assert (len(decoded), len(encoded)) == (2, 1)


def test_a_sample_is_not_made_again_from_another_picture_or_of_other_weights(
    run: Path, tmp_path: Path
) -> None:
    start = TaskConfig(image=picture(tmp_path / "p.png"), start_time=0.5)
    first = make(run, "first", start)
    rows = tmp_path / "first/samples.jsonl"

    def again(row: int = 1) -> sample.Config:
        words = [f"again={rows}[{row}]", f"output={tmp_path / 'again'}", "device=cpu"]
        return load(sample.Config, overrides=words)

    sample.run(again())
    assert np.array_equal(decode_image((tmp_path / "again/000000.png").read_bytes()), first[1])
    with pytest.raises(UserError, match=r"again=.*\[2\]: expected a row from 0 to 1"):
        again(2)
    manifest = run / "checkpoints/step-00000007.0/manifest.json"
    kept = manifest.read_text()
    manifest.write_text('{"number": 2}')
    with pytest.raises(UserError, match=r"again=.*with manifest \w{12}, as then; now it is \w{12}"):
        again()
    manifest.write_text(kept)
    picture(tmp_path / "p.png", seed=3)
    with pytest.raises(UserError, match=r"again=.*p\.png with SHA-256 \w{12}, as then; now it is \w{12}"):
        again()


def test_frames_between_given_ones_are_made(run: Path, tmp_path: Path) -> None:
    every = TaskConfig(given=film(tmp_path / "all.mkv", FRAMES), given_every=2)
    one, other = make(run, "every", every, frames=FRAMES)
    assert np.abs(one[0].astype(int) - other[0]).max() <= 1
    assert np.abs(one[1:5].astype(int) - other[1:5]).max() > 5


def test_a_mask_keeps_what_is_black(run: Path, tmp_path: Path) -> None:
    original, half = picture(tmp_path / "p.png"), mask(tmp_path / "m.png", slice(8, 16))
    one, other = make(run, "inpainted", TaskConfig(image=original, mask=half))
    assert one.shape == (SIZE, SIZE, 3)
    difference = np.abs(one.astype(int) - other)
    assert difference[:, 8:].max() > max(5, difference[:, :2].max())


def test_a_start_from_a_picture_stays_near_it_when_late(run: Path, tmp_path: Path) -> None:
    original = picture(tmp_path / "p.png")
    near = make(run, "near", TaskConfig(image=original, start_time=0.01))[0]
    far = make(run, "far", TaskConfig(image=original, start_time=0.9))[0]
    kept = roundtrip(run, decode_image(Path(original).read_bytes())[None])[0].astype(int)
    assert np.abs(near - kept).mean() < np.abs(far - kept).mean()


def test_samples_between_two_noises_end_at_both(run: Path) -> None:
    classes: dict[str, Any] = {"classes": ("cat",)}
    found = make(run, "between", TaskConfig(to_number=1), count=5, **classes)
    ends = make(run, "ends", count=2, **classes)
    assert np.abs(found[0].astype(int) - ends[0]).max() <= 1
    assert np.abs(found[4].astype(int) - ends[1]).max() <= 1
    assert (run.parent / "between" / "between-0.png").is_file()
    assert (run.parent / "between" / "between-0.mp4").is_file()


def test_a_row_of_the_list_makes_a_sample_of_a_task_again(run: Path, tmp_path: Path) -> None:
    original = picture(tmp_path / "p.png")
    text = f"class,image,start_time,to_number,count\ncat,,,4,3\ndog,{original},0.5,,1\n"
    write_text(tmp_path / "r.csv", text)
    made = make(run, "rows", count=100, requests=str(tmp_path / "r.csv"))
    assert len(made) == 4
    for number in (1, 3):
        row = f"{run.parent / 'rows' / 'samples.jsonl'}[{number}]"
        again = make(run, f"again-{number}", count=100, requests=row)
        assert np.abs(again[0].astype(int) - made[number]).max() <= 1


def test_a_sample_is_made_again_by_the_settings_of_its_job(run: Path) -> None:
    made = make(run, "first", seed=9, weights="raw", sampler=SamplerConfig(steps=3, eta=0.5, solver="ddim"))
    row = f"{run.parent / 'first' / 'samples.jsonl'}[1]"
    config = load(sample.Config, overrides=[f"again={row}", f"output={run.parent / 'again'}", "device=cpu"])
    sample.run(config)
    found = decode_image((run.parent / "again" / "000000.png").read_bytes())
    assert np.abs(found.astype(int) - made[1]).max() <= 1


@pytest.mark.parametrize("row", ["{}/samples.jsonl", "{}/other.jsonl[0]", "{}/none/samples.jsonl[0]"])
def test_what_cannot_be_made_again_is_refused(run: Path, row: str) -> None:
    with pytest.raises(UserError, match=r"again=.*FOLDER/samples\.jsonl\[N\], row N"):
        load(sample.Config, overrides=[f"again={row.format(run)}", "output=out"])


def test_long_clips_are_made_of_windows(run: Path) -> None:
    task = TaskConfig(window=FRAMES, overlap=5)
    found = make(run, "long", task, frames=33, height=SIZE, width=SIZE)
    assert found[0].shape == (33, SIZE, SIZE, 3)


@pytest.mark.parametrize("frames", [1, FRAMES])
def test_how_samples_come_about_is_drawn(run: Path, frames: int) -> None:
    make(run, f"drawn-{frames}", frames=frames, trajectory=True, count=3, sampler=SamplerConfig(steps=20))
    drawn = decode_image((run.parent / f"drawn-{frames}" / "trajectory.png").read_bytes())
    assert drawn.shape[0] > 6 * 64
    assert drawn.shape[1] > 12 * 64


def test_another_file_of_the_same_name_is_refused(run: Path, tmp_path: Path) -> None:
    first = picture(tmp_path / "first.png")
    make(run, "moved", TaskConfig(given=first), frames=FRAMES)
    picture(tmp_path / "first.png", seed=5)
    with pytest.raises(UserError, match="was begun with"):
        make(run, "moved", TaskConfig(given=first), frames=FRAMES)


@pytest.mark.parametrize(
    ("task", "fields", "expected"),
    [
        ({"given": "first.png"}, {}, r"first\.png: expected '' with frames=1: clips alone are given frames"),
        (
            {"given": "small.png"},
            {"frames": 9},
            r"16 x 16 pixels, as the samples; this one has 8 x 8",
        ),
        (
            {"given": "three.mkv"},
            {"frames": 9},
            r"task\.given=.*fill whole latent frames, not 3 \(",
        ),
        ({"given": "nine.mkv"}, {"frames": 9}, r"task\.given=.*fewer frames than the samples' 9, not 9"),
        ({"given": "gone.png"}, {"frames": 9}, r"task\.given=.*a picture or film"),
        (
            {"given_last": "three.mkv"},
            {"frames": 9},
            r"task\.given_last=.*a picture, or frames that fill whole latent frames at the end, not 3",
        ),
        (
            {"given": "three.mkv", "given_last": "eight.mkv"},
            {"frames": 9},
            r"task\.given=.*fill whole latent frames, not 3",
        ),
        (
            {"given": "first.png", "given_last": "eight.mkv"},
            {"frames": 9},
            r"task\.given_last=.*fewer frames than the 8 that are left, not 8",
        ),
        ({"given": "three.mkv", "given_every": 2}, {"frames": 9}, r"9 frames with given_every; it has 3"),
        ({"image": "first.png", "mask": "black.png"}, {}, r"task\.mask=.*white parts"),
        ({"image": "first.png", "mask": "white.png"}, {}, r"task\.mask=.*black parts, which are kept"),
        ({"image": "first.png", "mask": "small.png"}, {}, r"task\.mask=.*16 x 16 pixels"),
        ({"image": "small.png", "start_time": 0.5}, {}, r"task\.image=.*16 x 16 pixels"),
        (
            {"image": "first.png", "start_time": 0.5},
            {"frames": 9},
            r"9 frames, as the samples; it has 1",
        ),
        ({"image": "text.png", "start_time": 0.5}, {}, r"task\.image=.*that can be read"),
        ({"window": 8}, {"frames": 9}, r"^task\.window=8: expected 1 \+ k \* 4"),
        ({}, {"frames": 8}, r"^frames=8: expected 1 \+ k \* 4"),
        ({}, {"height": 18}, r"^height=18: expected a multiple of"),
    ],
)
def test_bad_input_is_one_clear_line(
    run: Path, tmp_path: Path, task: dict[str, Any], fields: dict[str, Any], expected: str
) -> None:
    picture(tmp_path / "first.png")
    picture(tmp_path / "small.png", 8)
    mask(tmp_path / "black.png", slice(0, 0))
    mask(tmp_path / "white.png", slice(0, 16))
    film(tmp_path / "three.mkv", 3)
    film(tmp_path / "eight.mkv", 8)
    film(tmp_path / "nine.mkv", 9)
    write_text(tmp_path / "text.png", "no picture")
    there = {k: str(tmp_path / v) if isinstance(v, str) else v for k, v in task.items()}
    with pytest.raises(UserError, match=expected) as error:
        make(run, "bad", TaskConfig(**there), **fields)
    assert "\n" not in str(error.value)
    assert not (run.parent / "bad" / "samples.json").exists()


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ({"mask": "m.png"}, "image=''"),
        ({"image": "p.png"}, "without mask and start_time"),
        ({"image": "p.png", "start_time": 0.5, "given": "x.png"}, "beside given frames"),
        ({"given_every": 2}, "given_every=2"),
        ({"toward": 0.5}, "toward=0.5"),
        ({"window": 9, "overlap": 9}, "overlap=9"),
        ({"image": "p.png", "start_time": 0.0}, "start_time=0"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(task: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        TaskConfig(**task)


def test_parts_are_kept_by_projection_if_asked(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The mask of a picture, and the first frame of a clip; made parts differ from those of replacement."""
    original, half = picture(tmp_path / "p.png"), mask(tmp_path / "m.png", slice(8, 16))
    inpainting: dict[str, Any] = {"image": original, "mask": half}
    projected = make(run, "projected", TaskConfig(**inpainting, keep="projection"))
    replaced = make(run, "replaced", TaskConfig(**inpainting))
    assert not np.array_equal(projected[0], replaced[0])
    clip = make(run, "clip", TaskConfig(given=original, keep="projection"), frames=FRAMES)[0]
    expected = roundtrip(run, decode_image(Path(original).read_bytes())[None])[0].astype(int)
    assert np.abs(clip[0].astype(int) - expected).max() <= 1
    said = capfd.readouterr().err
    assert "what the mask leaves black is kept by projection guidance" in said
    assert "frames given at the start: they are kept by projection guidance" in said


def test_projection_refuses_levels_of_single_samples(run: Path, tmp_path: Path) -> None:
    task = TaskConfig(given=picture(tmp_path / "p.png"), keep="projection")
    with pytest.raises(UserError, match="keep=projection: expected replacement with an adaptive solver"):
        make(run, "bad", task, frames=FRAMES, sampler=SamplerConfig(solver="dopri5"))
    with pytest.raises(UserError, match="keep=projection: expected replacement without given frames"):
        TaskConfig(keep="projection")
