"""Sampling from a run folder: what comes out, from what, and that batches and interruptions do not matter."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from core.config.yaml_files import HEADER
from core.diffusion.sampling import SamplerConfig
from core.errors import UserError, WorkError
from data.media.images import decode_image, decode_video
from models.denoisers.dit import DiT
from models.precision import BATCH_TOLERANCE, Precision
from tests.tools.made_runs import MODEL, make_run
from tools.runs import loaded_run
from tools.runs.samples import Samples, find_samples
from tools.sample import batches
from tools.sample import job as sample
from tools.sample.config import FilesConfig

STEPS = SamplerConfig(steps=2, guidance=2.0)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_run(tmp_path / "run", monkeypatch)


def draw(run: Path, name: str, **fields: Any) -> tuple[np.ndarray, np.ndarray]:
    sample.run(config(run, name, **fields))
    return Samples.read(run.parent / name).load()


def config(run: Path, name: str, **fields: Any) -> sample.Config:
    more = {"count": 7, "batch": 7, "sampler": STEPS, **fields}
    return sample.Config(source=str(run), output=str(run.parent / name), **more)


def test_images_come_with_labels_a_grid_and_their_origin(run: Path) -> None:
    pixels, labels = draw(run, "images", seed=5)
    assert pixels.shape == (7, 16, 16, 3)
    assert pixels.dtype == np.uint8
    assert labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    folder = run.parent / "images"
    assert decode_image((folder / "images.png").read_bytes()).ndim == 3
    record = json.loads((folder / "samples.json").read_text())
    assert record["checkpoint"] == "step-00000007.0"
    assert (record["weights"], record["seed"], record["count"]) == ("ema", 5, 7)
    assert record["sampler"]["guidance"] == 2.0
    assert len(record["weights_sha256"]) == 64
    assert not (folder / "parts").exists()


def test_clips_come_as_video_and_contact_sheet(run: Path) -> None:
    pixels, _ = draw(run, "clips", frames=9, count=3)
    assert pixels.shape == (3, 9, 16, 16, 3)
    folder = run.parent / "clips"
    assert len(decode_video((folder / "clips.mp4").read_bytes())) == 9
    assert (folder / "contact.png").exists()
    assert not (folder / "images.png").exists()


def test_samples_do_not_depend_on_the_batch_or_on_what_else_is_asked_for(run: Path) -> None:
    whole, _ = draw(run, "whole")
    parts, _ = draw(run, "parts", batch=2)
    fewer, _ = draw(run, "fewer", count=3)
    for other in (parts, fewer):
        assert np.abs(whole[: len(other)].astype(int) - other).max() <= 1
    assert (whole[0] != whole[3]).mean() > 0.5  # of the same class


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_latents_are_those_of_other_batches_within_the_tolerance(run: Path, precision: Precision) -> None:
    found = []
    for batch in (64, 1, 3):
        more = {"precision": precision, "files": FilesConfig(kind="png", latents=True), "count": 64}
        sample.run(config(run, f"by-{batch}", batch=batch, **more))
        files = sorted((run.parent / f"by-{batch}").glob("*.safetensors"))
        found.append(torch.stack([load_file(file)["latents"] for file in files]).flatten(1))
    for other in found[1:]:
        apart = (other - found[0]).norm(dim=1) / found[0].norm(dim=1)
        assert apart.max() <= BATCH_TOLERANCE[precision]


def test_seed_class_and_weights_matter(run: Path) -> None:
    base, _ = draw(run, "base")
    for name, fields in {
        "seed": {"seed": 1},
        "class": {"classes": ("eel",)},
        "raw": {"weights": "raw"},
    }.items():
        other, _ = draw(run, name, **fields)
        assert (base[0] != other[0]).mean() > 0.1, name


def test_an_interrupted_job_makes_only_what_is_missing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = draw(run, "whole", batch=2)
    generate = batches.make_latents
    made: list[list[int]] = []

    def stop_at_third(maker: Any, shape: Any, numbers: Any, *rest: Any) -> Tensor:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(numbers.tolist())
        return generate(maker, shape, numbers, *rest)

    monkeypatch.setattr(batches, "make_latents", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        draw(run, "again", batch=2)
    assert made == [[0, 1], [2, 3]]
    assert not (run.parent / "again" / "samples.json").exists()
    monkeypatch.setattr(batches, "make_latents", lambda *a: made.append(a[2].tolist()) or generate(*a))
    again, _ = draw(run, "again", batch=2)
    assert made == [[0, 1], [2, 3], [4, 5], [6]]
    assert np.array_equal(whole, again)


def test_finished_samples_stay_as_they_are(run: Path) -> None:
    draw(run, "images")
    before = (run.parent / "images" / "samples.npz").stat().st_mtime_ns
    draw(run, "images")
    assert (run.parent / "images" / "samples.npz").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="seed=9: expected 0"):
        sample.run(config(run, "images", seed=9))


@pytest.mark.parametrize("wrong", [{"classes": ("none",)}, {"frames": 6}])
def test_a_mistake_costs_no_finished_samples_and_leaves_no_folder(run: Path, wrong: dict[str, Any]) -> None:
    draw(run, "images")
    before = (run.parent / "images" / "samples.npz").read_bytes()
    for name in ("images", "new"):
        with pytest.raises(UserError):
            sample.run(config(run, name, overwrite=True, **wrong))
    assert (run.parent / "images" / "samples.npz").read_bytes() == before
    assert not (run.parent / "new").exists()


def test_frames_that_the_run_has_not_seen_need_a_size(run: Path) -> None:
    with pytest.raises(UserError, match="frames=5: expected one of the run's latents"):
        sample.run(config(run, "clips", frames=5))
    with pytest.raises(UserError, match="frames=6: expected 1 \\+ k"):
        sample.run(config(run, "odd", frames=6))
    pixels, _ = draw(run, "sized", frames=5, height=16, width=24, count=1)
    assert pixels.shape == (1, 5, 16, 24, 3)


def test_a_size_that_the_patch_does_not_divide_is_refused_in_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", monkeypatch)
    text = (run / "config.yaml").read_text().replace("patch: [1, 1, 1]", "patch: [1, 2, 2]")
    (run / "config.yaml").write_text(text)
    state = DiT(replace(MODEL, patch=(1, 2, 2))).state_dict()
    monkeypatch.setattr(loaded_run, "load_weights", lambda *_: state)
    expected = r"1 x 24 x 16: expected a size whose latents, 1 x 3 x 2 here, model\.patch=\(1, 2, 2\) divides"
    with pytest.raises(UserError, match=rf"^frames, height, width={expected}; a latent is 8 x 8 pixels"):
        sample.run(config(run, "odd", height=24, width=16))


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected the folder of a training run \(with latents.json\)"):
        sample.run(config(tmp_path / "nothing", "out"))
    other = tmp_path / "autoencoder"
    other.mkdir()
    (other / "config.yaml").write_text(f"{HEADER}train-autoencoder\n")
    with pytest.raises(UserError, match=r"latents.json\); this is an output of train-autoencoder$"):
        sample.run(config(other, "out"))


def test_a_checkpoint_that_the_run_does_not_have_is_refused_before_any_work(run: Path) -> None:
    assert sample.plan(config(run, "out", checkpoint="step-00000007.0"))
    with pytest.raises(UserError, match=r"^checkpoint=step-8: expected one of step-00000007.0, which .*/run"):
        sample.plan(config(run, "out", checkpoint="step-8"))
    (run / "checkpoints" / "step-00000007.0" / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"^source=.*/run: expected a run that has saved a checkpoint$"):
        sample.plan(config(run, "out"))


def test_another_autoencoder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", monkeypatch, encoder="0123")
    with pytest.raises(WorkError, match="the run was trained with 0123"):
        sample.run(config(run, "out"))


def test_guidance_without_classes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", monkeypatch, classes=[])
    with pytest.raises(UserError, match="guidance"):
        sample.run(config(run, "guided"))
    _, labels = draw(run, "free", sampler=SamplerConfig(steps=1))
    assert labels.tolist() == [-1] * 7


def test_plan_and_search(run: Path) -> None:
    lines = sample.plan(config(run, "clips", frames=9))
    assert lines[0].startswith("7 samples from the ema weights of")
    assert "7 clips of 9 frames: 2 steps of euler, guidance 2" in lines[1]
    record = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(f"{record}objective: {{kind: consistency}}\n")
    lines = sample.plan(config(run, "clips", frames=9))
    (run / "config.yaml").write_text(record)
    assert "7 clips of 9 frames: 2 steps of renoise, guidance 2" in lines[1]
    draw(run, "found/images", count=2)
    assert [s.count for s in find_samples(run.parent / "found")] == [2]
    with pytest.raises(UserError, match="expected a folder of samples"):
        find_samples(run)
