"""Previews within a training job. Run: pytest tests/integration/test_previews.py"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.config.loading import load
from core.errors import UserError
from core.files import sha256_file
from core.records import read_rows
from data.media.images import decode_image
from tests.integration.look_runs import FIELDS, assert_equal, break_off, config
from tests.integration.tiny_run import (
    command,
    finish_ranks,
    make_autoencoder,
    make_latents,
)
from tests.tools.sample.sample_runs import content
from tools.sample import job as sample
from tools.train.job import run

PREVIEW = (
    "preview.every=2",
    "preview.count=5",
    "preview.batch=2",
    "preview.sampler.steps=2",
    "preview.sampler.guidance=2",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    make_autoencoder(folder / "autoencoder")
    return make_latents(folder / "latents", folder / "autoencoder")


@pytest.fixture(scope="module")
def plain(cache: Path) -> Path:
    """Train without previews."""
    run(config(cache, cache.parent / "plain"))
    return cache.parent / "plain"


@pytest.fixture(scope="module")
def previewed(cache: Path) -> Path:
    run(config(cache, cache.parent / "previewed", *PREVIEW))
    return cache.parent / "previewed"


def test_a_run_previews_its_averages_and_trains_as_without(plain: Path, previewed: Path) -> None:
    assert_equal(plain, previewed)
    found = read_rows(previewed / "previews.jsonl")
    assert [row["step"] for row in found] == [2, 4]
    assert {*found[0]} - {"step", "attempt"} == {"0.9999", "0.05"}
    for row in found:
        for part in (row["0.9999"], row["0.05"]):
            assert len(part["files"]) == 5
            assert all((previewed / name).is_file() for name in [part["overview"], *part["files"]])
            assert f"step-{row['step']:08d}" in part["overview"]
    pictures = [previewed / row[name]["overview"] for row in found for name in ("0.9999", "0.05")]
    assert len({sha256_file(picture) for picture in pictures}) == 4


def test_previews_are_what_sample_makes_of_the_checkpoint(previewed: Path, tmp_path: Path) -> None:
    fields = ("count=5", "files.kind=png", "sampler.steps=2", "sampler.guidance=2", "device=cpu", "batch=2")
    made = tmp_path / "samples"
    sample.run(load(sample.Config, overrides=[f"source={previewed}", f"output={made}", *fields]))
    last = read_rows(previewed / "previews.jsonl")[-1]["0.9999"]["files"]
    for number, name in enumerate(last):
        pixels, expected = (
            decode_image(path.read_bytes()).astype(int)
            for path in (previewed / name, made / f"{number:06d}.png")
        )
        assert np.abs(pixels - expected).max() <= 1  # conditions take turns, and batches are padded


def test_what_an_early_end_breaks_off_is_made_up_for(
    cache: Path, plain: Path, previewed: Path, tmp_path: Path
) -> None:
    break_off(config(cache, tmp_path / "run", *PREVIEW))
    assert not (tmp_path / "run" / "previews.jsonl").exists()
    run(config(cache, tmp_path / "run", *PREVIEW))
    assert_equal(plain, tmp_path / "run")
    assert [row["step"] for row in read_rows(tmp_path / "run" / "previews.jsonl")] == [2, 4]
    assert content(tmp_path / "run" / "previews") == content(previewed / "previews")


@pytest.mark.parametrize("place", ["step.preview", "preview.batch"])
def test_a_run_that_is_killed_while_it_previews_goes_on(
    cache: Path, plain: Path, previewed: Path, tmp_path: Path, place: str
) -> None:
    fields = (*FIELDS, *PREVIEW)
    results = finish_ranks(1, command(cache, tmp_path / "run", *fields), LONGTAKE_FAULT=f"{place}:kill")
    assert [status for status, _ in results] == [-9], results
    run(config(cache, tmp_path / "run", *PREVIEW))
    assert_equal(plain, tmp_path / "run")
    assert content(tmp_path / "run" / "previews") == content(previewed / "previews")


def test_two_ranks_that_share_weights_make_the_same_previews(
    cache: Path, previewed: Path, tmp_path: Path
) -> None:
    """Under ZeRO-3 a rank with fewer forward passes than the other would leave it waiting."""
    fields = (*FIELDS, *PREVIEW, "engine.zero_stage=3", "engine.timeout_s=60")
    results = finish_ranks(2, command(cache, tmp_path / "run", *fields))
    assert [status for status, _ in results] == [0, 0], results
    found, alone = (read_rows(folder / "previews.jsonl") for folder in (tmp_path / "run", previewed))
    assert [row["0.9999"]["files"] for row in found] == [row["0.9999"]["files"] for row in alone]


def test_a_preview_that_cannot_be_written_costs_the_preview_alone(
    cache: Path, plain: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tools.preview.preview_files.PreviewFiles.write", full)
        run(config(cache, tmp_path / "run", *PREVIEW))
    assert_equal(plain, tmp_path / "run")
    assert "No space left" in read_rows(tmp_path / "run" / "previews.jsonl")[0]["0.9999"]["failed"]
    assert "warning: no preview after step 2, and training continues: 0.9999:" in capfd.readouterr().err


def test_films_are_previewed_as_films(cache: Path, tmp_path: Path) -> None:
    clips = ("preview.every=4", "preview.count=2", "preview.frames=3", "preview.sampler.steps=2")
    run(config(cache, tmp_path / "run", *clips))
    part = read_rows(tmp_path / "run" / "previews.jsonl")[0]["0.9999"]
    assert [Path(name).suffix for name in part["files"]] == [".mp4", ".mp4"]
    assert (tmp_path / "run" / part["overview"]).is_file()


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("preview.classes=[none]", r"preview\.classes=none: expected classes of the run"),
        ("preview.sampler.solver=dopri5", r"preview\.sampler\.solver=dopri5: expected one of fixed steps"),
        ("preview.every=5", r"preview\.every=5: expected at most trainer\.steps=4"),
        ("preview.prompts=[x]", r"prompts=x: expected none, since the run was trained without text"),
        ("preview.height=3", r"preview\.height=3: expected a multiple of"),
        ("preview.frames=5", r"preview\.frames=5: expected one of the run.s latents .*, or height and width"),
    ],
)
def test_what_cannot_be_previewed_is_refused_before_the_first_step(
    cache: Path, tmp_path: Path, field: str, expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        run(config(cache, tmp_path / "run", *PREVIEW, field))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
