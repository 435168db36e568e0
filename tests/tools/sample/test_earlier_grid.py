"""Samples of an earlier version with another default grid: not continued, and made again as they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.diffusion.sampling import SamplerConfig
from core.diffusion.solvers.kinds import SolverName
from core.errors import UserError
from core.files import sealed, write_json
from tests.tools.made_runs import make_run
from tools.sample import job as sample
from tools.sample.config import FilesConfig


def config(folder: Path, **fields: object) -> sample.Config:
    usual = {
        "sampler": SamplerConfig(solver="unipc_3", steps=12),
        "count": 1,
        "files": FilesConfig(kind="png"),
    }
    return sample.Config(source=str(folder.parent / "run"), output=str(folder), **{**usual, **fields})  # type: ignore[arg-type]


def test_the_default_grid_of_an_earlier_version_is_kept_by_what_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "run", monkeypatch, path="ddpm_linear", prediction="noise")
    now = config(tmp_path / "now")
    sample.run(now)
    row = f"{tmp_path / 'now' / 'samples.jsonl'}[0]"
    made_from = tmp_path / "now" / "made_from.json"
    record = json.loads(made_from.read_text())
    assert record.pop("auto_grid") == "optimised"
    assert sample.Config.implied({"again": row})["sampler"]["grid"] == "auto"
    record.pop("sha256")
    write_json(made_from, sealed(record))
    assert sample.Config.implied({"again": row})["sampler"]["grid"] == "straight"
    (tmp_path / "now" / "samples.json").unlink()
    with pytest.raises(UserError, match=r"begun by an earlier version, whose sampler\.grid=auto was another"):
        sample.run(now)


@pytest.mark.parametrize(
    ("path", "prediction", "solver", "grid"),
    [
        ("edm", "edm", "ddim", "straight"),
        ("rectified_flow", "flow", "heun", "cosine"),
        ("ddpm_linear", "v", "ddpm", "trailing"),
    ],
)
def test_samples_of_other_solvers_and_paths_are_made_again_on_even_times(
    path: str, prediction: str, solver: SolverName, grid: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "run", monkeypatch, path=path, prediction=prediction)
    now = config(tmp_path / "now", sampler=SamplerConfig(solver=solver, steps=4))
    sample.run(now)
    made_from = tmp_path / "now" / "made_from.json"
    record = json.loads(made_from.read_text())
    assert record.pop("auto_grid") == grid
    record.pop("sha256")
    write_json(made_from, sealed(record))
    again = sample.Config.implied({"again": f"{tmp_path / 'now' / 'samples.jsonl'}[0]"})
    assert again["sampler"]["grid"] == "even"
    (tmp_path / "now" / "samples.json").unlink()
    with pytest.raises(UserError, match=r"begun by an earlier version, whose sampler\.grid=auto was another"):
        sample.run(now)


@pytest.mark.parametrize("sampler", [SamplerConfig(steps=2), SamplerConfig(solver="unipc_3", steps=9)])
def test_others_are_recorded_as_they_were(
    sampler: SamplerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "run", monkeypatch, path="ddpm_linear", prediction="v")
    sample.run(config(tmp_path / "out", sampler=sampler))
    assert "auto_grid" not in json.loads((tmp_path / "out" / "made_from.json").read_text())


def test_a_recorded_grid_that_is_no_longer_the_default_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "run", monkeypatch, path="ddpm_linear", prediction="v")
    now = config(tmp_path / "now", sampler=SamplerConfig(solver="sde_dpmpp_2m", steps=40))
    sample.run(now)
    row, made_from = f"{tmp_path / 'now' / 'samples.jsonl'}[0]", tmp_path / "now" / "made_from.json"
    record = json.loads(made_from.read_text())
    assert record["auto_grid"] == "optimised"
    assert sample.Config.implied({"again": row})["sampler"]["grid"] == "auto"
    record["auto_grid"] = "straight"
    record.pop("sha256")
    write_json(made_from, sealed(record))
    assert sample.Config.implied({"again": row})["sampler"]["grid"] == "straight"
