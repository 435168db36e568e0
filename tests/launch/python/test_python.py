"""`import longtake`: the same samples, latents and jobs as on the command line."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import longtake
from core.checkpoint import exported
from core.errors import UserError
from core.root import ROOT
from launch.python.doing import words_of
from models.denoisers.dit import DiT
from tests import varied_digits
from tests.fresh_python import imported_by
from tests.tools.made_runs import MODEL, make_run
from tools.runs.samples import Samples

SETTINGS = {"count": 4, "batch": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "exported"
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        make_run(folder, patch)
        torch.manual_seed(1)
        weights = {name: 0.2 * torch.randn(tensor.shape) for name, tensor in DiT(MODEL).state_dict().items()}
    record = {"checkpoint": "step-00000007.0", "weights": "ema", "average": "ema", "dtype": "fp32"}
    exported.finish(folder, weights, {**record, "step": 7, "updates": 7, "trained": []})
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    varied_digits.main(folder, 40, held_out=8)
    return folder


def test_samples_are_those_of_the_command_line(run: Path, tmp_path: Path) -> None:
    words = ["sample", str(run), f"output={tmp_path / 'typed'}", "sampler.steps=2"]
    words += [f"{name}={value}" for name, value in SETTINGS.items()]
    subprocess.run([sys.executable, "-m", "launch", *words], cwd=ROOT, check=True, capture_output=True)
    pixels, labels = Samples.read(tmp_path / "typed").load()
    opened = longtake.open_run(run)
    assert opened.space.classes == ("cat", "dog", "eel")
    for output in ("", tmp_path / "kept"):
        found = opened.sample(output, sampler={"steps": 2}, **SETTINGS)
        assert np.array_equal(found.pixels, pixels)
        assert np.array_equal(found.labels, labels)
        assert found.record["count"] == 4
    assert (tmp_path / "kept" / "samples.json").is_file()


def test_a_cache_is_a_dataset(cache: Path) -> None:
    stored = longtake.open_cache(cache / "train", normalise=False)
    assert len(stored) == 40
    latents = torch.stack([sample["latent"] for sample in stored])  # type: ignore[attr-defined]
    assert latents.shape == (40, 4, 1, 8, 8)
    normal = longtake.open_cache(cache / "train")
    scaled = torch.stack([normal[number]["latent"] for number in range(40)])
    assert scaled.mean((0, 2, 3, 4)).abs().max() < 1e-3
    assert (scaled.std((0, 2, 3, 4)) - 1).abs().max() < 2e-2
    assert torch.equal(normal[-1]["latent"], scaled[39])
    assert {normal[number]["label"] for number in range(40)} <= set(range(10))
    with pytest.raises(IndexError, match="sample 40 of 40"):
        normal[40]
    again = pickle.loads(pickle.dumps(normal))
    assert torch.equal(again[7]["latent"], scaled[7])
    loader = torch.utils.data.DataLoader(normal, batch_size=10, num_workers=1)
    assert torch.equal(torch.cat([batch["latent"] for batch in loader]), scaled)


def test_what_is_no_cache_is_refused_by_name(run: Path) -> None:
    with pytest.raises(longtake.UserError):
        longtake.open_cache(run)
    with pytest.raises(longtake.UserError, match="no such job; the nearest is sample"):
        longtake.do("samples")
    with pytest.raises(UserError, match=r"sampler\.step: no such field"):
        longtake.open_run(run).sample(sampler={"step": 2})


def test_settings_are_those_of_the_command_line() -> None:
    fields = {"a": {"b": 1, "c": [1, "x"]}, "d": True, "e": None, "f": "text, as it is", "g": Path("x/y")}
    expected = ["a.b=1", 'a.c=[1, "x"]', "d=true", "e=null", "f=text, as it is", "g=x/y"]
    assert list(words_of(fields)) == expected


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    modules, _ = imported_by("import longtake")
    assert modules & {"torch", "numpy", "deepspeed"} == set()


def test_a_foreign_package_is_named_at_import(tmp_path: Path) -> None:
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "__init__.py").write_text("raise SystemExit('the foreign core was imported')")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; import longtake"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "the package `core` must be" in done.stderr
    assert "was imported" not in done.stderr
