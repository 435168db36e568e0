"""Runs on paths with parameters: what a run was trained with is what its samples are made with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.diffusion.paths.chain import betas
from core.diffusion.paths.kinds import make_path
from core.files import sealed
from tests.integration.tiny_run import command, finish, rows
from tools.runs.loaded_run import LatentSpace

pytestmark = [pytest.mark.multiprocess, pytest.mark.full]


def sampled(run: Path, *fields: str) -> str:
    status, said = finish([*command(run, run)[:3], "sample", str(run), *fields, "count=2", "device=cpu"])
    assert status == 0, said
    return said


def test_a_run_keeps_the_rates_that_it_was_begun_with(cache: Path, tmp_path: Path) -> None:
    file, run = tmp_path / "rates.txt", tmp_path / "run"
    rates = betas("ddpm_linear", 200).tolist()
    file.write_text("\n".join(map(repr, rates)))
    words = command(cache, run, "objective.path=ddpm_file", f"objective.schedule.betas={file}")
    words += ["objective.prediction=v", "trainer.steps=2", "trainer.save_every=1"]
    status, said = finish(words, LONGTAKE_FAULT="step.end@step=2:kill")
    assert status == -9, said
    file.write_text("\n".join(["0.5", *map(repr, rates[1:])]))
    status, said = finish(words)
    assert (status, "objective.schedule.betas" in said) == (2, True), said
    file.unlink()
    status, said = finish(words)
    assert status == 0, said
    assert len(rows(run)) == 2
    path = make_path(LatentSpace.read(run).path)
    assert path.num_steps == 200
    sampled(run, f"output={tmp_path / 'samples'}", "sampler.steps=200")
    status, said = finish(
        [*words[:3], "sample", str(run), f"output={tmp_path / 'more'}", "sampler.steps=201", "device=cpu"]
    )
    assert (status, "at most 200 on ddpm_file" in said) == (2, True), said


def test_a_run_on_the_path_of_edm_is_sampled_from_its_noise(cache: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = command(cache, run, "objective.path=edm", "objective.prediction=edm", "trainer.steps=3")
    words += ["objective.schedule.sigma_max=40", "objective.weighting=edm", "objective.timesteps.kind=edm"]
    status, said = finish(words)
    assert status == 0, said
    assert all(0.1 < float(str(row["loss"])) < 10 for row in rows(run))
    assert json.loads((run / "latents.json").read_text())["schedule"]["sigma_max"] == 40
    said = sampled(run, f"output={tmp_path / 'samples'}", "sampler.solver=heun", "sampler.steps=4")
    made = json.loads((tmp_path / "samples" / "made_from.json").read_text())
    assert made["latents"]["schedule"] == {"sigma_min": 0.002, "sigma_max": 40.0}
    del made["latents"]["schedule"]  # as an earlier version wrote it, of another path
    made["latents"]["path"] = "rectified_flow"
    (tmp_path / "samples" / "made_from.json").write_text(json.dumps(sealed(made)))
    status, said = finish([*words[:3], "sample", str(run), f"output={tmp_path / 'samples'}", "count=2"])
    assert status == 2, said


def test_a_density_fitted_to_a_run_is_kept_by_the_next_one(cache: Path, tmp_path: Path) -> None:
    first, run, file = tmp_path / "first", tmp_path / "run", tmp_path / "times.txt"
    status, said = finish(command(cache, first, "trainer.steps=60"))
    assert status == 0, said
    inspect = [*command(cache, first)[:3], "inspect", str(first), f"times={file}"]
    status, said = finish(inspect)
    assert (status, "density of times, by the mean loss" in said) == (0, True), said
    kept = file.read_text()
    assert len(kept.split()) == 10
    words = command(cache, run, "objective.timesteps.kind=file", f"objective.timesteps.density={file}")
    words += ["trainer.steps=2", "trainer.save_every=1"]
    status, said = finish(words, LONGTAKE_FAULT="step.end@step=2:kill")
    assert status == -9, said
    assert json.loads((run / "latents.json").read_text())["times"] == list(map(float, kept.split()))
    file.write_text("1\n2\n")
    status, said = finish(words)
    assert (status, "objective.timesteps.density" in said) == (2, True), said
    file.unlink()
    status, said = finish(words)
    assert status == 0, said
    assert len(rows(run)) == 2
    status, said = finish([*inspect[:4], str(cache), f"times={file}"])
    assert (status, "times=" in said) == (2, True), said
